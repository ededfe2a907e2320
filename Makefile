# make demo        installs, runs the demo, ends with a report to open
# make test        installs, runs every check
# make check-fast  style, the arrows between rooms, and the tests that take less than three seconds each (not marked slow); also: make fast
# make results     writes docs/results and the README's table from the kept results of the published comparison
# make docs        the documentation as a site, docs/_build/index.html
# make check       style, the arrows between rooms, types; no tests
# pip compiles 24,000 modules, of which a run imports a tenth; without that each is compiled when it is first imported.
VENV ?= .venv
PYTHON ?= python3
BIN := $(VENV)/bin

.PHONY: demo test check-fast fast check style results docs clean

demo: $(VENV)/.demo
	$(BIN)/wholegrain demo

test: check
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadgroup

fast: check-fast

check-fast: style
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadgroup -m "not slow"

check: style
	$(BIN)/pyright --pythonpath $(BIN)/python

style: $(VENV)/.dev
	$(BIN)/ruff check src tests tools benchmarks
	$(BIN)/lint-imports

results: $(VENV)/.dev
	PYTHONPATH=tools $(BIN)/python -m results render

docs: $(VENV)/.dev
	$(BIN)/python -m sphinx -q -W --keep-going -b html docs docs/_build

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.demo: pyproject.toml | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --no-compile -e .
	touch $@

$(VENV)/.dev: pyproject.toml | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --no-compile -e '.[dev]'
	touch $@ $(VENV)/.demo

clean:
	rm -rf $(VENV) demo demo-quick docs/_build
