# `make demo` and `make test` do everything, on a machine that has nothing but Python.
#   PYTHON=/path/to/python3.12   the interpreter to make the environment with (3.11 or newer)
#   VENV=/some/folder            where the environment is made
#   JOBS=8                       how many processes run the tests
#   PYTEST='-k loading'          more words for pytest

# 3.11 first: constraints.txt was tested with it.
PYTHON ?= python3.11 python3.12 python3.13 python3.14 python3
VENV ?= .venv
JOBS ?= 2
PYTEST ?=

BIN := $(VENV)/bin
STAMP := $(VENV)/.made-from-constraints
PIP := $(BIN)/python -m pip --disable-pip-version-check -qq
SUITABLE := import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))
TEST_TOOLS := import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["dependency-groups"]["test"])

.DELETE_ON_ERROR:
.PHONY: help env demo test lint types imports tests clean

help:
	@echo "make demo     the digits sample through the whole chain; says where the report is"
	@echo "make test     lint, types, import contracts and tests"
	@echo "make env      the environment alone, in $(VENV)"
	@echo "make lint | types | imports | tests | clean"

env: $(STAMP)

# torch goes first and alone: pinned by hand it is found where the machine keeps it, and what follows leaves it be.
$(STAMP): pyproject.toml constraints.txt
	@python=; for candidate in $(PYTHON); do \
	  if "$$candidate" -c '$(SUITABLE)' 2>/dev/null; then python=$$candidate; break; fi; \
	done; \
	if [ -z "$$python" ]; then \
	  echo "No Python 3.11 or newer with venv and pip among: $(PYTHON); install one, or name it with 'make PYTHON=/path/to/python3.11'." >&2; \
	  exit 2; \
	fi; \
	echo "Making the environment in $(VENV) with $$("$$python" --version); this takes a few minutes the first time."; \
	"$$python" -m venv "$(VENV)"
	@$(PIP) install "$$(grep '^torch==' constraints.txt)"
	@$(PIP) install -c constraints.txt -e . $$($(BIN)/python -c '$(TEST_TOOLS)')
	@touch "$@"
	@echo "The environment is ready: $(BIN)/diag --help"

demo: $(STAMP)
	@$(BIN)/diag demo

test: lint types imports tests

lint: $(STAMP)
	@echo "lint"
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .

types: $(STAMP)
	@echo "types"
	@$(BIN)/mypy

imports: $(STAMP)
	@echo "import contracts"
	@$(BIN)/lint-imports

# One thread a process: two processes of tests share two cores, and torch would start a thread a core in each.
# Work is stolen from the other process at the end: until then each keeps to whole files, whose models are made once.
tests: $(STAMP)
	@echo "tests"
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n $(JOBS) --dist worksteal $(PYTEST)

clean:
	@rm -rf "$(VENV)" dist .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
	@echo "Removed $(VENV) and the caches; runs in diag-runs/ and what the samples wrote are left."
