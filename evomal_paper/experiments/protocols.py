"""The two protocols: as the authors' code runs, and as the papers' sentences read.

`published/switches.toml` says of each setting what the code and the text say. The profile `paper` follows the code
where it speaks, and the text elsewhere. `text` takes the text literally.
"""

import json
from collections.abc import Collection
from typing import Any

from evomal_core.config import SearchConfig
from evomal_paper.published.tables import facts

SWITCHES = facts("switches", "switch")
"""The settings in which code and text differ, or may: name, what each says, and the values here."""

DIFFERENCES = facts("switches", "difference")
"""Points in which this project differs from the authors' code in both profiles: the code, here, and why."""


def parsed(text: str) -> Any:
    """A number, true, false, a list, or else the text as it is."""
    try:
        return json.loads(text)
    except ValueError:
        return text


def stated(protocol: str, known: Collection[str]) -> dict[str, Any]:
    """The settings among `known` of a protocol, "paper" or "text", but for those that vary between experiments."""
    rows = [row for row in SWITCHES if row["name"] in known and not row[protocol].startswith("by ")]
    return {row["name"]: parsed(row[protocol]) for row in rows}


CODE = stated("paper", SearchConfig.model_fields)
"""Settings of a search in the authors' code."""

TEXT = stated("text", SearchConfig.model_fields)
"""Settings of a search in the papers' text; where it is silent, this project's own choice."""

_COMMON, _GECCO23, _TPAMI23 = facts("protocols", "protocol")

GECCO23 = SearchConfig(**_COMMON, **CODE, **_GECCO23)
"""GECCO'23; the rest is each data set's own."""

TPAMI23 = SearchConfig(**_COMMON, **CODE, **_TPAMI23)
"""TPAMI'23."""
