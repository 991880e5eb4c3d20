"""Measuring: held-out text, tasks, overlap, attribution."""
