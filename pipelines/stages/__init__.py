"""What DVC runs, and who runs it."""
