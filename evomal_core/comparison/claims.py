"""The papers' claims in words: one claim, one test, one verdict for each profile that was run."""

from __future__ import annotations

import pandas as pd

from evomal_core.comparison import claims_gecco, claims_tpami
from evomal_core.comparison.evidence import Evidence
from evomal_core.comparison.findings import ABSENT, Claim
from evomal_core.comparison.verdicts import NOT_RUN, is_counted

CLAIMS: tuple[Claim, ...] = (*claims_gecco.CLAIMS, *claims_tpami.CLAIMS)

COLUMNS = ["claim", "paper", "section", "text", "rule", "profile", "verdict", "finding", "covered", "headline"]


def judge_claims(evidence: Evidence) -> pd.DataFrame:
    """Every claim with its verdict: a row per claim and profile with runs that bear on it.

    The fairest profile comes first (`verdicts.strength`), and is marked `headline`: the one that is counted. A
    claim without any such run of a profile that counts begins with a row "not run"; so does one that only
    stand-ins were run for, with what they show. `covered` is the share of the claim's experiments that were run
    whole.

    Args:
        evidence: as `evidence.gather` returns it.
    """
    rows = []
    for claim in CLAIMS:
        findings = {name: claim.found(evidence.at(name).of_paper(claim.paper)) for name in evidence.profiles}
        told = {name: finding for name, finding in findings.items() if finding.text}
        order = sorted(told, key=lambda name: (not is_counted(name), told[name].verdict == NOT_RUN))
        found = {name: told[name] for name in order}
        if not any(map(is_counted, found)):
            found = {"": ABSENT} | found
        stated = {
            "claim": claim.name,
            "paper": claim.paper,
            "section": claim.section,
            "text": claim.text,
            "rule": claim.rule,
        }
        for number, (profile, finding) in enumerate(found.items()):
            outcome = {"profile": profile, "verdict": finding.verdict, "finding": finding.text}
            covered = len(finding.covered) / len(claim.experiments)
            rows.append(stated | outcome | {"covered": covered, "headline": number == 0})
    return pd.DataFrame(rows, columns=COLUMNS)
