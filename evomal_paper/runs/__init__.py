"""Runs: computing, storing, reading and verifying them."""
