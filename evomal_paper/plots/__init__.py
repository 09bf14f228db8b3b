"""Figures from tidy tables; nothing is computed here beyond means, medians and spreads of groups."""

from evomal_paper.plots.curves import learning_curves, meta_training_curves
from evomal_paper.plots.errors import (
    error_by_rate,
    errors_by_split,
    final_errors,
    parameter_counts,
    transfer_errors,
)
from evomal_paper.plots.losses import loss_shapes
from evomal_paper.plots.style import STYLES, save

__all__ = [
    "STYLES",
    "error_by_rate",
    "errors_by_split",
    "final_errors",
    "learning_curves",
    "loss_shapes",
    "meta_training_curves",
    "parameter_counts",
    "save",
    "transfer_errors",
]
