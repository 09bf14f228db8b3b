"""The documentation: its examples run, and its site builds without a warning."""

from __future__ import annotations

import contextlib
import re
import shlex
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import torch

import evomal_core as em
from evomal_core import primitives
from evomal_core.files import read_json

ROOT = Path(__file__).parents[2]


PAGES = sorted(path.stem for path in (ROOT / "docs").glob("*.md"))


def blocks(text: str, language: str) -> list[str]:
    """The code blocks of a page in one language."""
    return re.findall(rf"```{language}\n(.*?)```", text, re.S)


def run_blocks(text: str, **names: object) -> dict[str, object]:
    """What the Python blocks of a page leave behind, run one after the other."""
    space: dict[str, object] = {"__name__": "page", **names}
    try:
        for block in blocks(text, "python"):
            exec(block, space)
    finally:
        for name in primitives.own_operations():
            primitives.unregister(name)
    return space


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty folder to run a page in."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_each_page_with_code_is_run_by_a_test():
    run = {"index", "learn", "labels", "cluster", "trainers"}  # those of trainers in test_trainers.py, too
    texts = {page: (ROOT / "docs" / f"{page}.md").read_text() for page in PAGES}
    assert {page for page, text in texts.items() if blocks(text, "python")} == run
    languages = {found for text in texts.values() for found in re.findall(r"^ *```(\w+)", text, re.M)}
    assert languages == {"python", "sh"}


@pytest.mark.parametrize("page", ["index", "learn", "labels"])
def test_the_examples_of_a_page_run(page, here):
    if page == "learn":
        pytest.importorskip("sklearn")
    run_blocks((ROOT / "docs" / f"{page}.md").read_text())
    if page == "labels":
        assert '"operations"' in (here / "loss.json").read_text()


def test_the_examples_without_a_trainer_run(here):
    em.LearnedLoss("square(sub(y, f))", "multiclass").save("loss.json")
    text = (ROOT / "docs" / "trainers.md").read_text()
    plain = text[text.index("## Plain PyTorch") : text.index("## Hugging Face Trainer")]
    assert len(blocks(plain, "python")) == 2
    space = run_blocks(plain)
    logits, labels = torch.randn(8, 3), torch.randint(3, (8,))
    wanted = space["loss"](logits, labels)
    torch.testing.assert_close(space["space"]["learned_loss"](logits, labels), wanted)
    torch.testing.assert_close(space["graph"].module()(logits, labels), wanted)


def test_the_example_of_the_readme_runs(here):
    """With a small search in place of the whole one."""
    rng = torch.Generator().manual_seed(0)
    x, y = torch.randn(90, 4, generator=rng), torch.randint(3, (90,), generator=rng)
    small = em.EVERYDAY.replace(
        population=4, generations=1, meta_steps=2, fitness_steps=5, finalists=0, known=False
    )

    class Library:
        """The package, whose searches and comparisons are small."""

        def __getattr__(self, name):
            return getattr(em, name)

        def learn_loss(self, *arguments, **keywords):
            result = em.learn_loss(*arguments, **keywords, config=small, progress=False)
            object.__setattr__(result, "compare", lambda: None)
            return result

    (block,) = blocks((ROOT / "README.md").read_text(), "python")
    space = {
        "em": Library(),
        "Network": lambda: em.models.mlp(4, [4], 3),
        **{"x": x[:40], "y": y[:40], "x_clean": x[40:60], "y_clean": y[40:60], "x_test": x[60:], "y_test": y[60:]},
        "model": em.models.mlp(4, [4], 3),
    }
    exec(block.replace("import evomal_core as em\n", ""), space)
    assert (here / "loss.json").exists()


def stand_in(name: str, **attributes: object) -> ModuleType:
    """A module in place of one that is not installed here."""
    module = ModuleType(name)
    vars(module).update(attributes)
    return module


@pytest.mark.filterwarnings("ignore")  # of Dask's own packages
def test_the_examples_of_the_cluster_run(here, monkeypatch, capsys):
    """With threads in place of Dask's processes, which test_dask has, and of Slurm's and ipyparallel's workers."""
    distributed = pytest.importorskip("distributed")

    class Threads(distributed.LocalCluster):
        def __init__(self, n_workers=0, threads_per_worker=1):
            count = {"n_workers": n_workers, "threads_per_worker": threads_per_worker}
            super().__init__(**count, processes=False, dashboard_address=":0")

    class SLURMCluster(Threads):
        def __init__(self, cores, processes, memory, walltime, job_extra_directives):
            super().__init__(threads_per_worker=cores)

        def job_script(self):
            return "#SBATCH"

        def scale(self, jobs):
            super().scale(min(jobs, 2))

    @contextlib.contextmanager
    def engines(n):
        with ThreadPoolExecutor(n) as pool:
            yield SimpleNamespace(executor=lambda: pool)

    monkeypatch.setattr(distributed, "LocalCluster", Threads)
    # the real job queue would need Slurm's commands
    monkeypatch.setitem(sys.modules, "dask_jobqueue", stand_in("dask_jobqueue", SLURMCluster=SLURMCluster))
    if find_spec("ipyparallel") is None:
        monkeypatch.setitem(sys.modules, "ipyparallel", stand_in("ipyparallel", Cluster=engines))
    text = (ROOT / "docs" / "cluster.md").read_text()
    assert len(blocks(text, "python")) == 4
    run_blocks(text)
    assert "http://" in capsys.readouterr().out
    found = [(here / "runs" / name / "checkpoint.json") for name in ("mine", "slurm", "engines", "pool")]
    states = [read_json(path)["state"] for path in found]
    assert all(state["archive"] == states[0]["archive"] for state in states)


@pytest.mark.parametrize("page", [*(f"docs/{page}.md" for page in PAGES), "README.md"])
def test_commands_in_pages_are_ones_that_the_command_knows(page):
    cli = pytest.importorskip("evomal_paper.cli")
    text = (ROOT / page).read_text()
    lines = [line.split("#")[0].strip() for block in blocks(text, "sh") for line in block.splitlines()]
    given = [re.split(r"[;&|]", words)[0] for line in lines for words in re.findall(r"\bevomal (\w.*)", line)]
    for words in given:
        with contextlib.suppress(SystemExit):
            cli._parser().parse_args([word for word in shlex.split(words) if word != "<"])
            continue
        pytest.fail(f"evomal {words}")
    targets = {name for line in lines for name in re.findall(r"\bmake ([a-z]+)", line)}
    assert targets <= set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.M))


def test_the_site_builds_without_a_warning(tmp_path):
    pytest.importorskip("material", reason="no mkdocs-material here; pip install evomal[docs]")
    pytest.importorskip("mkdocstrings")
    built = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")],
        cwd=ROOT, capture_output=True, text=True, timeout=1200,
    )  # fmt: skip
    assert built.returncode == 0, built.stderr
    reference = (tmp_path / "site" / "reference" / "index.html").read_text()
    for name in em.__all__:
        assert re.search(rf'id="evomal_core\.(\w+\.)?{name}"', reference), f"{name} is not in docs/reference.md"
    fields = {
        f"{kind.__name__}.{name}" for kind in (em.SearchConfig, em.SGD, em.Optimizer) for name in kind.model_fields
    }
    assert {name for name in fields if f'id="evomal_core.{name}"' not in reference} == set(), (
        "they lack a docstring"
    )
