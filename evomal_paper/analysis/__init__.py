"""Analyses of learned losses: landscapes, transfer, learning rates, run-time, shapes and families."""
