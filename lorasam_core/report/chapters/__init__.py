"""What single chapters of the book compute and draw: records -> tables, sentences and charts."""
