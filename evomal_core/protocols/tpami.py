"""TPAMI'23's experiments: tabular regression and image classification (section IV)."""

from __future__ import annotations

from evomal_core.protocols.classification import CLASSIFICATION
from evomal_core.protocols.profiles import Experiment
from evomal_core.protocols.tabular import TABULAR

TPAMI: tuple[Experiment, ...] = (*TABULAR, *CLASSIFICATION)
