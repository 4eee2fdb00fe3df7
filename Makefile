# Everything a developer or a first-time user needs. Each target does its own set-up.

PYTHON ?= python3
BIN := .venv/bin
# A HOME of our own: OpenVINO finds there that its telemetry is not wanted, and nothing is written to the user's.
PRIVATE_HOME := HOME="$(CURDIR)/.venv/home"
AGAIN := --last-failed --last-failed-no-failures none

.DEFAULT_GOAL := help
.PHONY: help setup setup-dev setup-tests setup-profile capabilities demo run test test-slow fuzz lint check chart fix lock chaos bench screenshots docs images clean

help:  ## Show this list
	@sed -n 's/^\([a-z][a-z-]*\):.*##  *\(.*\)/  make \1	\2/p' Makefile

setup:  ## Install everything into .venv, and nothing else
	@$(PYTHON) scripts/setup.py

setup-dev:  # The same, and what the checks and tests need.
	@$(PYTHON) scripts/setup.py --dev

setup-profile:  ## Install a second environment for conversions: PROFILE=transformers-4.57 or ultralytics
	@$(PYTHON) scripts/setup.py --profile $(or $(PROFILE),transformers-4.57)

capabilities: setup-dev setup-profile  # Write down what each environment can convert; after an upgrade of the tools.
	$(PRIVATE_HOME) $(BIN)/python -m scripts.dump_capabilities

demo: setup  ## Convert a real model to INT8 and compare it with the original
	@$(BIN)/python -m scripts.demo

run: setup  ## Run the service on this machine, models in ./models, until Ctrl-C
	@$(BIN)/modelferry up

setup-tests: setup-dev  # The same, a browser, and promtool.
	@$(PYTHON) scripts/setup.py --dev --browser --promtool

# Two processes, each with whole files of tests; both must see the same tests, so names must not depend on hashes.
# What fails there may have been short of time beside the others. It is run again, alone, and the output shows both; but
# only where all tests were run and some failed (1), and not where the run itself broke off.
test: setup-tests  ## Run the tests, all but the slow ones
	$(PRIVATE_HOME) PYTHONHASHSEED=0 $(BIN)/python -m pytest -m "not alone and not slow" -n 2 --dist loadfile || { [ $$? -eq 1 ] && \
	$(PRIVATE_HOME) PYTHONHASHSEED=0 $(BIN)/python -m pytest -m "not alone and not slow" $(AGAIN); }
	$(PRIVATE_HOME) $(BIN)/python -m pytest -m "alone and not slow"

test-slow: setup-tests  ## Run the slow tests: chaos, whole services, other environments, large quantisations
	$(PRIVATE_HOME) $(BIN)/python -m pytest -m slow

# Repeated with the seed that it prints last: make fuzz SEED=7.
fuzz: setup-dev  ## Make up thousands of requests from the API's description, and send them to a service
	$(PRIVATE_HOME) $(BIN)/python -m tests.fuzz $(SEED:%=--seed %)

lint: setup-dev  ## Look at the code without running it: format, lint, types, layers, migrations
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/bandit --quiet -c pyproject.toml -r api worker common migrations modelferry scripts
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(PRIVATE_HOME) $(BIN)/python -m scripts.check_migrations

check: lint  ## Run the quick checks: lint, unit and contract tests
	$(PRIVATE_HOME) $(BIN)/python -m pytest tests/unit tests/contract -m "not slow"

chart: setup-dev  ## Check the Helm charts: render, lint, Kubernetes' schemas, and our settings
	$(BIN)/python -m scripts.check_charts
	$(PRIVATE_HOME) $(BIN)/python -m pytest tests/chart

fix: setup-dev  ## Format the code and mend what ruff can mend
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# That is: uv pip compile pyproject.toml --all-extras --upgrade --no-emit-index-url --no-header --no-annotate
# with the CPU build of torch, whose "+cpu" is then removed: setup.py chooses the build, pip's settings the index.
lock: setup-dev  ## Pin the newest versions that pyproject.toml allows in constraints.txt
	@$(BIN)/python -m scripts.lock

# A failed run is repeated with the seed that it has printed first: make chaos SEED=7.
chaos: setup-dev  ## Kill, freeze and cut everything at random while 2000 jobs run, on each database
	$(PRIVATE_HOME) $(BIN)/python -m tests.chaos --jobs 2000 --faults 200 --database sqlite $(SEED:%=--seed %)
	$(PRIVATE_HOME) $(BIN)/python -m tests.chaos --jobs 2000 --faults 200 --database postgres $(SEED:%=--seed %)

bench: setup-dev  ## Measure transfer, conversion and queue against other tools, on an idle machine
	$(PRIVATE_HOME) $(BIN)/python -m bench.transfer
	$(PRIVATE_HOME) $(BIN)/python -m bench.convert
	$(PRIVATE_HOME) $(BIN)/python -m bench.queue

screenshots: setup-tests  ## Take the pictures of the dashboard in docs/screenshots anew
	$(PRIVATE_HOME) $(BIN)/python -m scripts.screenshots

# Needs no network, once `make setup-dev` has installed what it needs.
docs: setup-dev  ## Build the documentation as a site in dist/site
	$(PRIVATE_HOME) $(BIN)/python -m scripts.build_docs

# With docker or podman, whichever is there. Without a registry of images it builds on a stand-in, and says so.
images: setup-dev  ## Build the container images, check them inside, and write their lists of parts to dist/sbom
	$(PRIVATE_HOME) $(BIN)/python -m scripts.images $(if $(TARGETS),--targets $(TARGETS)) $(if $(BASE),--base $(BASE)) $(if $(ENGINE),--engine $(ENGINE))

clean:  ## Remove caches and the demo's folder; .venv and ./models stay
	rm -rf .demo .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis dist
	find . -name __pycache__ -type d -not -path './.venv/*' -prune -exec rm -rf {} +
