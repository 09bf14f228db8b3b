"""The `evomal` command: list, run and reproduce experiments, and show losses and data sets."""

import argparse
import logging
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NoReturn

from tqdm import tqdm

from evomal_core import __version__
from evomal_core.checks import refuse_unknown
from evomal_core.files import decode, read_json
from evomal_core.library import load_loss, path_of
from evomal_core.search import METHODS
from evomal_paper.analysis.runtime import minutes
from evomal_paper.datasets.catalogue import DATASETS
from evomal_paper.experiments.catalogue import EXPERIMENTS, check_methods
from evomal_paper.experiments.profiles import PROFILES, Experiment
from evomal_paper.experiments.protocols import DIFFERENCES, SWITCHES
from evomal_paper.reproduce import reproduce, write_report
from evomal_paper.runs.packing import fold_all, take_from
from evomal_paper.runs.run import WORK, Run
from evomal_paper.runs.tables import check_seeds, load_or_run
from evomal_paper.runs.verify import chosen_runs, verify

MOST_SEEDS = 10_000
DESCRIPTION = "Learn loss functions by genetic programming and unrolled differentiation (EvoMAL)."


class _Parser(argparse.ArgumentParser):
    """A parser whose errors are one line, and that takes no abbreviated options."""

    def __init__(self, **keywords: Any) -> None:
        super().__init__(**keywords, allow_abbrev=False)

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {message}; see {self.prog} --help\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status: 0, 1 of `verify`, 2 for a user's mistake, 130 after Ctrl-C."""
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    options = _parser().parse_args(arguments)
    try:
        return options.command(options) or 0
    except KeyboardInterrupt:
        kept = getattr(options, "into", "kept") is not None  # what `verify` computes goes into a temporary folder
        what = (
            "the same command goes on from the last finished generation" if kept else "--into would have kept it"
        )
        print(f"\nstopped; {what}", file=sys.stderr)
        return 130
    except BrokenPipeError:
        sys.stdout = open(os.devnull, "w")  # noqa: PTH123, SIM115 - the reader of our output is gone
        return 0
    except (ValueError, OSError, RuntimeError, ModuleNotFoundError) as error:
        if os.environ.get("EVOMAL_TRACEBACK"):
            raise
        print(f"evomal: error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2


def _folder(text: str) -> str:
    if not text:
        raise argparse.ArgumentTypeError("name a folder, for example results")
    return text


OPTIONS: dict[str, dict[str, Any]] = {
    "experiment": {"help": "an experiment, see `evomal list`"},
    "--method": {"default": "all", "metavar": "M[,M…]", "help": "methods, or all (default)"},
    "--seeds": {
        "metavar": "S",
        "help": "for example 0-9 or 0,3,5 (default: the profile's; of verify, all there are)",
    },
    "--profile": {
        "default": "quick",
        "help": "smoke, quick (default), narrow, paper, text, calibrated; changed: quick@base.lr=0.003",
    },
    "--device": {"default": "cpu", "help": "cpu (default) or cuda"},
    "--results-dir": {
        "default": "results",
        "metavar": "DIR",
        "type": _folder,
        "help": "folder of all runs (default: results)",
    },
    "--jobs": {
        "default": 1,
        "metavar": "N",
        "type": int,
        "help": "runs computed at once, 0 for one a core, on CUDA one in all (default: 1)",
    },
    "--quiet": {"action": "store_true", "help": "no progress bar"},
}
"""Arguments and options of several commands."""


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="evomal",
        description=DESCRIPTION,
        epilog="Set EVOMAL_TRACEBACK=1 to see where an error came from.",
    )
    parser.add_argument("--version", action="version", version=f"evomal {__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    def command(function: Any, text: str, *options: str) -> argparse.ArgumentParser:
        added = commands.add_parser(
            function.__name__.removeprefix("_"), help=text, description=text[0].upper() + text[1:] + "."
        )
        added.set_defaults(command=function)
        for option in options:
            added.add_argument(option, **OPTIONS[option])
        return added

    command(_list, "list experiments and profiles, with data at hand and minutes", "--results-dir")

    added = command(_run, "compute runs of one experiment; finished ones are left alone", *OPTIONS)
    text = "a Dask scheduler's address, or local:N for N workers here: they compute the candidates of all runs"
    added.add_argument("--cluster", default="", metavar="C", help=text)

    added = command(_verify, "compute complete runs anew, elsewhere, and say where they differ", *OPTIONS)
    text = "keep the new runs in this folder (default: a temporary one)"
    added.add_argument("--into", metavar="DIR", help=text)

    shared = ("--profile", "--device", "--results-dir", "--jobs")
    added = command(_reproduce, "execute the notebooks; tables and figures into results", *shared)
    added.add_argument("experiments", nargs="*", help="experiments (default: all whose data is at hand)")

    added = command(_report, "write one HTML page: published numbers beside measured ones", "--results-dir")
    added.add_argument("--output", default="report.html", metavar="FILE", help="default: report.html")

    added = command(_pack, "fold finished runs into the results, and say how the others stand", "--results-dir")
    text = "other results folders, whose complete runs are copied"
    added.add_argument("sources", nargs="*", metavar="FROM", help=text)

    added = command(_show, "show a saved or learned loss", "--results-dir")
    text = "a file of loss.save(), a name of the zoo (sine/evomal), or a run (sine/quick/evomal/seed-0)"
    added.add_argument("loss", metavar="LOSS", help=text)
    formats = ["text", "latex", "python", "sympy"]
    added.add_argument("--format", default="text", choices=formats, help="what to print (default: text)")

    added = command(_data, "say which data sets are at hand, and where others come from")
    added.add_argument("name", nargs="?", help="one data set")
    added.add_argument("--download", action="store_true", help="get it if it is not at hand, and keep it")
    return parser


def parse_seeds(text: str) -> list[int]:
    """Seeds from text such as `0-9` or `0,3,5-7`; a ValueError for other text, or a seed that occurs twice."""
    seeds: list[int] = []
    for part in text.split(","):
        found = re.fullmatch(r"([0-9]+)(?:-([0-9]+))?", part.strip())
        low, high = (int(found[1]), int(found[2] or found[1])) if found else (1, 0)
        if not 0 <= high - low < MOST_SEEDS:
            raise ValueError(f"seeds are written like 0-9 or 0,3,5, got {text!r}; at most {MOST_SEEDS} at once")
        seeds += range(low, high + 1)
    return check_seeds(seeds)


def _list(options: argparse.Namespace) -> None:
    absent: dict[str, str] = {}
    print("Experiments: time of all methods and seeds on two cores, and whether the data is at hand")
    print("  measured, or guessed (~) where a method has no complete run")
    print(f"  {'name':<21}{'what it is':<41}{'quick':>8}{'paper':>8}  data")
    paper = ""
    for entry in EXPERIMENTS.values():
        if paper != (paper := "GECCO'23" if "GECCO'23" in entry.source else "TPAMI'23"):
            print(paper)
        name = "" if entry.dataset is None else entry.dataset.name
        if name and name not in absent:
            absent[name] = entry.missing() or ""
        times = "".join(f"{_time(entry, profile, options.results_dir):>8}" for profile in ("quick", "paper"))
        state = "missing" if name and absent[name] else "at hand"
        print(f"  {entry.name:<21}{entry.title:<41}{times}  {state}")
    for reason in filter(None, absent.values()):
        print(f"  {reason}")
    print(
        "Settings that the authors' code and the papers' text say different things of: profile paper, profile text"
    )
    for row in SWITCHES:
        print(f"  {row['name']:<22}{row['paper']:<14}{row['text']:<13}code: {row['in_code']}")
        print(f"  {'':<49}text: {row['in_text']}")
    print("Where both profiles differ from the authors' code")
    for row in DIFFERENCES:
        print(f"  {row['what']}\n{'':<8}code: {row['in_code']}\n{'':<8}here: {row['here']}")
    for title, known in (("Profiles", PROFILES), ("Methods", METHODS)):
        print(title)
        for name, text in known.items():
            print(f"  {name:<12}{text}")


def _time(entry: Experiment, profile: str, results_dir: str) -> str:
    """The time of a profile, measured or guessed, for example `~3 min`."""
    measured = minutes(entry.name, profile, results_dir)
    return f"~{_duration(entry.minutes[profile])}" if measured is None else _duration(measured)


def _duration(minutes: float) -> str:
    """Rough minutes, hours or days, for example `3 min`."""
    for unit, size in (("d", 24 * 60), ("h", 60)):
        if minutes >= 2 * size:
            return f"{minutes / size:.0f} {unit}"
    return f"{minutes:.2g} min" if minutes < 10 else f"{minutes:.0f} min"


def _run(options: argparse.Namespace) -> None:
    methods, seeds = _methods_and_seeds(options)
    given = {name: getattr(options, name) for name in ("device", "results_dir", "jobs", "cluster")}
    given |= {"methods": methods, "seeds": seeds, "progress": not options.quiet}
    results = load_or_run(options.experiment, options.profile, **given)
    print("Final errors from new initial weights and batches:")
    print(results.summary().to_string(index=False, float_format="{:.4g}".format))


def _methods_and_seeds(options: argparse.Namespace) -> tuple[list[str] | None, list[int] | None]:
    """The methods and seeds named, None for each that is not."""
    methods = None if options.method == "all" else check_methods(options.method.split(","))
    return methods, None if options.seeds is None else parse_seeds(options.seeds)


def _verify(options: argparse.Namespace) -> int:
    methods, seeds = _methods_and_seeds(options)
    runs = chosen_runs(options.experiment, options.profile, methods, seeds, options.results_dir)
    different = 0
    with TemporaryDirectory(prefix="evomal-") as temporary:
        into = Path(options.into or temporary)
        for run, difference in verify(runs, into, options.device, options.jobs, not options.quiet):
            tqdm.write(f"{run}: {difference or 'the same'}")  # beside a bar, where there is one
            different += bool(difference)
    print(f"{len(runs) - different} of {len(runs)} runs are the same, bit by bit")
    return 1 if different else 0


def _reproduce(options: argparse.Namespace) -> None:
    given = {"profile": options.profile, "device": options.device, "jobs": options.jobs}
    reproduce(options.experiments, results_dir=Path(options.results_dir), **given)


def _with_runs(folder: str) -> Path:
    """The folder; a FileNotFoundError if it holds neither packed runs nor runs under way."""
    path = Path(folder)
    if not path.is_dir():
        raise FileNotFoundError(f"no results folder at {folder}; name one that holds runs")
    if not any(path.glob("*/*/runs.jsonl")) and not (path / WORK).is_dir():
        raise FileNotFoundError(
            f"{folder} holds no runs; name a results folder, or compute some with `evomal run`"
        )
    return path


def _report(options: argparse.Namespace) -> None:
    _with_runs(options.results_dir)
    write_report(options.results_dir, options.output)
    print(options.output)


def _pack(options: argparse.Namespace) -> None:
    sources = [_with_runs(source) for source in options.sources]
    folder = Path(options.results_dir) if sources else _with_runs(options.results_dir)
    for run, state in fold_all(folder):
        print(f"{run}: {state}")
    for source in sources:
        for run, state in take_from(source, folder):
            print(f"{run}: {state}")


def _show(options: argparse.Namespace) -> None:
    is_run = options.loss.count("/") == 3 and not Path(options.loss).exists()
    loss = Run.named(options.loss, Path(options.results_dir)).loss() if is_run else load_loss(options.loss)
    forms = {"latex": loss.latex, "python": lambda: loss.python_source().rstrip("\n"), "sympy": loss.sympy}
    try:
        if options.format in forms:
            print(forms[options.format]())
            return
        print(f"{loss!r}\nkind     {loss.kind}\nweights  {loss.size}\nlatex    {loss.latex()}")
    except TypeError as error:
        raise ValueError(error) from None
    if not is_run and not Path(options.loss).exists():
        print(_described(options.loss))


def _described(name: str) -> str:
    """Describe a loss of the zoo, in lines for a terminal."""
    record = decode(read_json(path_of(name)))
    found, score = record["provenance"], record["score"]
    lines = [
        f"from     {found['experiment']}, profile {found['profile']}, {found['method']}, seed {found['seed']}",
        f"shape    {record['shape']}",
        f"fitness  {score['fitness']:.4g}",
    ]
    for row in score["errors after meta-testing"]:
        tuned = f", {row['tuned baseline']:.4g} at its best rate" if "tuned baseline" in row else ""
        beside = f"(baseline {row['baseline']:.4g}{tuned})"
        lines.append(f"error    {row['group']}, {row['split']}: {row['error']:.4g} {beside}")
    return "\n".join([*lines, f"made by  {found['command']}"])


def _data(options: argparse.Namespace) -> None:
    if options.download and options.name is None:
        raise ValueError("--download takes the name of a data set, as in `evomal data mnist --download`")
    if options.name is not None:
        refuse_unknown("data set", options.name, list(DATASETS))
        if options.download:
            DATASETS[options.name].load(download=True)
    for name in DATASETS if options.name is None else [options.name]:
        print(f"{name:<16}{DATASETS[name].state()}")


if __name__ == "__main__":
    sys.exit(main())
