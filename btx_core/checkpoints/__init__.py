"""Checkpoint folders: reading them safely, and the model families."""
