"""Demonstration and research; no part of the product."""
