"""Figures from tidy tables; nothing is computed here beyond means, medians and spreads of groups."""

from evomal_paper.plots.curves import learning_curves, meta_training_curves
from evomal_paper.plots.errors import final_errors, parameter_counts
from evomal_paper.plots.shapes import loss_shapes
from evomal_paper.plots.style import STYLES, save

__all__ = [
    "STYLES",
    "final_errors",
    "learning_curves",
    "loss_shapes",
    "meta_training_curves",
    "parameter_counts",
    "save",
]
