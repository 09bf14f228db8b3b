"""The notebooks run, write their files, and stop at a wrong parameter in their first cell."""

import json
import subprocess
import sys
from pathlib import Path

import nbformat
import pandas as pd
import papermill
import pytest
from IPython.core.interactiveshell import InteractiveShell
from IPython.core.pylabtools import select_figure_formats
from IPython.utils.capture import capture_output

from evomal_paper import notebook
from evomal_paper.experiments import catalogue
from evomal_paper.experiments.catalogue import EXPERIMENTS
from evomal_paper.reproduce import execute_notebook

NOTEBOOKS = sorted((Path(__file__).parents[2] / "notebooks").glob("*.ipynb"))
SMOKE = {
    "01_quickstart": {"generations": 1, "population": 3, "trainings": 2},
    "02_sine": {"profile": "smoke", "seeds": [0, 1], "jobs": 1},
    "03_mnist": {"profile": "smoke", "jobs": 1, "dataset": "digits"},
    "04_cifar10": {"profile": "smoke", "jobs": 1, "dataset": "digits5", "methods": ["baseline", "evomal"]},
    "05_surname": {"profile": "smoke", "jobs": 1},
    "06_tabular": {"profile": "smoke", "jobs": 1},
    "07_classification": {"profile": "smoke", "jobs": 1, "rows": ["digits-logistic"]},
    "08_transfer": {
        "profile": "smoke",
        "jobs": 1,
        "methods": ["baseline", "evomal"],
        "transfers": ["digits-logistic-to-digits-mlp"],
    },
    "09_landscapes": {
        "profile": "smoke",
        "jobs": 1,
        "methods": ["baseline", "evomal"],
        "experiments": ["digits-mlp"],
        "points": 5,
        "surface_points": 3,
    },
    "10_learning_rate": {"profile": "smoke", "jobs": 1, "seeds": [0], "rates": [0.01]},
    "11_learned_losses": {"profile": "smoke"},
    "12_runtime": {"profile": "smoke", "switched": "smoke"},
    "13_paper_vs_measured": {},
    "14_where_it_pays": {"seeds": [0, 1], "trainings": 2, "generations": 1, "population": 3},
}
SHORTER = {
    "01_quickstart": {
        "generations=generations": "generations=generations, initialisations=1, meta_steps=3, fitness_steps=5, "
        "finalists=2, finalist_steps=5",
        "train_on_validation=True": "train_on_validation=True, steps=5",
    }
}
"""Text of cells that is replaced, beside the parameters."""
NO_STAND_IN = {"05_surname": ["surname"], "14_where_it_pays": ["mnist", "california"]}
"""Experiments whose data notebooks can't do without."""
WRITTEN = {
    "01_quickstart": [
        "quickstart/loss.json",
        "quickstart/figures/loss_shape.png",
        "quickstart/tables/comparison.csv",
    ],
    "02_sine": [
        "sine/smoke/tables/table2.csv",
        "sine/smoke/tables/claims.csv",
        "sine/smoke/figures/figure5_out-of-sample.png",
        "sine/smoke/figures/figure6.png",
        "sine/smoke/runs.jsonl",
    ],
    "03_mnist": [
        "digits/smoke/tables/table2.csv",
        "digits/smoke/tables/right_and_wrong.csv",
        "digits/smoke/figures/figure5_out-of-sample_test.png",
        "digits/smoke/runs.jsonl",
    ],
    "04_cifar10": [
        "digits5/smoke/tables/against_baseline.csv",
        "digits5/smoke/figures/effective_losses.png",
        "digits5/smoke/figures/figure6.png",
    ],
    "05_surname": ["surname/smoke/tables/table2.csv", "surname/smoke/tables/examples.csv"],
    "06_tabular": [
        "diabetes/smoke/tables/tableIII.csv",
        "diabetes/smoke/tables/orders.csv",
        "diabetes/smoke/figures/tableIII.png",
        "diabetes/smoke@split=leaking/figures/figure4.png",
        "diabetes/smoke@split=leaking/runs.jsonl",
    ],
    "07_classification": [
        "classification/smoke/tables/tableII.csv",
        "classification/smoke/tables/not_run.csv",
        "digits-logistic/smoke/figures/learning_curves.png",
        "digits-logistic/smoke/figures/figure4.png",
        "digits-logistic/smoke/runs.jsonl",
    ],
    "08_transfer": [
        "transfer/smoke/tables/tableIV.csv",
        "transfer/smoke/tables/tableIV_published.csv",
        "transfer/smoke/figures/tableIV.png",
        "transfer/digits-logistic-to-digits-mlp/smoke/evomal/seed-0/test.csv",
    ],
    "09_landscapes": [
        "landscapes/smoke/tables/sharpness.csv",
        "landscapes/smoke/figures/figure7.png",
        "landscapes/smoke/figures/surfaces.png",
        "landscapes/digits-mlp/smoke/evomal/seed-0/line-5.csv",
    ],
    "10_learning_rate": [
        "learning_rate/sine/smoke/tables/gains.csv",
        "learning_rate/sine/smoke/figures/figure8.png",
        "sine/smoke@base.lr=0.01/runs.jsonl",
    ],
    "11_learned_losses": [
        "learned_losses/smoke/tables/tableVI.csv",
        "learned_losses/smoke/tables/simplifications.csv",
        "learned_losses/smoke/figures/figure6.png",
        "learned_losses/smoke/figures/explorer.png",
    ],
    "12_runtime": [
        "runtime/smoke/tables/tableV.csv",
        "runtime/smoke/tables/switched.csv",
        "runtime/smoke/figures/figure5.png",
        "runtime/smoke/figures/seconds.png",
        "diabetes/smoke@skip_irrelevant=true/runs.jsonl",
    ],
    "13_paper_vs_measured": [
        "paper_vs_measured/tables/cells.csv",
        "paper_vs_measured/tables/claims.csv",
        "paper_vs_measured/figures/verdicts.png",
        "paper_vs_measured/figures/ratios.png",
    ],
    "14_where_it_pays": ["where_it_pays/tables/wrong_labels.csv", "where_it_pays/figures/outliers_ranked.png"],
}
# Jupyter's own: deprecations of zmq and nbclient, and sockets that they leave to the garbage collector.
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning:papermill"),
]


