# Two commands on a fresh machine with Python 3.11-3.13: `make reproduce` and `make test`.

PYTHON ?= python3
PROFILE ?= quick
EXPERIMENTS ?=
RESULTS ?= results
JOBS ?= 0
WORKERS ?= 2

BIN := .venv/bin
READY := .venv/.ready

# The networks are small: they run fastest on one thread each.
export OMP_NUM_THREADS ?= 1
# Notebooks, workers and tests are many processes: each would compile the packages anew.
export PYTHONDONTWRITEBYTECODE =

# What is wrong with $(PYTHON), in one line; empty if nothing is.
define PYTHON_CHECK
import sys; v = "%d.%d" % sys.version_info[:2]; \
ok = (3, 11) <= sys.version_info[:2] <= (3, 13); \
need = "" if ok else "$(PYTHON) is Python " + v + " but 3.11, 3.12 or 3.13 is needed: name one, as in make PYTHON=python3.12"; \
from importlib.util import find_spec as f; \
need = need or ("" if f("venv") and f("ensurepip") else "$(PYTHON) lacks the venv module: install it, as in apt-get install python3-venv"); \
sys.stdout.write(need)
endef
python_problem = $(if $(shell command -v $(PYTHON)),$(shell $(PYTHON) -c '$(PYTHON_CHECK)' || echo $(PYTHON) does not run),$(PYTHON) is not installed: name a Python of 3.11 to 3.13, as in make PYTHON=python3.12)
refuse = $(if $(1),$(error $(1)))

.PHONY: help install reproduce test lint docs notebooks benchmark clean
.DEFAULT_GOAL := help

help: ## show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "make %-10s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))
	@echo
	@echo 'make reproduce takes PROFILE=$(PROFILE), EXPERIMENTS="sine tabular" (default: all whose data is at hand),'
	@echo 'RESULTS=$(RESULTS) (a folder) and JOBS=$(JOBS) (runs computed at once; 0: one a core).'
	@echo 'Set-up takes PYTHON=$(PYTHON); make test takes WORKERS=$(WORKERS).'

install: $(READY) ## set up .venv (the others do it by themselves)

$(READY): pyproject.toml constraints.txt
	@$(call refuse,$(python_problem))echo 'Setting up .venv with $(PYTHON): some minutes, once.'
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[paper,notebooks,dev,fast,docs]'
	@touch $@

reproduce: $(READY) ## run the papers' experiments; tables, figures and executed notebooks go to results/
	$(BIN)/evomal reproduce --profile '$(PROFILE)' --results-dir '$(RESULTS)' --jobs '$(JOBS)' $(EXPERIMENTS)

test: lint ## check style and types, and run the tests
	$(BIN)/pytest -n '$(WORKERS)' --dist worksteal

lint: $(READY) ## check style and types only
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

docs: $(READY) ## build the documentation's site into site/
	$(BIN)/mkdocs build --strict

notebooks: $(READY) ## open the notebooks in JupyterLab
	$(BIN)/jupyter lab notebooks

benchmark: $(READY) ## measure the speed of the engines
	$(BIN)/python -m tests.speed

clean: ## remove .venv and caches; data/ and results/ stay
	rm -rf .venv build dist site *.egg-info .pytest_cache .ruff_cache .mypy_cache .hypothesis
	find . '(' -name __pycache__ -o -name .ipynb_checkpoints ')' -prune -exec rm -rf {} +
