"""Base learning rates that the papers leave open, measured with the baseline."""
