"""Blocks of results in README and docs, written from the files in results/: `python -m evomal_paper.readme`."""

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from evomal_core.files import write_atomic
from evomal_core.kinds import TASK_LOSSES
from evomal_paper.analysis.learning_rate import tuned_baseline
from evomal_paper.comparison.claims import judge_claims
from evomal_paper.comparison.evidence import gather
from evomal_paper.comparison.variants import by_setting, variants
from evomal_paper.comparison.verdicts import NOT_RUN, REPRODUCED, VERDICTS, every_cell, is_counted, undecided
from evomal_paper.demonstrations import DEMONSTRATIONS
from evomal_paper.demonstrations import summary as summary_of
from evomal_paper.experiments.catalogue import EXPERIMENTS
from evomal_paper.published.tables import COMPARED, SPLITS
from evomal_paper.statistics import summary

ROOT = Path(__file__).resolve().parents[1]
PAGES = ("README.md", "docs/results.md")
"""The files that have blocks, as `<!-- results -->` to `<!-- /results -->`."""
BLOCK = re.compile(r"(<!-- (results|other profiles|where it pays) -->\n).*?(<!-- /\2 -->)", re.DOTALL)
ON_CLEAN_ROWS = ("task loss on the validation rows too", "task loss on the validation rows alone")
"""Rivals that train on the clean rows, which the others only choose their rate and step by."""
METHODS = ("baseline", "evomal")
PLACE = ["experiment", "profile", "group", "split"]


def blocks(results_dir: Path) -> dict[str, str]:
    """Markdown of each block, by name.

    "results" has the counts of verdicts and a table of final errors, a row per experiment and group, at the
    fairest profile that EvoMAL was run at, under each split; "other profiles" has the others, and what single
    settings do; "where it pays" has the demonstrations.
    """
    evidence = gather(results_dir)
    cells = every_cell(evidence.values)
    errors = cells[
        (cells["verdict"] != NOT_RUN) & cells["method"].isin(METHODS) & ~cells["table"].isin(["3", "IV", "V"])
    ]
    part = errors["table"].map({table: splits[0] for table, splits in COMPARED.items()})
    errors = errors[(errors["split"] == part) & errors["profile"].map(is_counted).astype(bool)]
    tuned = {keys: summary(part) for keys, part in tuned_baseline(evidence.rates).groupby(PLACE)["error"]}
    errors = errors.assign(tuned=[tuned.get(key) for key in errors[PLACE].itertuples(index=False, name=None)])
    first = _is_fairest(errors)
    settings = by_setting(variants(evidence.values.drop(columns="new")))  # new starts have columns of their own
    texts = {
        "results": [*_verdicts(cells, judge_claims(evidence)), *_table(errors[first])],
        "other profiles": [*_table(errors[~first]), *_causes(settings)],
        "where it pays": _demonstrations(results_dir),
    }
    return {name: "\n".join(lines).strip("\n") + "\n" for name, lines in texts.items()}


def _verdicts(cells: pd.DataFrame, claims: pd.DataFrame) -> list[str]:
    counted, judged = cells[cells["headline"]], claims[claims["headline"]]
    agree = counted.loc[counted["verdict"] == REPRODUCED, "profile"]
    smaller = agree[~agree.str.startswith("paper").astype(bool)]
    whole = judged[judged["covered"] == 1]
    as_stated = [all(name.startswith("paper") for name in names.split("), ")) for names in whole["profile"]]
    return [
        f"Of {len(counted)} numbers in the papers' tables: {_counts(counted['verdict'])}. "
        f"Reproduced under other settings than the papers': {len(smaller)}. Not reproduced, but of one run or too "
        f"uncertain to decide: {int(undecided(counted).sum())}. "
        f"Of {len(judged)} claims in words: {_counts(judged['verdict'])}; "
        f"{len(whole)} were run on all the experiments that they are about, {sum(as_stated)} of them under "
        "the papers' settings alone.",
    ]


def _is_fairest(cells: pd.DataFrame) -> np.ndarray:
    """Whether a cell is of the first profile that EvoMAL was run at, in the order of `verdicts.strength`."""
    place = ["table", "experiment", "group", "profile"]
    learned = cells.assign(leaking=cells["profile"].str.contains("@"))[cells["method"] == "evomal"]
    fairest = learned.drop_duplicates(["table", "experiment", "group", "leaking"])
    return pd.MultiIndex.from_frame(cells[place]).isin(pd.MultiIndex.from_frame(fairest[place]))


def _counts(verdicts: pd.Series) -> str:
    numbers = verdicts.value_counts()
    return ", ".join(f"{numbers[name]} {name}" for name in VERDICTS if name in numbers)


