# make demo: own environment, pinned dependencies, then the main job of the README.
# make test: own environment, pinned dependencies, then linters and all tests.
# make docs: the documents as pages, docs/_build/html/index.html; a warning is an error.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip
JOBS ?= 2

.PHONY: demo test lint docs clean test-torch

demo: $(VENV)/.demo
	$(BIN)/regflat profile llama-3-8b --phase prefill --batch 1 --seq-len 2048 --chip h100-sxm --chip regflat-physical

test: lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n $(JOBS)

lint: $(VENV)/.test
	$(BIN)/python -m ruff check .
	$(BIN)/python -m mypy
	$(BIN)/lint-imports

docs: $(VENV)/.docs
	$(BIN)/python -m sphinx -q -W --keep-going -b html docs docs/_build/html

# make test-torch TORCH=2.11.0: the fast tests on another torch, in an environment of its own, without the pins.
TORCH ?= 2.11.0
OTHER := .venv-torch-$(TORCH)
test-torch:
	test -x $(OTHER)/bin/python || $(PYTHON) -m venv $(OTHER)
	$(OTHER)/bin/python -m pip install torch==$(TORCH) -e '.[hf,html,test]'
	OMP_NUM_THREADS=1 $(OTHER)/bin/python -m pytest -q -n $(JOBS) -m "not slow"

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "$(PYTHON) is older than Python 3.11; name a newer one: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 2; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.demo: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(PIP) install -c constraints.txt -e '.[hf]'
	touch $@

$(VENV)/.test: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(PIP) install -c constraints.txt -e '.[hf,diffusers,html,test,dev,docs]'
	touch $@ $(VENV)/.demo $(VENV)/.docs

$(VENV)/.docs: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(PIP) install -c constraints.txt 'sphinx>=8' 'myst-parser>=4'
	touch $@

clean:
	rm -rf $(VENV) .venv-torch-* build docs/_build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