SAID_OF_SMALL_SEARCHES = ("no loss was found that is better than", "local search hardly moves the weights")
PROGRESS = "%|"
"""Part of a line of a progress bar."""


def in_seconds(name):
    """A notebook of the repository, with what makes the quickstart a matter of seconds."""
    (path,) = (path for path in NOTEBOOKS if path.stem == name)
    found = nbformat.read(path, as_version=4)
    for old, new in SHORTER.get(name, {}).items():
        (cell,) = (cell for cell in found.cells if cell.cell_type == "code" and old in cell.source)
        cell.source = cell.source.replace(old, new)
    return found


def execute(name, target, **parameters):
    return execute_notebook(in_seconds(name), target, parameters, start_timeout=300, execution_timeout=600)


@pytest.fixture
def shell(monkeypatch):
    """IPython in this process: a kernel for each notebook would spend most of its time on imports."""
    monkeypatch.chdir(NOTEBOOKS[0].parent)
    made = InteractiveShell.instance()
    made.history_manager.enabled = False
    select_figure_formats(made, {"png"})
    yield made
    InteractiveShell.clear_instance()


def run_cells(shell, name, **parameters):
    """Execute a notebook in a shell, as papermill does; return the text on stderr and the MIME types shown."""
    whole = papermill.execute_notebook(in_seconds(name), None, parameters, prepare_only=True)
    errors, shown = "", set()
    for cell in whole.cells:
        if cell.cell_type == "code":
            with shell.display_trap, capture_output() as captured:
                done = shell.run_cell(cell.source, store_history=True)
            done.raise_error()
            errors += captured.stderr
            shown |= {kind for output in captured.outputs for kind in output.data}
    return errors, shown


def test_every_notebook_and_every_experiment_is_tested():
    assert [path.stem for path in NOTEBOOKS] == list(SMOKE)
    assert {entry.notebook for entry in EXPERIMENTS.values()} <= set(SMOKE)


