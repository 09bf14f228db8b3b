"""One self-contained HTML page of all complete runs: verdicts, cells, claims, figures, losses and provenance."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pandas as pd

from evomal_core.files import check_writable, write_atomic
from evomal_paper import plots
from evomal_paper.comparison import disagreements, tables, variants, verdicts
from evomal_paper.comparison import html_parts as html
from evomal_paper.comparison.claims import CLAIM_RULE, judge_claims
from evomal_paper.comparison.evidence import Evidence, by_profile, collect, with_analyses
from evomal_paper.experiments.catalogue import EXPERIMENTS
from evomal_paper.plots import verdicts as plots_verdicts
from evomal_paper.published import tables as paper
from evomal_paper.runs.run import Run
from evomal_paper.runs.tables import Results

TITLE = "EvoMAL: published and measured"
CLASSES = {
    verdicts.REPRODUCED: "reproduced",
    verdicts.FITTED: "construction",
    verdicts.DIRECTION: "direction",
    verdicts.NOT: "not",
}
OWN = "paper_vs_measured"
WHY = "Why results differ"


def write_report(results_dir: Path | str, output: Path | str) -> int:
    """Write the report of a results folder; returns how many runs it shows.

    The page holds its figures and formulas and needs no other file and no network. Runs of the profile `smoke` are
    left out, and those that can't be read, each with a warning. Those of varied profiles are compared with the
    unvaried, but have no sections of their own.

    Raises:
        ValueError: the folder holds no complete run.
        OSError: the page can't be written; found before it is made.
    """
    loaded = by_profile(results_dir)
    if not loaded:
        raise ValueError(
            f"{results_dir} holds no complete run, or only of the profile smoke; make some with `make reproduce`"
        )
    check_writable(output)
    sections = {
        _title(*key): list(_section(results)) for key, results in loaded.items() if verdicts.is_counted(key[1])
    }
    others = list(_other_figures(Path(results_dir)))
    titles = ["Verdicts", "Claims in words", "Every published cell", WHY, *sections]
    titles += (["Further analyses"] if others else []) + ["Provenance"]
    evidence = with_analyses(collect(loaded.values()), Path(results_dir))
    parts = [f"<h1>{TITLE}</h1>", *_comparison(evidence, titles)]
    for title, section in sections.items():
        parts += [html.heading(title), *section]
    if others:
        parts += [html.heading("Further analyses"), *others]
    runs = [
        Run(*key, method, seed, Path(results_dir))
        for key, results in loaded.items()
        for _, method, seed in results.losses
    ]
    parts += [html.heading("Provenance"), *_provenance(runs)]
    write_atomic(output, html.page(TITLE, parts))
    return len(runs)


def _title(name: str, profile: str) -> str:
    return f"{EXPERIMENTS[name].title}, profile {profile}"


def _comparison(evidence: Evidence, titles: Sequence[str]) -> Iterator[str]:
    cells, claims = verdicts.every_cell(evidence.values), judge_claims(evidence)
    counted = verdicts.counts(cells).loc["all"]
    named = ", ".join(f"<b>{counted[name]}</b> {name}" for name in verdicts.VERDICTS)
    yield f"<p>Of <b>{counted['cells']}</b> numbers in the papers' tables: {named}.</p>"
    yield html.contents(titles)
    changed = variants.variants(evidence.values)
    yield html.heading("Verdicts")
    yield html.markdown(disagreements.in_words(cells, evidence.values, changed))
    yield html.table(_named(verdicts.counts(cells)))
    yield html.table(verdicts.counts(cells[cells["profile"] != ""], "profile").reset_index())
    yield html.markdown(verdicts.RULE)
    yield html.markdown(tables.overall_in_words(cells, claims))
    yield html.picture(plots_verdicts.verdict_map(cells), "The verdict on every published cell")
    yield html.picture(plots_verdicts.ratios(cells), "Measured over published mean, cell by cell")
    yield html.heading("Claims in words")
    yield html.markdown(CLAIM_RULE)
    yield html.table(tables.claim_table(claims), CLASSES)
    yield html.heading("Every published cell")
    for table, name in paper.TABLES.items():
        part = cells[cells["table"] == table]
        yield html.heading(name, 3)
        yield html.markdown("\n".join(f"- {line}" for line in paper.ODDITIES[table]))
        run = part[part["verdict"] != verdicts.NOT_RUN]
        if len(run):
            yield html.table(tables.cell_table(run), CLASSES)
        if rest := len(part) - len(run):
            names = ", ".join(dict.fromkeys(part.loc[part["verdict"] == verdicts.NOT_RUN, "experiment"]))
            listed = html.table(tables.cell_table(part[part["verdict"] == verdicts.NOT_RUN]))
            yield html.details(f"{rest} cells not run: {names}", [listed])
    yield html.heading(WHY)
    yield html.markdown(variants.EXPLAINED)
    yield html.table(variants.by_setting(changed))
    yield html.details("Each comparison", [html.markdown(variants.in_words(changed))])


def _named(counts: pd.DataFrame) -> pd.DataFrame:
    return counts.rename(index=paper.TABLES).reset_index()


def _section(results: Results) -> Iterator[str]:
    """Figures, words and losses of one experiment and profile."""
    runs, final = results.runs, results.final()
    name, profile = (str(runs[key].iloc[0]) for key in ("experiment", "profile"))
    entry = EXPERIMENTS[name]
    kind = next(iter(results.losses.values())).kind
    metric = "MSE" if kind == "regression" else "error rate"
    command = f"<code>evomal run {name} --profile {profile}</code>"
    yield f'<p class="small">{entry.source}; notebook {entry.notebook}; {command}</p>'
    compared = final[final["split"].isin(paper.COMPARED[entry.table])]
    comparison = verdicts.compare(compared, entry.table)
    yield html.markdown(tables.in_words(comparison, verdicts.orderings(compared, entry.table), profile))
    published = paper.published(entry.table).query("experiment == @name")
    errors = final[final["split"].isin(["train", "test"])]
    yield html.picture(plots.final_errors(errors, published, metric), "Final errors")
    for group in final["group"].unique():
        curves = plots.learning_curves(results.tests, group, "test", metric)
        yield html.picture(curves, f"Learning curves, {group}, held-out")
    yield html.picture(plots.meta_training_curves(results.histories, metric), "Meta-training curves")
    seed = runs["seed"].min()
    shown = {method: loss for (_, method, of), loss in results.losses.items() if of == seed}
    shapes = plots.loss_shapes(shown, kind, title=f"{name}, profile {profile}: losses of seed {seed}")
    yield html.picture(shapes, f"Learned losses of seed {seed}")
    yield html.details("Learned losses, per output: f is the prediction and y the label", [_losses(results)])


def _losses(results: Results) -> str:
    chosen = results.runs[~results.runs["method"].isin(["baseline", "ml3"])]
    table = chosen[["method", "seed", "fitness", "parameters"]].astype({"method": str})
    keys = chosen[["experiment", "method", "seed"]].itertuples(index=False, name=None)
    table = table.assign(formula=list(keys)).rename(columns={"parameters": "weights"})
    return html.table(table, cells={"formula": lambda key: html.formula(results.losses[key])})


def _other_figures(results_dir: Path) -> Iterator[str]:
    """What the notebooks on several experiments have drawn: transfer, landscapes, learning rates and others."""
    for path in sorted(results_dir.glob("*/**/figures/*.png")):
        first = path.relative_to(results_dir).parts[0]
        if first not in (*EXPERIMENTS, OWN, "quickstart") and "smoke" not in path.parts and path.is_file():
            yield html.embedded(
                path.read_bytes(), f"{first}: {path.stem}".replace("_", " "), str(path.relative_to(results_dir))
            )


def _provenance(runs: Sequence[Run]) -> Iterator[str]:
    rows = []
    for run in runs:
        record = run.record() or {}
        seconds = {
            name: value for name, value in record["seconds"].items() if name in ("meta-test", "last session")
        }
        versions = dict(record["versions"])
        rows.append(
            {
                "experiment": run.experiment,
                "profile": run.profile,
                "method": run.method,
                "seed": run.seed,
                **seconds,
                "engine": record["engine"],
                "machine": _machine(record["hardware"]),
                "commit": versions.pop("commit", "")[:12],
                "versions": ", ".join(f"{name} {value}" for name, value in versions.items()),
                "finished": record["finished"],
            }
        )
    table = pd.DataFrame(rows).rename(columns={"meta-test": "s, meta-test", "last session": "s, last session"})
    kept = ["machine", "commit", "versions"]
    whole = table.groupby(["experiment", "profile", *kept], sort=False, dropna=False)
    summary = whole.agg(runs=("seed", "size"), hours=("s, last session", lambda s: s.sum() / 3600)).reset_index()
    yield html.table(summary)
    yield html.details(f"All {len(table)} runs", [html.table(table.drop(columns="versions"))])


def _machine(hardware: dict) -> str:
    gpu = f", {hardware['gpu']}" if "gpu" in hardware else ""
    return f"{hardware['processor']}, {hardware['cores']} cores{gpu}"
