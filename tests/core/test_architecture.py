"""The two packages: which may import which, no circle of imports anywhere, and a light core."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("evomal_core", "evomal_paper")
OPTIONAL = {"IPython", "dask", "ipywidgets", "numba"}
"""Packages that a function may import: the code does without them where they are not installed."""
HEAVY = {
    *("IPython", "cmaes", "matplotlib", "numba", "pandas", "papermill", "scipy", "seaborn", "sklearn", "sympy"),
    "torchvision",
}
"""Packages that `import evomal_core` leaves alone until they are used."""

FRAGMENTS = {"As", "At", "By", "From", "How", "Of", "That", "These", "Those", "What", "Which"}
"""Words that no docstring opens with: what follows is half a sentence."""


def name_of(path: Path) -> str:
    parts = list(path.relative_to(ROOT).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {name_of(path): path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))}


def imported(node: ast.AST, modules: set[str]) -> Iterator[str]:
    """The modules that an import statement loads; submodules of a package by their own name."""
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        assert node.level == 0, "imports are absolute"
        for alias in node.names:
            whole = f"{node.module}.{alias.name}"
            yield whole if whole in modules else str(node.module)


def imports_of(tree: ast.AST, modules: set[str]) -> set[str]:
    return {name for node in ast.walk(tree) for name in imported(node, modules)}


def hidden_imports(tree: ast.AST) -> set[str]:
    """Top-level names of the packages that functions import."""
    functions = (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))
    return {name.split(".")[0] for function in functions for name in imports_of(function, set())}


def circle(arrows: dict[str, set[str]]) -> list[str]:
    """Modules that import each other in a circle, in its order; empty if there is none."""
    done: set[str] = set()

    def walk(name: str, path: list[str]) -> list[str]:
        if name in path:
            return [*path[path.index(name) :], name]
        if name not in done:
            for other in sorted(arrows[name]):
                if found := walk(other, [*path, name]):
                    return found
            done.add(name)
        return []

    return next(filter(None, (walk(name, []) for name in sorted(arrows))), [])


def loaded(tree: ast.Module) -> set[str]:
    """The modules that importing one loads: what only annotations need is left out."""
    kept = [
        node for node in tree.body if not (isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING")
    ]
    return imports_of(ast.Module(kept, []), set(MODULES))


def height(name: str, arrows: dict[str, set[str]]) -> int:
    """The floor that a module stands on: one above the highest module that it imports."""
    return 1 + max((height(other, arrows) for other in arrows[name]), default=0)


TREES = {name: ast.parse(path.read_text(encoding="utf-8")) for name, path in MODULES.items()}


def test_the_core_knows_nothing_of_the_paper() -> None:
    core = {name: imports_of(tree, set(MODULES)) for name, tree in TREES.items() if name.startswith("evomal_core")}
    assert "evomal_core.search" in core
    assert not {name for name, others in core.items() if any(other.startswith("evomal_paper") for other in others)}


def test_functions_import_optional_packages_only() -> None:
    assert {name: hidden for name, tree in TREES.items() if (hidden := hidden_imports(tree) - OPTIONAL)} == {}


def test_no_modules_import_each_other_in_a_circle() -> None:
    arrows = {name: imports_of(tree, set(MODULES)) & set(MODULES) - {name} for name, tree in TREES.items()}
    assert circle(arrows) == []


def test_the_core_has_nine_floors_at_most() -> None:
    core = {name: tree for name, tree in TREES.items() if name.startswith("evomal_core.")}
    arrows = {name: loaded(tree) & core.keys() for name, tree in core.items()}
    assert max(height(name, arrows) for name in core) <= 9
    named = {name: (imports_of(tree, set(MODULES)) & core.keys()) - arrows[name] for name, tree in core.items()}
    assert {name: others for name, others in named.items() if others} == {
        "evomal_core.population.networks": {"evomal_core.learners"},
        "evomal_core.symbolic": {"evomal_core.expression"},
    }


def test_floors_count_what_is_loaded() -> None:
    tree = ast.parse("from evomal_core import kinds\nif TYPE_CHECKING:\n    from evomal_core import search")
    assert loaded(tree) == {"evomal_core.kinds"}
    assert height("a", {"a": {"b", "c"}, "b": {"c"}, "c": set()}) == 3


def test_a_circle_and_a_hidden_import_are_noticed() -> None:
    assert circle({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == ["b", "c", "b"]
    assert hidden_imports(ast.parse("import os\ndef f():\n    from pandas.api import types")) == {"pandas"}
    assert imports_of(ast.parse("from a import b, c"), {"a", "a.b"}) == {"a.b", "a"}
    assert list(openings(ast.parse("'''As said.'''\nclass C:\n    x: int\n    '''What, so.'''"))) == ["As", "What"]


def test_importing_the_core_is_light() -> None:
    code = "import sys, torch; before = set(sys.modules); import evomal_core; print(*set(sys.modules) - before)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    loaded = {name.split(".")[0] for name in done.stdout.split()}
    assert "evomal_core" in loaded
    assert not loaded & HEAVY


WITHOUT_EXTRAS = """
import sys
from importlib.machinery import PathFinder

class Without(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name.split(".")[0] in ABSENT else super().find_spec(name, path, target)

ABSENT = {"IPython", "jinja2", "matplotlib", "numba", "pandas", "papermill", "seaborn", "sklearn", "torchvision"}
sys.meta_path[sys.meta_path.index(PathFinder)] = Without
import numpy as np, evomal_core as em

x = np.random.default_rng(0).normal(size=(20, 2))
task = em.Task.from_arrays(x, x.sum(axis=1), kind="regression")
config = em.SearchConfig(population=4, generations=1, meta_steps=1, fitness_steps=2, rejection_steps=2)
result = em.learn_loss([task], lambda: em.models.mlp(2, [3], 1), config=config, progress=False)
print(result, result.best.latex())
for attempt in (result.table, lambda: em.LossSearch, lambda: em.make_metric("accuracy", "binary")):
    try:
        attempt()
    except (ImportError, ValueError) as error:
        print(error)
import evomal_paper
"""


def test_the_library_works_without_the_extras_and_names_the_one_that_is_missing() -> None:
    done = subprocess.run([sys.executable, "-c", WITHOUT_EXTRAS], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.startswith("SearchResult(evomal"), done.stderr
    assert "this needs pandas, which is not installed: pip install 'evomal[paper]'" in done.stdout
    assert done.stdout.count("pip install 'evomal[paper]'") == 3
    assert "pip install 'evomal[paper]'" in done.stderr


def openings(tree: ast.AST) -> Iterator[str]:
    """The first word of each docstring, those of attributes included."""
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        for statement in body if isinstance(body, list) else []:
            match statement:
                case ast.Expr(ast.Constant(str(text))):
                    yield text.split()[0].rstrip(",:")


def test_docstrings_open_with_a_verb_or_a_noun() -> None:
    assert {name: found for name, tree in TREES.items() if (found := FRAGMENTS & set(openings(tree)))} == {}
