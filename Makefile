# Everything that is needed is set up on first use, in .venv and in the user's cache folder; nothing is installed elsewhere.

.DEFAULT_GOAL := help
.PHONY: help contracts demo sandbox test test-all chaos bench lint lock clean venv simulate mutants
.DELETE_ON_ERROR:
MAKEFLAGS += --no-print-directory

# Byte code is kept: the tests start the program hundreds of times, and compiling it takes longer than all that it does.
unexport PYTHONDONTWRITEBYTECODE

bin := .venv/bin
ready := .venv/.complete
scripts := .ci/virtual_environment.py .ci/check_locks.py .ci/check_release.py .ci/suites.py

# Which Python to make .venv with: the first of these that is there and new enough. `make PYTHON=... demo` names the one.
PYTHON ?=
pythons := $(or $(PYTHON),python3 python3.14 python3.13 python3.12 python3.11)

# An environment works only in the folder where it was made, and while its Python is there: else it is made anew.
folder := $(bin:/bin=)
stale := $(shell if [ -e $(ready) ]; then { read -r made_in; read -r made_by; } < $(ready); \
  { [ "$$made_in" = "$$(pwd -P)/$(folder)" ] && $(bin)/python -c '' && { [ -z '$(PYTHON)' ] || \
  [ "$$('$(PYTHON)' -c 'import sys; print(sys.executable)')" = "$$made_by" ]; }; } 2>/dev/null || echo stale; fi)
ifeq ($(stale),stale)
.PHONY: $(ready)
endif

help: ## Say what can be made
	@sed -nE 's/^([a-z-]+):.*## (.*)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 20

demo: $(ready) ## Show the worker at work: private RabbitMQ, simulated Enterprise Manager, scripted commands
	@$(bin)/unlink-worker demo

sandbox: $(ready) ## Run a private RabbitMQ, a simulated Enterprise Manager, a worker and the console until Ctrl-C
	@$(bin)/unlink-worker sandbox

# make test COVERAGE=yes also names the lines that no test reaches; it takes a quarter longer.
COVERAGE ?=

test: $(ready) ## Run the tests, without those that take minutes; with COVERAGE=yes, show what they cover
	@$(bin)/pytest -n 6 --dist worksteal --one-broker -m "not slow" $(if $(COVERAGE),--cov --cov-report=term)

test-all: test suites ## Run all tests: also the long suites, and those on other versions of RabbitMQ

# make suites ONLY="RabbitMQ 4.0" runs those whose names contain this.
ONLY ?=
.PHONY: suites

suites: $(ready) ## Run the suites that `make test` leaves out
	@$(bin)/python .ci/suites.py --only "$(ONLY)"

# make test-pythons PYTHONS="3.12 /opt/python/bin/python3.14"; a virtual environment for each, such as .venv-3.12.
PYTHONS ?= 3.11 3.12 3.13 3.14
scripts += .ci/test_pythons.py
.PHONY: test-pythons

test-pythons: $(ready) ## Run the tests on each supported Python that is found, and say which are not
	@$(bin)/python .ci/test_pythons.py $(PYTHONS)

# make simulate SIMULATE="--seed 7 --trace" replays one seed; --help names all options.
SIMULATE ?= --seeds 10000 --jobs 2

simulate: $(ready) ## Run the core under a virtual clock, faults and schedules drawn from 10,000 seeds
	@$(bin)/python -m tests.simulation $(SIMULATE)

mutants: $(ready) ## Show that each wrong variant of the core is caught by the simulation, and by which seed
	@$(bin)/python -m tests.simulation --mutants

# make fuzz FUZZ="--seconds 600 --keep document"; --help names all options.
FUZZ ?=
.PHONY: fuzz

fuzz: $(ready) ## Fuzz what reads messages and Enterprise Manager's answers, guided by coverage (on Linux, x86-64)
	@$(bin)/pip install --quiet --no-deps --require-hashes --only-binary :all: -r tests/fuzz/requirements.lock
	@$(bin)/python -m tests.fuzz $(FUZZ)

# make chaos CHAOS="--seed 7 --minutes 2"; --help names all options.
CHAOS ?=

chaos: $(ready) ## Kill, pause, restart and cut off parts for some minutes under a thousand unlinks, and count
	@$(bin)/python -m tests.chaos $(CHAOS)

# make soak SOAK=20 takes 20 minutes and a few more.
SOAK ?= 60
.PHONY: soak

soak: $(ready) ## As make chaos, for SOAK minutes, and see whether memory, threads, descriptors or the ledger grow
	@$(bin)/python -m tests.chaos --soak $(SOAK) $(CHAOS)

# make bench BENCH=--quick takes about a minute.
BENCH ?=

bench: $(ready) ## Measure the worker against the floor of the same run, and print one table
	@$(bin)/python -m tests.benchmarks $(BENCH)

lint: $(ready) ## Check style, format, spelling, types, and what imports what
	@$(bin)/ruff check
	@$(bin)/ruff format --check
	@$(bin)/codespell
	@$(bin)/lint-imports --no-logo
	@$(bin)/mypy contracts worker tests $(scripts)
	@$(bin)/python .ci/check_locks.py

# All for all platforms. requirements-dev.lock holds the versions of requirements.lock, and what the sandbox and the tests
# need besides; k8s/image/build.lock makes the wheel when an image is built; k8s/image/console.lock is for the image of the
# console, and k8s/image/sandbox.lock for that of the simulated Enterprise Manager.
compile := $(bin)/uv pip compile --quiet --universal --generate-hashes --no-emit-index-url --no-annotate --no-header \
	--python-version 3.11
wheel-tools := $(bin)/python -c 'import tomllib; [print(tool) for tool in \
	tomllib.load(open("pyproject.toml", "rb"))["build-system"]["requires"]]'

lock: $(ready) ## Pin all dependencies anew: requirements.lock, requirements-dev.lock and k8s/image/*.lock
	@$(compile) pyproject.toml -o requirements.lock
	@$(wheel-tools) | $(compile) - -o k8s/image/build.lock
	@$(compile) pyproject.toml --extra console -c requirements.lock -o k8s/image/console.lock
	@$(compile) pyproject.toml --extra sandbox -c requirements.lock -o k8s/image/sandbox.lock
	@$(compile) --group fuzz -o tests/fuzz/requirements.lock
	@$(compile) --group client -o tests/console/generator.lock
	@$(compile) pyproject.toml --all-extras --group dev -c requirements.lock -c k8s/image/build.lock \
		-c k8s/image/console.lock -c k8s/image/sandbox.lock -o requirements-dev.lock

contracts: $(ready) ## Generate the published contract from the models: contracts/schemas, contracts/asyncapi.json
	@$(bin)/unlink-worker contracts --write contracts

clean: ## Remove .venv, .venv-* and what tools leave behind (downloads in the user's cache folder stay)
	@rm -rf .venv .venv-* .coverage .coverage.* htmlcov build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
	@find contracts worker tests .ci -name __pycache__ -prune -exec rm -rf {} +

venv: $(ready)

$(ready): requirements-dev.lock pyproject.toml .ci/virtual_environment.py
	@for python in $(pythons); do \
	  if "$$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
	    exec "$$python" .ci/virtual_environment.py $@; \
	  fi; \
	done; \
	echo "Python 3.11 or later is needed, and none of these is it: $(strip $(pythons))." >&2; \
	echo "Install one (Debian 12, Ubuntu 24.04 and later: apt install python3), or name it: make PYTHON=/path/to/python3" >&2; \
	exit 1
