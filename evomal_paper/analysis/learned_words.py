"""What TPAMI section V-C says of learned losses and what was found, as sentences computed from tables."""

from __future__ import annotations

from inspect import getdoc

import pandas as pd

from evomal_paper.analysis.families import classification, regression
from evomal_paper.experiments.profiles import protocol

SAID = "V-C's family"
"""A column of `learned.table_vi`."""
NAMED = {
    "classification": ("cross-entropy-like", "focal-like", "label-smoothing-like"),
    "regression": ("robust", "absolute-like"),
}
CLAIMS = {
    "classification": "Of the three classes that V-C says EvoMAL converges upon",
    "regression": "With a gradient that large errors do not raise (robust or absolute-like), as V-C finds often",
}


def rules() -> str:
    """The rules that families are told by, as Markdown: what the docstrings of `families` say."""
    parts = (getdoc(rule) or "" for rule in (classification, regression))
    return "\n\n".join(part.partition("\n\nRaises:")[0] for part in parts)


def in_words(
    table: pd.DataFrame, best: pd.DataFrame, counts: pd.DataFrame, correlations: pd.DataFrame, profile: str
) -> str:
    """What agrees with TPAMI section V-C and what does not, as Markdown computed from the tables.

    Args:
        table: `table_vi`.
        best: `best_losses`.
        counts: `family_counts`.
        correlations: `complexity_and_error`.
        profile: the profile of the runs.
    """
    own = best[best["method"] == "evomal"]
    start = f"Profile `{profile}`, n = {len(own)} losses learned by EvoMAL"
    if own.empty:
        start += (
            ": the results folder holds no complete run of this profile, so only the paper's losses are shown."
        )
    else:
        start += f" in {', '.join(own['experiment'].unique())}.{protocol(profile)}"
    lines = [start, "", "**Table VI**", "", *_examples_in_words(table)]
    if len(own):
        lines += ["", "**This project's losses**", ""]
        lines += _families_in_words(own, counts) + _check_in_words(best) + _correlations_in_words(correlations)
    return "\n".join(lines) + "\n"


def _examples_in_words(table: pd.DataFrame) -> list[str]:
    def named(agreement: str) -> pd.DataFrame:
        return table[table["agreement"] == agreement]

    lines = [
        f"- **Agree**: with weights of 1, {len(named('agrees'))} of {len(table)} examples are of the family that "
        f"section V-C names: {_letters(named('agrees'))}."
    ]
    for agreement, before in (
        ("agrees with other weights", "**Agree only with other weights than 1**, which the table leaves out"),
        ("disagrees", "**Disagree**"),
    ):
        rows = named(agreement).to_dict("records")
        texts = [
            f"{row['loss']} is {row['weights 1']} with weights of 1"
            + (f", and {row['with them']} with {row['other weights']}" if row["with them"] else "")
            + f" (said: {row[SAID]})"
            for row in rows
        ]
        if texts:
            lines.append(f"- {before}: {'; '.join(texts)}.")
    bare = table[(table["without bars"] == "degenerate") & (table["weights 1"] != "degenerate")]
    if len(bare):
        lines.append(
            f"- Without bars |·| around them, {_letters(bare)} would have no minimum at the label: degenerate."
        )
    return lines


def _letters(rows: pd.DataFrame) -> str:
    return ", ".join(rows["loss"])


def _families_in_words(own: pd.DataFrame, counts: pd.DataFrame) -> list[str]:
    lines = []
    for kind, part in counts[counts["method"] == "evomal"].groupby("kind", sort=False):
        found = ", ".join(f"{row['losses']} {row['family']}" for row in part.to_dict("records"))
        n = part["n"].iloc[0]
        lines.append(f"- Families of EvoMAL's best losses of {kind}, n = {n}: {found}.")
        named = part[part["family"].isin(NAMED[kind])]["losses"].sum()
        lines.append(f"- {CLAIMS[kind]}: {named} of {n}.")
    classifying = own[own["kind"] != "regression"]
    if len(classifying):
        lopsided = int(classifying["asymmetric"].sum())
        verdict = "agrees" if lopsided > len(classifying) / 2 else "does not agree"
        lines.append(
            f"- Many classification losses are asymmetric: **{verdict}**, {lopsided} of {len(classifying)} are. "
            "By this rule cross-entropy is too: it sees false positives only through the softmax."
        )
    else:
        lines.append(
            "- No run of this profile is one of classification, so what V-C says of those is untested here."
        )
    return lines


def _check_in_words(best: pd.DataFrame) -> list[str]:
    """Whether losses that are called degenerate do train badly: the rules' own test."""
    learned = best[(best["method"] != "baseline") & best["relative error"].notna()]
    worse = learned["relative error"] >= 1
    parts = [worse[learned["family"] == "degenerate"], worse[learned["family"] != "degenerate"]]
    if min(map(len, parts)) == 0:
        return []
    (bad, of_bad), (good, of_good) = ((int(part.sum()), len(part)) for part in parts)
    return [
        f"- The rules put to the test: of all methods' losses, {bad} of {of_bad} degenerate ones train no better "
        f"than the baseline, by held-out error; of the others {good} of {of_good}."
    ]


def _correlations_in_words(correlations: pd.DataFrame) -> list[str]:
    lines = []
    for row in correlations.to_dict("records"):
        if row["verdict"] == "not testable":
            numbers = f"n = {row['n']}"
        else:
            numbers = f"ρ = {row['rho']:.2f}, p = {row['p']:.2g}, n = {row['n']} losses, groups: {row['groups']}"
        lines.append(
            f"- Structurally complex losses perform worse, by {row['outcome']} of {row['methods']}: "
            f"**{row['verdict']}** ({numbers})."
        )
    return [line.replace("= -", "= −") for line in lines]
