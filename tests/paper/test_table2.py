"""Rows of Table II, and what is beside them, in words."""
