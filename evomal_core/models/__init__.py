"""Base networks of the papers, by name; all return logits or predictions, never probabilities."""

from evomal_core.models.basic import glorot_, mlp
from evomal_core.models.small import gecco_cnn, lenet5, surname_lstm

__all__ = ["gecco_cnn", "glorot_", "lenet5", "mlp", "surname_lstm"]
