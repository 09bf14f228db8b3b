"""What is asked of learned losses: landscapes, transfer, learning rates, run-time, and what they are like."""
