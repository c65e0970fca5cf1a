# Everything here runs from a clean clone with Python 3.11+ and a package index in reach.
# `make help` lists the targets.

PYTHON ?= python3
BIN := .venv/bin
# Tests mostly wait, for servers and for faults to pass: with two at once, two cores were idle half of the time.
PROCESSES ?= 3
INSTALLED := .venv/.installed
export UV_SYSTEM_CERTS = 1
export UV_PYTHON_DOWNLOADS = never

.DEFAULT_GOAL := help
.PHONY: help venv web demo test lint types format bench soak peers constraints dist clean

help: ## this list
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/  make \1|\2/p' $(MAKEFILE_LIST) | while IFS='|' read -r target what; do \
		printf '%-18s %s\n' "$$target" "$$what"; done

venv: $(INSTALLED) ## the virtual environment in .venv, with everything the other targets need

# Made anew only when what is to be installed has changed.
$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "Callgate needs Python 3.11 or newer; $(PYTHON) is $$($(PYTHON) --version 2>&1). Try: make $(MAKECMDGOALS) PYTHON=python3.12" >&2; exit 1; }
	@echo "Installing into .venv (once; some 30 s with a good connection) ..."
	@$(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt uv
	@$(BIN)/uv pip install -q -p .venv -c constraints.txt -e . --group dev
	@touch $@

# Nothing is done where the sources have not changed. npm is the system's, or a Python package's.
web: venv ## the dashboard and callgate.js, in gateway/web/dist
	@$(BIN)/python hatch_build.py

demo: venv ## a gateway with simulated softphones; prints the address to look at
	@$(BIN)/python hatch_build.py || echo "Going on without the dashboard."
	@$(BIN)/callgate demo $(ARGS)

test: web ## all tests (ARGS="tests/domain -x" for some)
	@$(BIN)/python -m pytest --numprocesses $(PROCESSES) --dist loadfile --no-loadscope-reorder $(ARGS)

lint: venv ## the linters, and whether everything is formatted
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/python hatch_build.py run --silent lint

types: venv ## mypy --strict, and TypeScript
	@$(BIN)/mypy
	@$(BIN)/python hatch_build.py run --silent check

format: venv ## format, and fix what the linter can fix
	@$(BIN)/ruff check --fix-only --quiet .
	@$(BIN)/ruff format .
	@$(BIN)/python hatch_build.py run --silent format

bench: venv ## the benchmarks, with their figures (ARGS="--help" for parts of it)
	@$(BIN)/python -m tests.bench $(ARGS)

soak: venv ## the long runs under load
	@$(BIN)/python -m pytest -m soak --timeout 0 -s $(ARGS)

peers: ## what some tests need from Debian or Ubuntu (root): without it they are skipped, and say so
	@sh .ci/peers

constraints: venv ## resolve the dependencies anew into constraints.txt
	@$(BIN)/uv pip compile -q --universal --upgrade --python-version 3.11 --custom-compile-command "make constraints" \
		--group dev --group web pyproject.toml -o constraints.txt

dist: venv ## the wheel and the sdist, in dist/
	@$(BIN)/python -m hatchling build

clean: ## remove what was built
	@rm -rf .venv build dist gateway/web/dist gateway/web/client/dist gateway/web/node_modules test-output .mypy_cache .pytest_cache .ruff_cache .hypothesis
