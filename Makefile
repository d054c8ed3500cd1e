# occloom: `make demo` predicts streets it never saw, `make test` runs the tests. Both install what they need into .venv.
#
# On a Linux machine without a GPU, plain pip takes PyTorch's CUDA build (several GB). Name the CPU wheels instead:
#   make demo PIP_FLAGS="--extra-index-url https://download.pytorch.org/whl/cpu"
PYTHON ?= python3
PIP_FLAGS ?=
DEMO_OUT ?= demo
TEST_FLAGS ?=
BIN := .venv/bin
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt $(PIP_FLAGS)

.DEFAULT_GOAL := help
.PHONY: help demo test lint format clean

help: ## Say what can be made.
	@awk -F ':.*## ' '/^[a-z]+:.*## /{printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: .venv/demo.stamp ## Predict unseen streets of the town with the shipped model, score and picture them.
	$(BIN)/occloom demo $(DEMO_OUT)

test: .venv/dev.stamp ## Run the tests on two processes.
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadgroup -q $(TEST_FLAGS)

lint: .venv/dev.stamp ## Check format, lint and types.
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright

format: .venv/dev.stamp ## Format the code and mend what the linter can.
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean: ## Remove the environment and the demo's output.
	rm -rf .venv $(DEMO_OUT)

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit("occloom needs Python 3.11 or newer, this is " + sys.version.split()[0] if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv .venv

.venv/demo.stamp: .venv/bin/python pyproject.toml constraints.txt
	@echo "Installing occloom into .venv (about 1.5 GB with PyTorch's CPU build; a minute or two) ..."
	$(INSTALL) torch==2.13.0
	$(INSTALL) --editable ".[demo]"
	@touch $@

.venv/dev.stamp: .venv/bin/python pyproject.toml constraints.txt
	@echo "Installing occloom and its test tools into .venv (about 2 GB with PyTorch's CPU build) ..."
	$(INSTALL) torch==2.13.0
	$(INSTALL) --editable ".[dev]"
	@touch $@
