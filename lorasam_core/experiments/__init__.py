"""Runs, their records, and what is compared."""
