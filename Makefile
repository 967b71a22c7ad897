# Everything here needs Python 3.11 or newer with its venv module, and make: no Docker, no Postgres.
.DEFAULT_GOAL := help
.PHONY: help demo serve test check conformance bench growth streams chaos clean

PYTHON := .venv/bin/python
# Written last, so that an interrupted installation is not taken for a finished one.
INSTALLED := .venv/.installed
# The peers of the benchmark, in an environment of their own; without a network it is not made, and they are left out.
PEERS := .venv-peers/.installed
# Passed on: make test ARGS="-k resume"
ARGS ?=

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' Makefile

demo: $(INSTALLED) ## run three replicas, a private Postgres and a client through the story
	@$(PYTHON) -m examples.demo $(ARGS)

serve: $(INSTALLED) ## keep the three replicas up and print their URL
	@$(PYTHON) -m examples.demo serve $(ARGS)

test: $(INSTALLED) ## run all tests, on a private Postgres or on MCPSESSION_TEST_URL
	@$(PYTHON) -m pytest $(ARGS)

check: $(INSTALLED) ## check style, types, the floors of the house and the deployment files
	@.venv/bin/ruff check .
	@.venv/bin/ruff format --check .
	@.venv/bin/mypy
	@.venv/bin/lint-imports
	@$(PYTHON) -m pytest -q tests/deploy

conformance: $(INSTALLED) ## run the public conformance suite against three replicas
	@$(PYTHON) -m tests.conformance.run $(ARGS)

bench: $(INSTALLED) $(PEERS) ## measure beside the stock SDK, mcp-persist and FastMCP: a table, JSON and a picture
	@$(PYTHON) -m benchmarks $(ARGS)

growth: $(INSTALLED) ## measure what a call costs as replicas, sessions, messages and backlogs grow
	@$(PYTHON) -m benchmarks --only growth $(ARGS)

streams: $(INSTALLED) ## measure 10,000 open standalone streams over three replicas
	@$(PYTHON) -m benchmarks --only streams $(ARGS)

chaos: $(INSTALLED) ## break a cluster for SECONDS_LONG (300), as SEED decides, and judge what its clients saw
	@$(PYTHON) -m tests.chaos --seconds $(or $(SECONDS_LONG),300) $(if $(SEED),--seed $(SEED)) $(ARGS)

clean: ## remove .venv and all that was built or cached
	@rm -rf .venv .venv-peers .bench build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis .conformance
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(PEERS): benchmarks/peers.py pyproject.toml | $(INSTALLED)
	@$(PYTHON) -m benchmarks.peers

$(INSTALLED): pyproject.toml
	@set -e; \
	if ! $(PYTHON) -c 'import pip' 2>/dev/null; then \
		found=; bare=; \
		for candidate in python3.11 python3.12 python3.13 python3; do \
			version=$$($$candidate -c 'import sys; print("%d.%d" % sys.version_info[:2], sys.version_info >= (3, 11))' 2>/dev/null) || continue; \
			case "$$version" in *True) ;; *) continue ;; esac; \
			if $$candidate -c 'import ensurepip, venv' 2>/dev/null; then found=$$candidate; break; fi; \
			bare=$${bare:-$${version% True}}; \
		done; \
		if [ -z "$$found" ] && [ -n "$$bare" ]; then \
			echo "Python $$bare is here, its venv module is not. On Debian or Ubuntu: apt-get install python$$bare-venv" >&2; exit 1; \
		elif [ -z "$$found" ]; then \
			echo "Python 3.11 or newer is needed. On Debian or Ubuntu: apt-get install python3.11 python3.11-venv" >&2; exit 1; \
		fi; \
		echo "Making .venv with $$found"; \
		$$found -m venv --clear .venv; \
	fi; \
	echo "Installing mcpsession and what it needs into .venv: a minute or two, once"; \
	$(PYTHON) -m pip install --quiet --disable-pip-version-check --editable '.[dev]'; \
	touch $(INSTALLED)
