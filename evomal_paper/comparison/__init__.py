"""The published numbers and claims beside the measured ones: verdicts, tests, words, and the report."""
