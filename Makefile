# Each target sets up .venv itself, once per state of pyproject.toml and constraints.txt.
# Paths are relative or quoted, so that a folder with spaces in its name works.

PYTHON ?= python3
PIP_FLAGS ?=
ARGS ?=
PORT ?= 5000
BENCHMARKS ?= benchmarks/models.py

SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.PHONY: help install demo test bench lint format ui clean

STAMP := .venv/.installed
PY := .venv/bin/python

# Nothing is reported to anyone. HF_HUB_OFFLINE=0 allows weights from a hub.
export DO_NOT_TRACK := true
export MLFLOW_DISABLE_TELEMETRY := true
export PREFECT_SERVER_ANALYTICS_ENABLED := false
export DVC_NO_ANALYTICS := 1
export HF_HUB_DISABLE_TELEMETRY := 1
export HF_HUB_OFFLINE ?= 1
# Threads of neighbouring processes must not spin against each other.
export OMP_WAIT_POLICY ?= passive
export PATH := $(CURDIR)/.venv/bin:$(PATH)

# pip says a line per package; the terminal shows the newest, a log the steps only.
ifneq ($(TERM),)
SHOW := awk '/^(Collecting|Downloading|Building|Installing)/ { printf "\r\033[K  %s", substr($$0, 1, 100); fflush() } END { printf "\r\033[K" }'
else
SHOW := awk '/^(Installing|Successfully)/ { print "  " substr($$0, 1, 100); fflush() }'
endif

help:
	@echo 'make install   the environment in .venv'
	@echo 'make demo      the whole pipeline on the sample videos; ARGS="--stages evaluate" for a part'
	@echo 'make ui        look at its runs in MLflow; PORT=5000'
	@echo 'make test      the tests; ARGS="-k windows" for some'
	@echo 'make bench     the benchmarks; BENCHMARKS=benchmarks/models.py ARGS="--frames 16" for one'
	@echo 'make lint      ruff, formatting and types;  make format  puts right what it can'
	@echo 'PYTHON=python3.12 chooses the interpreter (3.11 or newer), PIP_FLAGS=... goes to pip'

install: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "error: Python 3.11 or newer is needed, and '$(PYTHON)' is not; try: make $(or $(MAKECMDGOALS),install) PYTHON=python3.12" >&2; exit 1; }
	@test -x $(PY) || { echo 'creating .venv'; $(PYTHON) -m venv .venv; }
	@echo 'installing torch'
	@$(PY) -m pip install $(PIP_FLAGS) --disable-pip-version-check --progress-bar off -c constraints.txt torch | $(SHOW)
	@echo 'installing the other packages'
	@$(PY) -m pip install $(PIP_FLAGS) --disable-pip-version-check --progress-bar off -c constraints.txt -e '.[dev]' | $(SHOW)
	@touch $(STAMP)

demo: $(STAMP)
	@$(PY) -m flows.pipeline $(ARGS)

test: $(STAMP)
	@$(PY) -m pytest --numprocesses 2 --dist loadfile $(ARGS)

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

ui: $(STAMP)
	@mkdir -p .lumiere
	@echo 'MLflow: http://127.0.0.1:$(PORT)   (Ctrl-C ends it)'
	@$(PY) -m mlflow ui --host 127.0.0.1 --port $(PORT) --workers 1 \
	  --backend-store-uri "sqlite:///$(CURDIR)/.lumiere/mlflow.db" --default-artifact-root "$(CURDIR)/.lumiere/mlartifacts"

clean:
	rm -rf outputs .lumiere .dvc/cache .dvc/tmp
