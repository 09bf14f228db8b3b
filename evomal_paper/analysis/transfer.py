"""Losses learned on one data set train networks on another, with no further search (TPAMI'23 Table IV)."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from tqdm.auto import tqdm

from evomal_core.search import METHODS
from evomal_paper.analysis.cached_table import Piece, final_errors, training_configuration
from evomal_paper.analysis.learning_rate import tuning_split
from evomal_paper.experiments.catalogue import experiment
from evomal_paper.published.tables import SPLITS, published
from evomal_paper.runs.tables import Results, check_seeds, load_or_run
from evomal_paper.sentences import printed, text_table
from evomal_paper.statistics import against, spread

JOINT = "-to-"
PLACE = ["source", "target", "profile", "group", "split"]


def sides(transfer: str) -> tuple[str, str]:
    """The source of a transfer such as `sine-to-diabetes`, whose runs give the losses, and its target.

    Raises:
        ValueError: the text has no `-to-`, an experiment is unknown, or the two are the same.
    """
    source, joint, target = transfer.partition(JOINT)
    if not joint:
        raise ValueError(
            f"a transfer is written source{JOINT}target, for example sine{JOINT}diabetes; got {transfer!r}"
        )
    if source == target:
        raise ValueError(f"a transfer has two experiments, got {source!r} twice")
    return experiment(source).name, experiment(target).name


def best_of_seeds(sources: Results) -> pd.DataFrame:
    """The one loss of each method that is transferred: that of the source's best seed.

    Best is the smallest error after meta-testing on the source's own (in-sample) tasks: of the validation part, or
    of the training part where there is none. Test data choose nothing. The paper takes "the best-performing loss
    function found across the 5 random seeds" and does not say by which error. A method of which every run diverged
    transfers the loss of its first seed. Columns: method, source seed, source error, by (the part that chose).
    """
    final = sources.final().query("group == 'in-sample'")
    by = tuning_split(final)
    errors = final[final["split"] == by].sort_values(["error", "seed"], kind="stable")
    best = errors.drop_duplicates("method").sort_values("method", ignore_index=True)
    names = {"seed": "source seed", "error": "source error"}
    return best.rename(columns=names)[["method", *names.values()]].assign(by=by)


def load_or_transfer(
    transfer: str,
    profile: str = "quick",
    *,
    methods: list[str] | None = None,
    seeds: int | Sequence[int] | None = None,
    results_dir: str | Path = "results",
    **options: Any,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Transfer the best loss of each method; finished pieces are loaded, missing runs of the source computed.

    The target's networks are trained as in its own meta-testing: the same initial weights and batches at a seed,
    and its baseline is the run of that name. Each piece is kept in
    `<results_dir>/transfer/<source>-to-<target>/<profile>/<method>/seed-<k>/test.csv`, and computed anew if
    another seed of the source has become the best one.

    Args:
        transfer: source and target, for example `sine-to-diabetes`.
        profile: of both experiments.
        methods: of METHODS beside the baseline, which is always there and may be alone; all if None.
        seeds: of the target, and as many of the source; None for as many as each profile has.
        options: of `load_or_run`; pieces are computed one by one.

    Returns:
        What was chosen (`best_of_seeds`), and the target's errors after the last step: source, target, profile,
        method, seed, group, split, error.

    Raises:
        ValueError: the losses of the two are of different kinds, or a folder holds something else.
    """
    options["results_dir"] = results_dir
    source, target = sides(transfer)
    entry, place = experiment(target), Path(results_dir, "transfer", transfer, profile)
    sizes = entry.profile(profile)
    target_seeds = check_seeds(sizes.seeds if seeds is None else seeds)
    _check_kinds(source, target, profile)
    wanted = [name for name in methods or list(METHODS) if name != "baseline"]
    own = load_or_run(target, profile, methods=["baseline"], seeds=target_seeds, **options)
    chosen = pd.DataFrame(columns=["method", "source seed", "source error", "by"])
    if wanted:
        sources = load_or_run(source, profile, methods=wanted, seeds=seeds, **options)
        chosen = best_of_seeds(sources)
    tables = [own.final().drop(columns="experiment")]
    todo = [(row, seed) for row in chosen.to_dict("records") for seed in target_seeds]
    for row, seed in tqdm(todo, unit="training", disable=not options.get("progress", True)):
        method = str(row["method"])
        loss = sources.losses[source, method, row["source seed"]]
        names = {"source": source, "target": target, "profile": profile, "method": method, "seed": seed}
        configuration = names | {"source seed": row["source seed"]} | training_configuration(sizes, loss)
        piece = Piece(place / method / f"seed-{seed}", "test", configuration, renewed_by="source seed")
        errors = final_errors(piece, loss, entry, sizes, seed, options.get("device", "cpu"))
        tables.append(errors.assign(profile=profile, method=method, seed=seed))
    whole = pd.concat(tables, ignore_index=True).assign(source=source, target=target)
    whole["method"] = pd.Categorical(whole["method"].astype(str), list(METHODS), ordered=True)
    return chosen.assign(source=source, target=target, profile=profile), whole[
        ["source", "target", "profile", "method", "seed", "group", "split", "error"]
    ]


def _check_kinds(source: str, target: str, profile: str) -> None:
    kinds = {}
    for name in (source, target):
        if missing := experiment(name).missing():
            raise FileNotFoundError(missing)
        kinds[name] = experiment(name).problem(experiment(name).profile(profile), 0).train[0].kind
    if len(set(kinds.values())) > 1:
        found = " and ".join(f"{name} ({kind})" for name, kind in kinds.items())
        raise ValueError(f"losses transfer between tasks of one kind, got {found}")


def table(final: pd.DataFrame) -> pd.DataFrame:
    """Table IV for reading: a row per transfer, group and method; measured errors beside the published one.

    Published cells are TPAMI's Table IV where the transfer is its own, from CIFAR-10 to CIFAR-100 with one model.
    """
    theirs = published("IV").set_index(["experiment", "method"])
    rows: dict[tuple[str, ...], dict[str, str]] = {}
    for cell in spread(final, "error", [*PLACE, "method"]).to_dict("records"):
        place = (f"{cell['source']}{JOINT}{cell['target']}", cell["group"], cell["method"])
        key = (cell["target"], cell["method"])
        known = is_published(cell["source"], cell["target"]) and key in theirs.index
        row = rows.setdefault(place, {"published": printed(theirs.loc[key]) if known else "–"})
        row[f"measured, {SPLITS[cell['split']]}"] = printed(cell)
    return text_table(rows, ["transfer", "group", "method"])


def is_published(source: str, target: str) -> bool:
    """Whether a transfer is one of Table IV's: losses from CIFAR-10 to CIFAR-100, with the same model."""
    return source != target and source.replace("cifar10-", "cifar100-") == target


def published_table(final: pd.DataFrame) -> pd.DataFrame:
    """Table IV's cells, each with what was measured for it, or "not run"."""
    shown = spread(final[final["split"] == "test"], "error", [*PLACE, "method"]).to_dict("records")
    own = [cell for cell in shown if is_published(cell["source"], cell["target"])]
    measured = {(cell["target"], cell["method"]): printed(cell) for cell in own}
    rows = []
    for cell in published("IV").to_dict("records"):
        place = cell["experiment"], cell["method"]
        rows.append([*place, printed(cell), measured.get(place, "not run")])
    return pd.DataFrame(rows, columns=["target", "method", "published", "measured"])


def gains(final: pd.DataFrame) -> pd.DataFrame:
    """Each transferred loss against the target's baseline, seed by seed; see `paired.against`."""
    return against(final, "error", PLACE)
