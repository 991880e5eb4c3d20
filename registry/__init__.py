"""The registry: facts, their log, gates, reports and pages; it never reads a tensor."""