@pytest.mark.parametrize("name", SMOKE)
def test_a_notebook_runs_and_writes_its_files(name, tmp_path, monkeypatch, shell, caplog):
    for experiment in NO_STAND_IN.get(name, ()):
        if missing := EXPERIMENTS[experiment].missing():
            pytest.skip(missing)
        monkeypatch.setenv("EVOMAL_KERNELS", "1")  # without them, real data take many minutes
    errors, shown = run_cells(shell, name, results_dir=str(tmp_path / "results"), **SMOKE[name])
    lines = [*caplog.messages, *(line for line in errors.splitlines() if line.strip() and PROGRESS not in line)]
    assert not [line for line in lines if not line.startswith(SAID_OF_SMALL_SEARCHES)]
    for file in WRITTEN[name]:
        assert (tmp_path / "results" / file).stat().st_size > 0
    assert {"image/png", "text/html"} <= shown


@pytest.mark.parametrize(("profile", "settings"), [("paper", []), ("paper@base.lr=0.5", ["search.base.lr"])])
def test_what_a_profile_changes_is_shown_even_where_it_is_nothing(profile, settings, tmp_path):
    path = next(path for path in NOTEBOOKS if path.stem == "07_classification")
    cells = nbformat.read(path, as_version=4).cells
    (source,) = [cell.source for cell in cells if "as published" in cell.source and cell.cell_type == "code"]
    outputs = {name: notebook.Output(tmp_path / name) for name in ("digits-logistic", "digits-mlp")}
    names = {"pd": pd, "outputs": outputs, "profile": profile, "profile_table": catalogue.profile_table}
    *before, last = source.rstrip().rsplit("\n", 1)
    exec(*before, names)
    shown = eval(last, names)
    assert list(shown.columns) == list(outputs)
    assert list(shown.index) == settings


def test_a_notebook_without_its_data_stops_with_one_line(tmp_path, monkeypatch, shell):
    monkeypatch.setenv("EVOMAL_DATA", str(tmp_path))
    with pytest.raises(FileNotFoundError, match=r"^surname is not at hand: `evomal data surname --down"):
        run_cells(shell, "05_surname", results_dir=str(tmp_path / "results"), **SMOKE["05_surname"])


def test_auto_takes_the_papers_data_if_it_is_at_hand_and_the_stand_in_otherwise(tmp_path, monkeypatch):
    monkeypatch.setenv("EVOMAL_DATA", str(tmp_path))
    name, said = notebook.choose_dataset("auto", "mnist", "digits")
    assert name == "digits"
    assert "since mnist is not at hand: `evomal data mnist --download` gets it" in said
    assert notebook.choose_dataset("auto", "digits", "sine")[0] == "digits"
    assert notebook.choose_dataset("digits", "mnist", "digits")[0] == "digits"
    with pytest.raises(ValueError, match="unknown data set 'digits5'; did you mean 'digits'"):
        notebook.choose_dataset("digits5", "mnist", "digits")


def test_a_wrong_parameter_stops_in_the_first_cell(tmp_path):
    with pytest.raises(papermill.PapermillExecutionError) as caught:
        execute("02_sine", tmp_path / "out.ipynb", results_dir=str(tmp_path / "results"), profil="smoke")
    message = "unknown parameter 'profil'; did you mean 'profile'?"
    assert (caught.value.ename, caught.value.evalue) == ("ValueError", message)
    executed = nbformat.read(tmp_path / "out.ipynb", as_version=4)
    ran = [cell.id for cell in executed.cells if cell.cell_type == "code" and cell.get("execution_count")]
    assert ran[-1] == "checks"
    assert not (tmp_path / "results").exists()


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_sources_are_clean_and_conventional(path):
    source = json.loads(path.read_text(encoding="utf-8"))
    assert (source["nbformat"], source["nbformat_minor"]) == (4, 5)
    assert source["metadata"]["kernelspec"]["name"] == "python3"
    nbformat.validate(source)
    code = [cell for cell in source["cells"] if cell["cell_type"] == "code"]
    assert not [cell["id"] for cell in code if cell["outputs"] or cell["execution_count"] is not None]
    assert code[0]["metadata"]["tags"] == ["parameters"]
    assert code[1]["id"] == "checks"
    assert len({cell["id"] for cell in source["cells"]}) == len(source["cells"])


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_papermill_knows_every_declared_parameter(path):
    declared: dict = {}
    exec(_parameters_cell(path), declared)
    known = papermill.inspect_notebook(path)
    assert set(known) == set(declared["__annotations__"])
    assert all(parameter["help"] for parameter in known.values())


