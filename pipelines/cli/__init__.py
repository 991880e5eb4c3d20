"""The command line: one module for each group of commands, parsing and printing side by side."""
