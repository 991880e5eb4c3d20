"""The catalogue: database, rows, store, log, lineage, search and audit."""
