"""Mixing experts into one model: the plan, its operations, the streams of bytes."""
