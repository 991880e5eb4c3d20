"""Governance: policies, gates, people and signatures."""
