# Two commands do everything: `make demo` (or `make run`) and `make test`.
# Both build .venv by themselves from the lock files.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip --quiet --disable-pip-version-check
LOCK   := $(BIN)/uv pip compile pyproject.toml --quiet --universal --python-version 3.11 \
          --generate-hashes --no-emit-index-url --no-emit-find-links --no-header --no-annotate

.DEFAULT_GOAL := help
.PHONY: help demo run test lint format coverage bench package lock clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: $(VENV)/.run ## run the gateway in front of a simulated Ollama; prints a key and a request
	@exec $(BIN)/ollama-gateway demo

run: $(VENV)/.run ## run the gateway in front of the Ollama of this machine
	@exec $(BIN)/ollama-gateway init --serve $(ARGS)

# Two workers: most tests wait for a short timeout or for a process.
test: $(VENV)/.test ## run all tests
	@$(BIN)/python -m pytest -n 2 $(ARGS)

lint: $(VENV)/.test ## check style and types of all code
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

format: $(VENV)/.test ## format the code and fix what ruff can fix
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

coverage: $(VENV)/.test ## run all tests and report branch coverage; fails below the limit in pyproject.toml
	@$(BIN)/coverage erase
	@$(BIN)/coverage run -m pytest -n 2 $(ARGS)
	@$(BIN)/coverage combine --quiet
	@$(BIN)/coverage report

package: $(VENV)/.run ## build the wheel and the source distribution into dist/
	@$(PIP) install --require-hashes -r requirements-build.lock
	@rm -rf dist
	@$(BIN)/python -m build --no-isolation --outdir dist

bench: $(VENV)/.bench ## measure the cost of a request, compared with other proxies
	@$(BIN)/python -m bench $(ARGS)

lock: $(VENV)/.run ## update the lock files (the only target that looks for new versions)
	@$(PIP) install uv
	@$(LOCK) --upgrade -o requirements.lock
	@$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
	    --no-emit-index-url --no-emit-find-links --no-header --no-annotate --upgrade \
	    --group build -o requirements-build.lock
	@$(LOCK) --upgrade -c requirements.lock --group test -o requirements-test.lock
	@$(LOCK) --upgrade -c requirements-test.lock --group test --group bench -o requirements-bench.lock

clean: ## remove .venv and caches
	@rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .coverage .coverage.* dist

$(VENV)/.made:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	    echo "Python 3.11 or later is needed; $(PYTHON) is $$($(PYTHON) --version 2>&1)." \
	         "Try: make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { \
	    echo "Could not create $(VENV). On Debian and Ubuntu: sudo apt install python3-venv" >&2; \
	    rm -rf $(VENV); exit 1; }
	@touch $@

$(VENV)/.run: $(VENV)/.made requirements.lock requirements-build.lock pyproject.toml
	@echo "Installing into $(VENV) (once; about a minute) ..." >&2
	@$(PIP) install --require-hashes -r requirements.lock -r requirements-build.lock
	@$(PIP) install --no-deps --no-build-isolation -e .
	@touch $@

$(VENV)/.test: $(VENV)/.run requirements-test.lock
	@echo "Installing the test dependencies ..." >&2
	@$(PIP) install --require-hashes -r requirements-test.lock
	@touch $@

$(VENV)/.bench: $(VENV)/.test requirements-bench.lock
	@$(PIP) install --require-hashes -r requirements-bench.lock
	@touch $@