def _markdown(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> list[str]:
    """The lines of a table in Markdown."""
    head, *body = (f"| {' | '.join(map(str, row))} |" for row in (columns, *rows))
    return [head, f"|{'---|' * len(columns)}", *body]


def _table(cells: pd.DataFrame) -> list[str]:
    if cells.empty:
        return []
    columns = ["experiment", "profile", "baseline", "published", "EvoMAL", "published", "verdict on EvoMAL"]
    columns += ["baseline, new", "EvoMAL, new", "baseline, new, tuned"]
    rows, shares = [], []
    places = cells.groupby(["table", "experiment", "group", "profile"], sort=False)
    for (table, experiment, group, profile), part in places:
        of = {row["method"]: row for row in part.to_dict("records")}
        found = [of.get(method) for method in METHODS]
        group = f", {group}" if table == "2" else ""
        title = f"{EXPERIMENTS[experiment].title}{group}, {SPLITS[COMPARED[table][0]]}"
        numbers = [text for cell in found for text in (_error(cell), _error(cell, "published "))]
        verdict = of["evomal"]["verdict"] if "evomal" in of else NOT_RUN
        tuned = part["tuned"].iloc[0]
        new = [*(_error(cell, "new ") for cell in found), _error(tuned)]
        rows.append([title, f"`{profile}`", *numbers, verdict, *new])
        if share := _share(of, tuned):
            shares.append(f"{title} (`{profile}`) {share}")
    lines = [
        "",
        "Final errors, mean ± standard deviation over seeds (their number), from the initial weights and batches "
        "that the published ones are of, and from new ones, which favour nobody; the last column is the task loss "
        "from new ones at its best learning rate, where other rates were run:",
        "",
        *_markdown(columns, rows),
    ]
    if shares:
        lines += [
            "",
            "Of EvoMAL's gain over the task loss at the stated learning rate, the task loss has by its best rate "
            f"alone (from new ones): {'; '.join(shares)}.",
        ]
    return lines


def _causes(settings: pd.DataFrame) -> list[str]:
    if settings.empty:
        return []
    lines = [
        "",
        "With one setting varied, from how many published errors the median over these seeds is half as far (as a "
        "ratio) or less. A hint, no proof: whatever weakens a search brings errors nearer that were too low.",
        "",
    ]
    rows = []
    for row in settings.to_dict("records"):
        title, share = EXPERIMENTS[row["experiment"]].title, f"{row['halved']} of {row['cells']} cells"
        rows.append([title, f"`{row['profile']}`", f"`{row['change']}`", share, row["n"]])
    return lines + _markdown(["experiment", "profile", "setting", "distance halved", "seeds"], rows)


def _error(cell: dict | None, kind: str = "") -> str:
    """A mean ± standard deviation of a kind, a measured one with its seeds; a dash where none was run."""
    if cell is None:
        return "–"
    mean, sd, diverged = (cell.get(f"{kind}{name}", 0) for name in ("mean", "sd", "diverged"))
    text = ("–" if np.isnan(mean) else f"{mean:.3g}") + ("" if np.isnan(sd) else f" ± {sd:.2g}")
    lost = f", {diverged:.0f} diverged" if diverged > 0 else ""
    return text + (lost if kind else f" ({cell['n']}{lost})")


def _share(rows: Mapping[str, dict], tuned: dict | None) -> str:
    """Share of EvoMAL's gain that the baseline has at its tuned rate; empty where a run is missing or diverged."""
    if tuned is None or not all(method in rows for method in METHODS):
        return ""
    seeds = {(tuned["n"], tuned["diverged"]), *((rows[name]["n"], rows[name]["new diverged"]) for name in METHODS)}
    if seeds != {(tuned["n"], 0)}:
        return ""  # means over different seeds
    before, after = (rows[method]["new mean"] for method in METHODS)
    return f"{(before - tuned['mean']) / (before - after):.0%}" if after < before else ""


def _demonstrations(results_dir: Path) -> list[str]:
    """A row per demonstration of notebook 14, with the learned loss's test error beside its rivals'."""
    columns = ["problem, and what counts", "recommended by the search", "usual loss", "difference, 95 % interval"]
    columns += ["best loss made by hand, in hindsight", "usual loss on the clean rows too / alone"]
    rows = []
    for name, demonstration in DEMONSTRATIONS.items():
        folder = results_dir / "where_it_pays" / "trainings"
        if files := sorted(folder.glob(f"{name.replace(' ', '-')}-*.csv")):
            trainings = pd.concat([pd.read_csv(file) for file in files])
            rows.append([f"{demonstration.title}: {demonstration.metric}", *_demonstration(trainings)])
    return _markdown(columns, rows)


def _demonstration(trainings: pd.DataFrame) -> list[str]:
    table = summary_of(trainings).set_index("loss")
    (usual,) = table.index.intersection([*TASK_LOSSES.values()])
    by_hand = table["test"].drop("learned").drop(list(ON_CLEAN_ROWS), errors="ignore")
    best, error = by_hand.idxmin(), table["test"].map("{:.3f}".format)
    low, high = table.loc[usual, ["low", "high"]]
    return [
        f"{error['learned']} (known: {_known(trainings)} of {table.loc['learned', 'n']})",
        f"{error[usual]}, {usual}",
        f"{table.loc[usual, 'above learned']:.3f} [{low:.3f}, {high:.3f}]",
        f"{error[best]}, {best} ({table.loc[best, 'verdict']})",
        " / ".join(error[rival] for rival in ON_CLEAN_ROWS if rival in error) or "–",
    ]


def _known(trainings: pd.DataFrame) -> int:
    """Count the data seeds whose recommended loss is a known one: it trains exactly as a rival does."""
    seeds = trainings.groupby("data seed")
    errors = [part.pivot(index="loss", columns="training", values="test") for _, part in seeds]
    return sum((part.drop("learned") == part.loc["learned"]).all(axis=1).any() for part in errors)


def updated(text: str, written: Mapping[str, str]) -> str:
    """A page's text with its blocks written anew."""
    return BLOCK.sub(lambda found: found[1] + written[found[2]] + found[3], text)


if __name__ == "__main__":
    written = blocks(ROOT / "results")
    for page in PAGES:
        text = (ROOT / page).read_text(encoding="utf-8")
        write_atomic(ROOT / page, updated(text, written))
