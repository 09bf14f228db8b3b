"""The papers' protocols: every experiment with its tasks, networks and profiles."""
