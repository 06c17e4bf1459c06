# Each target sets up .venv itself, once per state of pyproject.toml and constraints.txt.
# Paths are relative or quoted, so that a folder with spaces in its name works.

PYTHON ?= python3
PIP_FLAGS ?=
ARGS ?=
PORT ?=
BENCHMARKS ?= benchmarks/models.py

SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.PHONY: help install demo repro test bench lint format audit ui serve serve-stop clean

STAMP := .venv/.installed
PY := .venv/bin/python

# No package may report its use. HF_HUB_OFFLINE=0 allows the download of weights from a hub.
export DO_NOT_TRACK := true
export MLFLOW_DISABLE_TELEMETRY := true
export PREFECT_SERVER_ANALYTICS_ENABLED := false
export DVC_NO_ANALYTICS := 1
export HF_HUB_DISABLE_TELEMETRY := 1
export HF_HUB_OFFLINE ?= 1
# Threads of neighbouring processes must not spin against each other.
export OMP_WAIT_POLICY ?= passive
export PATH := $(CURDIR)/.venv/bin:$(PATH)

# pip prints a line per package. A terminal shows the newest line, and a log shows the last steps only.
SHOW_NEWEST := awk '/^(Collecting|Downloading|Building|Installing)/ { printf "\r\033[K  %s", substr($$0, 1, 100); fflush() } END { printf "\r\033[K" }'
SHOW_STEPS := awk '/^(Installing|Successfully)/ { print "  " substr($$0, 1, 100); fflush() }'
SHOW := if [ -t 1 ]; then $(SHOW_NEWEST); else $(SHOW_STEPS); fi

help:
	@echo 'make install   install the tested packages into .venv'
	@echo 'make demo      run the whole pipeline on the sample videos; ARGS="--stages evaluate" runs a part'
	@echo 'make repro     run what is out of date with DVC alone; ARGS=curate runs a part'
	@echo 'make ui        open the runs in MLflow; PORT=5001 uses another port'
	@echo 'make serve     run the schedules of prefect.yaml until Ctrl-C or make serve-stop; PORT=4201 uses another port'
	@echo 'make test      run the tests; ARGS="-k windows" runs some'
	@echo 'make bench     compare the networks; BENCHMARKS=benchmarks/generate.py runs another benchmark'
	@echo 'make lint      check style, formatting and types; make format fixes what it can'
	@echo 'make audit     ask whether the tested packages have known vulnerabilities; needs the internet'
	@echo 'make clean     delete outputs/, .lumiere/ and the cache of DVC'
	@echo 'PYTHON=python3.12 selects the interpreter (3.11 or newer); PIP_FLAGS=... is passed to pip'

install: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "error: '$(PYTHON)' is older than Python 3.11 or cannot be started; try: make $(or $(MAKECMDGOALS),install) PYTHON=python3.12" >&2; exit 1; }
	@test -x $(PY) || { echo 'creating .venv'; $(PYTHON) -m venv .venv; }
	@echo 'installing torch'
	@$(PY) -m pip install $(PIP_FLAGS) --disable-pip-version-check --progress-bar off -c constraints.txt torch | $(SHOW)
	@echo 'installing the other packages'
	@$(PY) -m pip install $(PIP_FLAGS) --disable-pip-version-check --progress-bar off -c constraints.txt -e '.[dev]' | $(SHOW)
	@touch $(STAMP)

demo: $(STAMP)
	@$(PY) -m flows.pipeline $(ARGS)

# DVC waits for ever at a pipe among the raw videos, so they are looked at first.
repro: $(STAMP)
	@$(PY) -m flows.inputs
	@$(PY) -m dvc repro $(ARGS)

# In the order of the folders: xdist would begin with the files of most tests, and a slow file of few
# tests would end alone. Four processes for two cores, because many tests wait for a time limit or
# for a process that they have killed.
test: $(STAMP)
	@$(PY) -m pytest --numprocesses 4 --dist loadfile --no-loadscope-reorder $(ARGS)

bench: $(STAMP)
	@$(PY) -m pip install --quiet $(PIP_FLAGS) --constraint constraints.txt -e '.[bench]'
	@for file in $(BENCHMARKS); do echo "$$file"; $(PY) "$$file" $(ARGS) || exit 1; done

lint: $(STAMP)
	@$(PY) -m ruff check .
	@$(PY) -m ruff format --check .
	@$(PY) -m mypy

format: $(STAMP)
	@$(PY) -m ruff check --fix .
	@$(PY) -m ruff format .

# Not part of CI: what it finds depends on the day and not on the commit, and it needs the internet.
audit: $(STAMP)
	@test -x .venv/audit/bin/pip-audit || { $(PY) -m venv .venv/audit; \
	  .venv/audit/bin/python -m pip install --quiet $(PIP_FLAGS) --disable-pip-version-check 'pip-audit>=2.10,<3'; }
	@.venv/audit/bin/pip-audit --requirement constraints.txt --no-deps --disable-pip --strict $(ARGS)

ui: $(STAMP)
	@$(PY) -m lumiere.tracking.pages --port $(or $(PORT),5000) $(ARGS)

serve: $(STAMP)
	@$(PY) -m flows.serve --port $(or $(PORT),4200)

serve-stop: $(STAMP)
	@$(PY) -m flows.serve --stop

# A run with other params keeps params.yaml as it was in .lumiere/, so the file is put back first.
clean:
	@if [ -e $(STAMP) ]; then $(PY) -m flows.run_params; elif [ -e .lumiere/params-before.yaml ]; then \
	  echo "error: a run changed params.yaml and did not put it back; 'make install clean' does so" >&2; exit 1; fi
	rm -rf outputs .lumiere .dvc/cache .dvc/tmp
