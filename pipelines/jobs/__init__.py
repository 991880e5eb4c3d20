"""What meets both sides: one module for each job, read from top to bottom."""