def _parameters_cell(path):
    cells = nbformat.read(path, as_version=4).cells
    return next(cell.source for cell in cells if "parameters" in cell.metadata.get("tags", []))


def namespace(injected="", **changes):
    """Globals of a notebook after its parameters cell and, if given, papermill's."""
    names: dict = {"In": ["", _parameters_cell(next(path for path in NOTEBOOKS if path.stem == "06_tabular"))]}
    exec(names["In"][1], names)
    if injected:
        names["In"].append(f"# Parameters\n{injected}\n")
        exec(injected, names)
    return names | changes


def test_defaults_become_arguments_of_load_or_run():
    checked = notebook.check_parameters(namespace())
    assert checked["results_dir"] == Path(__file__).resolve().parents[2] / "results"
    assert (checked["seeds"], checked["methods"]) == (None, None)
    assert checked["datasets"][0] == "diabetes"  # which is always at hand
    assert notebook.check_parameters(namespace("seeds = [4, 2]"))["seeds"] == [4, 2]


@pytest.mark.parametrize(
    ("injected", "message"),
    [
        ("sed = [1]", "unknown parameter 'sed'; did you mean 'seeds'"),
        ("flavour = 1", "unknown parameter 'flavour'; known are profile, seeds, methods"),
        ("profile = 'quik'", "parameter profile = 'quik': unknown profile 'quik'; did you mean 'quick'"),
        ("profile = 3", "parameter profile = 3 is not of the declared type str"),
        ("seeds = 3", r"not of the declared type list\[int\]; with papermill write -y 'seeds: \[\.\.\.\]'"),
        ("seeds = [True]", r"parameter seeds = \[True\] is not of the declared type"),
        ("methods = 'evomal'", r"not of the declared type list\[str\]; with papermill write -y 'methods"),
        ("jobs = True", "parameter jobs = True is not of the declared type int"),
        ("splits = []", "parameter splits = .*: name one or more of disjoint, leaking"),
        ("splits = ['leaking', 'leaking']", "a split is named more than once"),
        ("splits = ['leeking']", "unknown split 'leeking'; did you mean 'leaking'"),
    ],
)
def test_each_wrong_parameter_has_its_one_line(injected, message):
    with pytest.raises(ValueError, match=message) as caught:
        notebook.check_parameters(namespace(injected))
    assert "\n" not in str(caught.value)


def test_a_corrected_cell_can_be_run_again_in_the_same_kernel():
    names = namespace("profil = 'smoke'")
    with pytest.raises(ValueError, match="profil"):
        notebook.check_parameters(names)
    names["In"].append("# Parameters\nprofile = 'smoke'\n")
    names["profile"] = "smoke"
    assert notebook.check_parameters(names)["profile"] == "smoke"


def test_names_of_later_cells_are_no_parameters():
    names = namespace(injected="jobs = 1", results=3, _hidden=1)
    names["In"].append("results = 3")
    assert notebook.check_parameters(names)["jobs"] == 1


def test_without_the_parameters_cell_the_message_says_what_to_run():
    with pytest.raises(ValueError, match="run the cell that is tagged 'parameters' first"):
        notebook.check_parameters({"In": [""]})


def test_relative_results_are_taken_from_the_project_or_else_from_here(tmp_path, monkeypatch):
    root = Path(__file__).resolve().parents[2]
    for folder, expected in ((root, root), (root / "notebooks", root), (tmp_path, tmp_path)):
        monkeypatch.chdir(folder)
        assert notebook.project_folder() == expected
    assert notebook.check_parameters(namespace("results_dir = 'mine'"))["results_dir"] == tmp_path / "mine"


def test_the_profile_table_lists_exactly_what_differs_from_the_paper():
    assert catalogue.profile_table("sine", "paper").empty
    changed = catalogue.profile_table("sine", "quick").set_index("setting")
    assert changed.loc["search.generations"].tolist() == [
        50,
        EXPERIMENTS["sine"].profile("quick").search.generations,
    ]
    assert "search.population" in catalogue.profile_table("sine", "smoke")["setting"].tolist()
    assert "search.meta_steps (but for ml3)" in changed.index


def test_notebooks_pass_the_linter_and_the_formatter():
    for command in (["check"], ["format", "--check"]):
        done = subprocess.run([sys.executable, "-m", "ruff", *command, *map(str, NOTEBOOKS)], check=False)
        assert done.returncode == 0
