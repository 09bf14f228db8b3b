"""The published numbers and claims beside the measured ones, with verdicts."""
