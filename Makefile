# make demo: the main job on real images, without a network. make test: everything CI runs.
# Needs only make and Python 3.10 to 3.13; everything is installed into .venv.

VENV := .venv
BIN := $(VENV)/bin
DEMO_FLAGS ?=
PYTEST_FLAGS ?=

# The newest supported Python that starts (a name alone proves nothing: version managers put up
# names for versions that are switched off). Override: make demo PYTHON=/path/to/python3.12
PYTHON ?= $(shell for name in python3.13 python3.12 python3.11 python3.10 python3 python; do \
	if $$name -c '$(SUPPORTED)' >/dev/null 2>&1; then echo $$name; break; fi; done)
SUPPORTED := import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 13))

# Quiet, but what goes wrong is shown.
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
# Present while pip works: an environment where pip was interrupted is made anew, not repaired.
UNFINISHED := $(VENV)/.unfinished

.DEFAULT_GOAL := help
.PHONY: help demo test lint format env dev clean

help:
	@echo 'make demo    few labels, many unlabelled digits: supervised baseline against RealMix'
	@echo 'make test    ruff, mypy and all tests'
	@echo 'make lint    ruff and mypy only'
	@echo 'make format  put the code into the standard form'
	@echo 'make env     only the environment, in $(VENV)'
	@echo 'make clean   remove the environment, the results of the demo and caches'
	@echo 'PYTHON=...   the Python to use, 3.10 to 3.13 (now: $(or $(PYTHON),none found))'

demo: env
	@$(BIN)/python scripts/demo.py $(DEMO_FLAGS)

test: lint
	@echo '== quick tests'
	@$(BIN)/python -m pytest -q -n 2 -m 'not process' $(PYTEST_FLAGS)
	@echo '== tests that start commands'
	@$(BIN)/python -m pytest -q -n 2 -m process $(PYTEST_FLAGS)

lint: dev
	@echo '== ruff and mypy'
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/mypy scripts/demo.py scripts/recipes/mismatch.py

format: dev
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

env: $(VENV)/.ready
dev: $(VENV)/.ready-dev

# An environment whose Python has gone (upgraded, moved) is not there.
ifneq ($(wildcard $(VENV)),)
ifneq ($(shell $(BIN)/python -c '$(SUPPORTED)' >/dev/null 2>&1 && echo works),works)
.PHONY: $(VENV)/.python
endif
ifneq ($(wildcard $(UNFINISHED)),)
.PHONY: $(VENV)/.python
endif
# Another Python was asked for than the environment has.
ifneq ($(origin PYTHON),file)
SHOW := import sys; print(sys.version)
ifneq ($(shell $(BIN)/python -c '$(SHOW)' 2>&1),$(shell '$(PYTHON)' -c '$(SHOW)' 2>&1))
.PHONY: $(VENV)/.python
endif
endif
endif

$(VENV)/.python:
	@test -n '$(PYTHON)' || { \
	  echo 'error: no Python 3.10, 3.11, 3.12 or 3.13 was found; install one, or: make PYTHON=/path/to/python' >&2; \
	  exit 2; }
	@'$(PYTHON)' -c '$(SUPPORTED)' >/dev/null 2>&1 || { \
	  echo 'error: $(PYTHON) is not a Python from 3.10 to 3.13; try: make PYTHON=/path/to/python3.12' >&2; \
	  exit 2; }
	@'$(PYTHON)' -c 'import ensurepip, venv' >/dev/null 2>&1 || { \
	  echo "error: $(PYTHON) cannot make environments (ensurepip is missing); install your system's package for it, such as: apt install python3-venv" >&2; \
	  exit 2; }
	@echo "making $(VENV) with $$('$(PYTHON)' --version)"
	@'$(PYTHON)' -m venv --clear $(VENV)
	@touch $@

$(VENV)/.ready: $(VENV)/.python requirements.txt pyproject.toml
	@echo 'installing the package into $(VENV); TensorFlow is large, this takes some minutes'
	@touch $(UNFINISHED)
	@$(PIP) install -e .
	@rm -f $(UNFINISHED)
	@touch $@

$(VENV)/.ready-dev: $(VENV)/.ready
	@echo 'installing the test tools into $(VENV)'
	@touch $(UNFINISHED)
	@$(PIP) install -e '.[dev]'
	@rm -f $(UNFINISHED)
	@touch $@

clean:
	@rm -rf $(VENV) .demo build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
