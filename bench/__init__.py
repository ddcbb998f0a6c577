"""What is faster, by how much, and with which answers: `nox -s bench`."""
