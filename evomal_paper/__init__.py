"""The papers' experiments, data sets, analyses and figures, and the command `evomal`."""
