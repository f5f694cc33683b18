# The index: every job of this project by name.
PYTHON ?= python3.11
VENV ?= .venv
BIN = $(VENV)/bin
PIP = $(BIN)/python -m pip install --quiet --constraint constraints.txt

.PHONY: demo test slow lint formats bench

demo: $(VENV)/.demo  ## judge the example's quantized models
	$(BIN)/python -m pytest --quantgate example_project

test: $(VENV)/.dev  ## run the tests
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto -m "not slow and not gpu" tests

slow: $(VENV)/.dev  ## run the slow tests, too
	$(BIN)/python -m pytest -m "not gpu" tests

lint: $(VENV)/.dev  ## style, types, layers
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

formats: $(VENV)/.dev  ## measure every format that loads here; writes the table of docs/formats.md
	$(BIN)/python benchmarks/formats.py --write

bench: $(VENV)/.bench  ## measure speed and size; prints the table of docs/benchmarks.md
	$(BIN)/python benchmarks/run.py

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

# torch alone first, so that no other package picks a build of its own
$(VENV)/.torch: constraints.txt | $(VENV)/bin/python
	$(PIP) torch
	touch $@

$(VENV)/.demo: pyproject.toml constraints.txt $(VENV)/.torch
	$(PIP) --editable ".[all]"
	touch $@

$(VENV)/.dev: pyproject.toml constraints.txt $(VENV)/.torch
	$(PIP) --editable ".[dev]"
	touch $@

$(VENV)/.bench: pyproject.toml constraints.txt $(VENV)/.torch
	$(PIP) --editable ".[bench]"
	touch $@
