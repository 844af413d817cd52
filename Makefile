# `make` lists what there is. Everything runs in .venv, which `setup` makes and keeps up to date.

SHELL := /bin/sh
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
MAKEFLAGS += --no-builtin-rules

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.up-to-date
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet --quiet

# An interpreter of your choice: make setup PYTHON=/usr/bin/python3.12
PYTHON :=
CANDIDATES := $(or $(PYTHON),python3 python3.11 python3.12 python3.13 python3.14)
FIT := import sys; sys.exit(sys.version_info < (3, 11))
# Debian's python3 has venv without ensurepip as long as python3-venv is not installed.
COMPLETE := import ensurepip, venv

WORKERS := auto
ARGS :=
UPGRADE :=

.PHONY: help setup demo terminal-session test check lint types lock bench crash-test hostile soak screenshots clean distclean

help: ## List the targets
	@sed -n 's/^\([a-z-]*\):[^#]*## \(.*\)/  make \1\t\2/p' Makefile | expand -t 20

setup: $(STAMP) ## Make or refresh .venv with everything that development needs

$(STAMP): requirements-dev.txt pyproject.toml
	@if ! $(BIN)/python -c '$(FIT)' 2>/dev/null; then \
	    chosen=; \
	    for candidate in $(CANDIDATES); do \
	        if $$candidate -c '$(FIT)' 2>/dev/null; then chosen=$$candidate; break; fi; \
	    done; \
	    if [ -z "$$chosen" ]; then \
	        echo "make: Python 3.11 or newer is needed, and none of these is: $(CANDIDATES)." >&2; \
	        echo "      Install one, or name it: make setup PYTHON=/path/to/python3" >&2; \
	        exit 1; \
	    fi; \
	    if ! $$chosen -c '$(COMPLETE)' 2>/dev/null; then \
	        echo "make: $$chosen cannot make virtual environments. On Debian and Ubuntu:" >&2; \
	        echo "      apt-get install python3-venv" >&2; \
	        exit 1; \
	    fi; \
	    echo "Making $(VENV) with $$($$chosen --version)"; \
	    $$chosen -m venv --clear $(VENV); \
	fi
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(BIN)/python -m ensurepip >/dev/null
	@echo "Installing what requirements-dev.txt lists (hashes checked)"
	@$(PIP) install --require-hashes --requirement requirements-dev.txt
	@$(PIP) install --no-deps --no-build-isolation --editable .
	@touch $@

demo: setup ## Publish, install, load, upgrade, roll back and tamper, with a running commentary
	@$(BIN)/python docs/demo/demo.py $(ARGS)

terminal-session: setup ## Print docs/terminal-session.md anew
	@$(BIN)/python docs/demo/terminal.py

test: setup ## Run the whole test suite (ARGS="-k name" for some of it, WORKERS=0 in one process)
	@$(BIN)/pytest -n $(WORKERS) $(ARGS)

lint: setup ## Judge style and format with ruff
	@$(BIN)/ruff check --output-format=concise
	@$(BIN)/ruff format --check

types: setup ## Judge types with mypy, strictly
	@$(BIN)/mypy

check: ## Lint, types and tests
	@$(MAKE) --no-print-directory lint
	@$(MAKE) --no-print-directory types
	@$(MAKE) --no-print-directory test

lock: setup ## Write requirements-dev.txt anew (UPGRADE=1 for the newest versions)
	@$(BIN)/uv pip compile --system-certs --universal --extra publisher --extra desktop \
	    --extra dashboard \
	    --python-version 3.11 --generate-hashes --no-emit-index-url --quiet \
	    --custom-compile-command "make lock" $(if $(UPGRADE),--upgrade) \
	    --output-file requirements-dev.txt pyproject.toml requirements-dev.in

bench: setup ## Measure what docs/performance.md promises
	@$(BIN)/python -m benchmarks.end_to_end $(ARGS)
	@$(BIN)/python -m benchmarks.store
	@$(BIN)/python -m benchmarks.transfer
	@$(BIN)/python -m benchmarks.load
	@$(BIN)/python -m benchmarks.commands

crash-test: setup ## Kill, cut the power, fill the disk, flip bits, crowd (hours; ARGS="kills --sample 50")
	@$(BIN)/python -m tests.crash $(ARGS)

soak: setup ## Install a thousand times through a server that fails one request in ten
	@$(BIN)/python -m tests.transfer.soak $(ARGS)

hostile: setup ## Install from servers that do everything wrong, at random (ARGS="--rounds 500 --seed 1")
	@$(BIN)/python -m tests.hostile $(ARGS)

screenshots: setup ## Take the pictures of docs/dashboard.md anew
	@$(BIN)/python -m tests.dashboard.screenshots $(ARGS)

clean: ## Remove what tests, tools and the demo left behind
	@rm -rf .demo .bench .hypothesis .mypy_cache .pytest_cache .ruff_cache dist build keys/*.json
	@find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +

distclean: clean ## Remove .venv and downloaded wheels too
	@rm -rf $(VENV) .cache
