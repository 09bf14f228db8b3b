"""Base networks of the papers, by name; all return logits or predictions, never probabilities."""

from evomal_core.models.basic import glorot_, mlp

__all__ = ["glorot_", "mlp"]
