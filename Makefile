# Everything a fresh machine needs: Python >= 3.11, make, and the package registries.
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
AGENT := envfarm/sandbox/_bin/envfarm-agent

.PHONY: setup setup-rl agent system demo test test-rl test-k8s testbed test-all check clean go-test
.DEFAULT_GOAL := setup

# The stamp holds the machine's Python, so that another interpreter sets up again.
$(VENV)/.stamp: pyproject.toml $(wildcard constraints/*.txt)
	@$(PYTHON) -c 'import sys; sys.exit("envfarm needs Python 3.11 or later: set PYTHON=/path/to/python3.11" if sys.version_info < (3, 11) else 0)'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip --quiet install --constraint constraints/dev.txt uv
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --constraint constraints/dev.txt --editable '.[dev]'
	@touch $@

# torch and its friends, 5 GB: apart, because the default tests do not need them.
$(VENV)/.stamp-rl: $(VENV)/.stamp
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --constraint constraints/dev.txt --editable '.[dev,rl]'
	@touch $@

$(AGENT): $(shell find k8s/agent -name '*.go' -not -name '*_test.go' 2>/dev/null) k8s/agent/go.mod | $(VENV)/.stamp
	@bash scripts/build_agent.sh $(AGENT)

system:
	@bash scripts/system_packages.sh

agent: $(AGENT)

setup: $(VENV)/.stamp $(AGENT)

setup-rl: setup $(VENV)/.stamp-rl

demo: setup-rl
	@$(BIN)/envfarm demo

test: setup system
	@$(BIN)/python -m pytest -q --ignore tests/rl -n 3 --dist loadfile -m "not slow and not browser and not registry and not k8s and not docker and not gpu"

# One thread for each process: more make small models slower, and a busy machine very slow.
test-rl: setup-rl
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 --dist loadfile tests/rl -m "not slow and not gpu"

# A real Kubernetes, built from its sources: a quarter of an hour of two cores the first time, kept afterwards.
testbed: setup
	@bash scripts/system_packages.sh cluster
	@bash scripts/go.sh version
	@$(BIN)/envfarm testbed build

test-k8s: testbed
	@$(BIN)/python -m pytest -q -m k8s tests/k8s

test-all: setup-rl system go-test
	@$(BIN)/python -m pytest -q -m "not k8s and not docker and not gpu"

go-test: setup
	@bash scripts/go.sh test ./...

check: setup-rl
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/pyright
	@$(BIN)/lint-imports

clean:
	rm -rf $(VENV) $(AGENT) runs build dist
