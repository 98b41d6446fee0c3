# Verbs: make demo [QUICK=1] [CORPUS=DIR] | test | dev [PORT=N] | lint | bench [NAME=…] | clean
SHELL := /bin/bash
PYTHON ?= $(firstword $(shell command -v python3.11 python3.12 python3 2>/dev/null))
VENV := .venv
BIN := $(VENV)/bin
export VOICE_PIPELINE_HOME ?= $(CURDIR)/.voice_pipeline

.PHONY: setup demo test dev lint bench clean lock

setup: $(VENV)/.ready

$(VENV)/.ready: requirements.lock pyproject.toml
	@echo "setting up $(VENV) from requirements.lock (about 300 packages, once)"
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 13))' \
	  || { echo "Python 3.11 or 3.12 is needed: make $(MAKECMDGOALS) PYTHON=/path/to/python3.11"; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	@$(BIN)/uv pip install --quiet --python $(BIN)/python -r requirements.lock
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation -e .
	@touch $@

demo: setup
	@$(BIN)/voice-pipeline demo $(if $(QUICK),--quick) $(if $(CORPUS),--corpus "$(CORPUS)") $(if $(SEED),--seed $(SEED))

test: setup # files side by side, each whole in one process; OMP: their arithmetic must not fight for the same cores
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist loadfile $(ARGS)

dev: setup
	@$(BIN)/voice-pipeline dev $(if $(PORT),--port $(PORT))

lint: setup
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

bench: setup
	@$(BIN)/voice-pipeline bench $(NAME) $(if $(CORPUS),--corpus "$(CORPUS)")

lock: # after a change of dependencies in pyproject.toml
	@$(BIN)/uv pip compile --quiet pyproject.toml --extra dev --python-version 3.11 --universal -o requirements.lock

clean: # a home that is somebody's or in use is left alone, and so is one where $(VENV) is missing: nobody can tell then
	@test -z "$$VOICE_PIPELINE_HOME" || test "$${VOICE_PIPELINE_HOME#"$(CURDIR)/"}" = .voice_pipeline \
	  || test "$$VOICE_PIPELINE_HOME" -ef .voice_pipeline \
	  || echo "make clean: home $$VOICE_PIPELINE_HOME (VOICE_PIPELINE_HOME) is left alone; of homes only .voice_pipeline is cleaned"
	@test ! -e .voice_pipeline || $(BIN)/python -m voice_pipeline.demo_home .voice_pipeline \
	  || { echo "make clean: nothing else was removed" >&2; test -x $(BIN)/python || echo "$(VENV) is missing: run \`make setup\` first" >&2; exit 1; }
	rm -rf $(VENV) .pytest_cache .ruff_cache .mypy_cache .hypothesis .import_linter_cache *.egg-info
