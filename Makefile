# Everything that this repository can do. It needs git, make and Python 3.11 or newer with venv; the rest it installs
# into .venv. Recipes call `.venv/bin/python -m`: scripts would break in a path with spaces.

PYTHON ?= python3
PY := .venv/bin/python
JOBS ?= auto
export PYTEST_FLAGS

.DEFAULT_GOAL := help
.PHONY: help
help: ## Show this list
	@grep -E '^[a-z0-9-]+:.*## ' Makefile | awk -F ':.*## ' '{printf "  %-12s %s\n", $$1, $$2}'

.PHONY: python
python:
	@command -v git >/dev/null 2>&1 || { echo "git is missing: install it with your system's package manager" >&2; exit 1; }
	@command -v "$(PYTHON)" >/dev/null 2>&1 || { echo "$(PYTHON) is missing: install Python 3.11 or newer, or name yours with PYTHON=/path/to/python" >&2; exit 1; }
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "$(PYTHON) is older than 3.11: name a newer one with PYTHON=/path/to/python" >&2; exit 1; }
	@"$(PYTHON)" -c 'import ensurepip, venv' 2>/dev/null || { echo "$(PYTHON) has no venv: install it (Debian and Ubuntu: apt install python3-venv)" >&2; exit 1; }

.venv/uv: requirements/uv.txt
	@$(MAKE) --no-print-directory python
	@echo "==> making .venv"
	@"$(PYTHON)" -m venv --clear .venv
	@$(PY) -m pip install --quiet --disable-pip-version-check --require-hashes --requirement requirements/uv.txt
	@touch .venv/uv

.venv/render: .venv/uv requirements/render.txt
	@echo "==> installing what renders services"
	@$(PY) -m uv pip install --quiet --python $(PY) --require-hashes --requirement requirements/render.txt
	@touch .venv/render

.venv/dev: .venv/render requirements/dev.txt lib/pyproject.toml
	@echo "==> installing what the tests need"
	@$(PY) -m uv pip install --quiet --python $(PY) --require-hashes --requirement requirements/dev.txt
	@$(PY) -m uv pip install --quiet --python $(PY) --no-deps --editable lib
	@touch .venv/dev

.PHONY: demo
demo: .venv/render ## Render a service, test it, start it, call it; it stays up until Ctrl-C (HTTP_PORT, OPS_PORT)
	@$(PY) tests/e2e/demo.py

.PHONY: demo-check
demo-check: .venv/render ## The same, but end by itself; fail if any step fails
	@$(PY) tests/e2e/demo.py --check

.PHONY: test
test: .venv/dev lint typecheck ## Run every test (MARTY_REQUIRE=all: none may be skipped)
	@$(PY) -m pytest -n $(JOBS) $(PYTEST_FLAGS)

.PHONY: test-fast
test-fast: .venv/dev ## The inner loop: the library, and the template without installing what it renders
	@$(PY) -m pytest -n $(JOBS) -m "not slow" $(PYTEST_FLAGS)

# In order, and no further than the first that fails: what comes later stands on it. What is there then can be looked at.
.PHONY: e2e
e2e: .venv/dev ## Go the whole path on a cluster of k8s/setup-cluster.sh (MARTY_CLUSTER=kind-marty)
	@MARTY_CLUSTER="$(or $(MARTY_CLUSTER),kind-marty)" MARTY_REQUIRE=all $(PY) -m pytest -n 0 -x -v -m cluster tests/e2e/cluster $(PYTEST_FLAGS)

.PHONY: lint
lint: .venv/dev ## Check formatting and style
	@$(PY) -m ruff format --check --quiet .
	@$(PY) -m ruff check --quiet .

.PHONY: format
format: .venv/dev ## Format, and mend what can be mended
	@$(PY) -m ruff format .
	@$(PY) -m ruff check --fix .

.PHONY: typecheck
typecheck: .venv/dev ## Check types, strictly
	@$(PY) -m mypy --no-error-summary

.PHONY: lock
lock: .venv/uv ## Compile requirements/*.txt: hashes, no addresses
	@$(PY) -m uv pip compile --quiet --universal --generate-hashes --no-emit-index-url --no-header --python-version 3.11 requirements/uv.in -o requirements/uv.txt
	@$(PY) -m uv pip compile --quiet --universal --generate-hashes --no-emit-index-url --no-header --python-version 3.11 --group render -o requirements/render.txt
	@$(PY) -m uv pip compile --quiet --universal --generate-hashes --no-emit-index-url --no-header --python-version 3.11 --group dev lib/pyproject.toml --all-extras -o requirements/dev.txt
	@$(PY) -m uv pip compile --quiet --universal --generate-hashes --no-emit-index-url --no-header --python-version 3.11 requirements/bench.in lib/pyproject.toml --all-extras -o requirements/bench.txt

.PHONY: bench
bench: .venv/dev ## Measure speed and memory side by side (BENCH_FLAGS="--only http --write": some suites, into docs/benchmarks.md)
	@$(PY) -m tests.bench.run $(BENCH_FLAGS)

.PHONY: clean
clean: ## Remove what the other targets have made
	@rm -rf .venv .demo .cache
