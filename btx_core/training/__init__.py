"""Training: branches, tuning, routers."""
