# Each command works on a fresh machine with Python 3.11 or newer and writes nothing outside this folder.
# `make` alone lists them. Another Python: `make test PYTHON=python3.12`.

PYTHON ?= python3
TESTS ?= tests
PYTEST_ARGS ?=
# The end-to-end tests mostly wait, so the others run beside them; PARALLEL= runs one test after the other.
PARALLEL ?= --numprocesses=2
# Airflow 3.1 runs the same tests; `make floor FLOOR_PYTEST_ARGS='-m "not e2e"'` leaves the slow ones out.
FLOOR_PYTEST_ARGS ?= $(PYTEST_ARGS)
# `make lock UPGRADE=--upgrade` moves every pin to the newest release; without it only what must change does.
UPGRADE ?=

STARTED := $(shell date +%s)
CACHE := $(CURDIR)/.cache

# Caches, temporary files and Airflow's home all live in .cache/.
export UV_CACHE_DIR := $(CACHE)/uv
export PIP_CACHE_DIR := $(CACHE)/pip
export XDG_CACHE_HOME := $(CACHE)/xdg
export MPLCONFIGDIR := $(CACHE)/matplotlib
export MYPY_CACHE_DIR := $(CACHE)/mypy
export RUFF_CACHE_DIR := $(CACHE)/ruff
export TMPDIR := $(CACHE)/tmp
export AIRFLOW_HOME := $(CACHE)/airflow
export PIP_DISABLE_PIP_VERSION_CHECK := 1
# The Python that made an environment is the one it uses: never a download of another.
export UV_PYTHON_DOWNLOADS := never

# uv reads its own settings only; whoever has told pip of a mirror or a certificate has said it once.
ifdef PIP_INDEX_URL
export UV_DEFAULT_INDEX ?= $(PIP_INDEX_URL)
endif
ifdef PIP_CERT
export SSL_CERT_FILE ?= $(PIP_CERT)
endif

UV := .venv/bin/uv
UV_INSTALL := $(UV) pip install --quiet --require-hashes --python
# Our own package last, built with the pinned hatchling of the same environment: nothing else is downloaded.
UV_EDITABLE := $(UV) pip install --quiet --no-deps --no-build-isolation --editable . --python
UV_COMPILE := $(UV) pip compile --quiet $(UPGRADE) --generate-hashes --universal --python-version 3.11 \
	--no-emit-index-url --no-emit-find-links --no-annotate --no-header

# Prerequisites run one after the other, also under -j: two installs into one environment would collide.
.NOTPARALLEL:
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help
.PHONY: help install test demo lint floor bench package lock clean

help:  ## this list
	@sed -n 's/^\([a-z]*\):.*  ## /\1 /p' Makefile | while read -r name text; do printf '  make %-9s %s\n' "$$name" "$$text"; done

install: .venv/.installed  ## the environment .venv, pinned and checked by hash

test: .venv/.installed  ## every test, on Airflow 3.3
	.venv/bin/python -m pytest $(PARALLEL) $(PYTEST_ARGS) $(TESTS)

demo: .venv/.installed  ## a flag goes from 0 to 100 % on a real Airflow, and the SDK confirms it (KEEP=1 leaves it running)
	@DEMO_INSTALL_SECONDS=$$(( $$(date +%s) - $(STARTED) )) exec .venv/bin/python -m demo

lint: .venv/.installed  ## ruff and mypy
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy

floor: .venv-floor/.installed  ## the same tests on Airflow 3.1, the oldest that is supported
	.venv-floor/bin/python -m pytest $(PARALLEL) $(FLOOR_PYTEST_ARGS) $(TESTS)

bench: .venv-bench/.installed  ## the measurements in benchmarks/
	@set -e; for script in $(sort $(wildcard benchmarks/*.py)); do \
		echo "== $$script"; .venv-bench/bin/python "$$script"; \
	done

# The wheel is made from the sdist, so both are tried. Away from the checkout, or Python would import its folder.
package: .venv/.installed  ## wheel and sdist in dist/, the wheel tried in an empty environment
	rm -rf dist $(CACHE)/wheel
	.venv/bin/python -m build --no-isolation
	.venv/bin/python -m venv --without-pip $(CACHE)/wheel
	$(UV) pip install --quiet --python $(CACHE)/wheel/bin/python --constraints requirements/dev.txt dist/*.whl
	cd $(CACHE)/wheel && bin/python -c 'import airflow_amplitude_experiment as package; print(package.__file__)'
	cd $(CACHE)/wheel && bin/airflow version
	cd $(CACHE)/wheel && bin/airflow providers list | grep airflow-provider-amplitude-experiment
	cd $(CACHE)/wheel && bin/amplitude-emulator --help

lock: .venv/.uv  ## resolve requirements/*.txt again (UPGRADE=--upgrade for the newest releases)
	$(UV_COMPILE) requirements/uv.in -o requirements/uv.txt
	$(UV_COMPILE) --extra dev pyproject.toml requirements/dev.in -o requirements/dev.txt
	# Without the date an old Airflow resolves to newer packages that break it.
	$(UV_COMPILE) --extra dev pyproject.toml requirements/floor.in -o requirements/floor.txt --exclude-newer 2026-01-20
	# Starts from the pins of dev.txt and leaves them only where a peer can't live with one.
	cp requirements/dev.txt requirements/bench.txt
	$(UV_COMPILE:$(UPGRADE)=) --extra dev pyproject.toml requirements/dev.in requirements/bench.in -o requirements/bench.txt

clean:  ## remove the environments, caches and whatever else git ignores here
	rm -rf .venv .venv-floor .venv-bench .cache .demo .airflow .pytest_cache .mypy_cache .ruff_cache .hypothesis dist build
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The stamps: an environment is built again when its lock or the project's metadata changes, and else not touched.

# Without the folder of TMPDIR, Python would fall back to one outside the checkout.
.cache/tmp:
	@mkdir -p $@

.venv/.uv: requirements/uv.txt | .cache/tmp
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed, %s is %d.%d. Name another: make PYTHON=python3.12" % (sys.executable, *sys.version_info[:2]))'
	$(PYTHON) -m venv .venv
	.venv/bin/python -m pip install --quiet --require-hashes -r requirements/uv.txt
	@touch $@

.venv/.installed: .venv/.uv requirements/dev.txt pyproject.toml | .cache/tmp
	$(UV_INSTALL) .venv/bin/python -r requirements/dev.txt
	$(UV_EDITABLE) .venv/bin/python
	@touch $@

.venv-%/.installed: .venv/.uv requirements/%.txt pyproject.toml | .cache/tmp
	.venv/bin/python -m venv --without-pip .venv-$*
	$(UV_INSTALL) .venv-$*/bin/python -r requirements/$*.txt
	$(UV_EDITABLE) .venv-$*/bin/python
	@touch $@
