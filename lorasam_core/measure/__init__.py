"""What masks are worth."""
