"""The papers' claims in words: one claim, one test, one verdict; and one for each profile that was run."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import pandas as pd

from evomal_paper.comparison.evidence import Evidence
from evomal_paper.comparison.measures import ABSENT, MEASURES, Finding
from evomal_paper.comparison.verdicts import DIRECTION, NOT_RUN, REPRODUCED, is_counted, strength
from evomal_paper.published.tables import facts


@dataclass(frozen=True)
class Claim:
    """One claim of a paper in words.

    Attributes:
        name: its name in tables.
        paper: "gecco23" or "tpami23".
        section: where it stands.
        quote: the claim, quoted briefly.
        rule: when it is reproduced, when in direction only.
        measure: the name of the function in MEASURES that judges it.
        experiments: what the claim is about; it can be reproduced only if all of them were run, with all rivals.
        settings: arguments of the measure.
    """

    name: str
    paper: str
    section: str
    quote: str
    rule: str
    measure: str
    experiments: list[str]
    settings: Mapping[str, Any] = field(default_factory=dict)

    def judge(self, evidence: Evidence) -> Finding:
        """The finding from the evidence of one paper, of each experiment under one profile."""
        return MEASURES[self.measure](evidence, **self.settings)

    def found(self, evidence: Evidence) -> Finding:
        """The finding of `judge`, with how much of the claim it covers; incomplete, it is a direction at most.

        Runs of other experiments, its stand-ins, neither confirm a claim nor contradict it.
        """
        finding = self.judge(evidence.about(self.experiments))
        if not finding.seeds:
            others = self.judge(evidence)
            none = "No experiment that the claim is about was run."
            return Finding(NOT_RUN, f"On stand-ins only: {others.text} {none}") if others.text else ABSENT
        covered = len(finding.covered)
        whole = covered == len(self.experiments)
        verdict = DIRECTION if finding.verdict == REPRODUCED and not whole else finding.verdict
        said = f"Complete on {covered} of the {len(self.experiments)} experiments that the claim is about."
        return replace(finding, verdict=verdict, text=f"{finding.text} {said}")


CLAIMS = tuple(Claim(**row) for row in facts("claims", "claim"))
"""The claims of `published/claims.toml`."""

COLUMNS = ["claim", "paper", "section", "text", "rule", "profile", "verdict", "finding", "covered", "headline"]


def judge_claims(evidence: Evidence) -> pd.DataFrame:
    """Every claim with its verdict: a row for all its experiments, and one per profile with runs that bear on it.

    The first row is marked `headline`: the one that is counted. It rests on each experiment under the profile that
    `fairest` chooses, named in the column `profile`. A claim without any run of a profile that counts begins with
    a row "not run"; so does one that only stand-ins were run for. `covered` is the share of its experiments that
    were run whole. Notebook 13 states these rules.
    """
    rows = []
    places = {name: evidence.at(name) for name in evidence.profiles}
    for claim in CLAIMS:
        findings = {name: claim.found(place.of_paper(claim.paper)) for name, place in places.items()}
        told = {name: finding for name, finding in findings.items() if finding.text}
        order = sorted(told, key=lambda name: (not is_counted(name), told[name].verdict == NOT_RUN))
        found = {name: told[name] for name in order}
        if chosen := fairest(claim, told):
            whole = claim.found(evidence.of(chosen).of_paper(claim.paper))
            first = next(iter(chosen.values()))
            name = first if told[first] == whole else _named(chosen)
            found.pop(name, None)  # said once, with what was left out
            found = {name: replace(whole, text=whole.text + _left_out(claim, chosen, told))} | found
        elif not any(map(is_counted, found)):
            found = {"": ABSENT} | found
        stated = {"claim": claim.name, "paper": claim.paper, "section": claim.section}
        stated |= {"text": claim.quote, "rule": claim.rule}
        for number, (profile, finding) in enumerate(found.items()):
            outcome = {"profile": profile, "verdict": finding.verdict, "finding": finding.text}
            covered = len(finding.covered) / len(claim.experiments)
            rows.append(stated | outcome | {"covered": covered, "headline": number == 0})
    return pd.DataFrame(rows, columns=COLUMNS)


def fairest(claim: Claim, findings: Mapping[str, Finding]) -> dict[str, str]:
    """The profile that each experiment of a claim is judged by; without those that were not run.

    It is the fairest one that counts of those with several seeds behind every comparison; of these, of those with
    all runs that the rule asks for, or else with some. An experiment without such a profile is left out, unless
    none has one: single seeds decide nothing. Findings are those of the claim by profile, the fairest first.
    """
    counted = {profile: finding for profile, finding in findings.items() if is_counted(profile)}
    best = {}
    for name in claim.experiments:
        tested = [profile for profile, finding in counted.items() if name in finding.seeds]
        if tested:
            best[name] = min(tested, key=lambda at: (counted[at].seeds[name] < 2, name not in counted[at].covered))
    several = {name: profile for name, profile in best.items() if counted[profile].seeds[name] > 1}
    return several or best


def _left_out(claim: Claim, chosen: Mapping[str, str], findings: Mapping[str, Finding]) -> str:
    """A sentence, after a blank, on the experiments of a claim that were run but not chosen."""
    run = {name for profile, finding in findings.items() if is_counted(profile) for name in finding.seeds}
    names = [name for name in claim.experiments if name in run - chosen.keys()]
    return f" Left out, for a comparison of a single seed: {', '.join(names)}." if names else ""


def _named(chosen: Mapping[str, str]) -> str:
    """`paper (sine), quick (mnist, cifar10)`."""
    names: dict[str, list[str]] = {}
    for experiment in chosen:
        names.setdefault(chosen[experiment], []).append(experiment)
    return ", ".join(f"{profile} ({', '.join(names[profile])})" for profile in sorted(names, key=strength))
