"""From an image to masks."""
