# Every target sets up what it needs; a Python >= 3.12 is all that must be there.
#   make test ARGS="-k ranges"        arguments for pytest (test, bench) or the demo
#   make test PYTHON=/path/to/python  the interpreter of a new environment; otherwise scripts/find_python.sh finds one
#   make test VENV=.venv-3.13         another virtual environment

VENV ?= .venv
DEMO_VENV ?= .venv-demo
BENCH_VENV ?= .venv-bench
ARGS ?=

PIP_INSTALL = -m pip --disable-pip-version-check install --quiet

# Debian keeps nginx where only root's PATH looks.
export PATH := $(PATH):/usr/local/sbin:/usr/sbin

.DEFAULT_GOAL := help
.PHONY: help demo test lint types test-all bench bench-quick bench-bars bench-views clean FORCE

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

demo: $(DEMO_VENV)/.installed ## show the main job on a local server
	$(DEMO_VENV)/bin/python -m hctef demo $(ARGS)

test: $(VENV)/.installed ## run the tests
	@scripts/ensure_nginx.sh
	$(VENV)/bin/python -m pytest $(ARGS)

lint: $(VENV)/.installed ## ruff: rules and format
	$(VENV)/bin/python -m ruff check .
	$(VENV)/bin/python -m ruff format --check .

types: $(VENV)/.installed ## mypy --strict
	$(VENV)/bin/python -m mypy

test-all: ## the tests on Python 3.12 and 3.13, where found
	@ran=; for v in 3.12 3.13; do \
	  if python=$$(PYTHON= scripts/find_python.sh $$v); then \
	    $(MAKE) test PYTHON="$$python" VENV=.venv-$$v || exit 1; ran="$$ran $$v"; \
	  fi; \
	done; test -n "$$ran" && echo "tested on$$ran"

bench: $(BENCH_VENV)/.installed ## hctef, its peers and the limits, on all links (ARGS="--help" for less)
	@scripts/ensure_nginx.sh
	$(BENCH_VENV)/bin/python -m benchmarks $(ARGS)

bench-quick: $(BENCH_VENV)/.installed ## some of them, once, and one round of each hot path: do they still run?
	@scripts/ensure_nginx.sh
	$(BENCH_VENV)/bin/python -m benchmarks --quick $(ARGS)
	HCTEF_BENCH_QUICK=1 $(BENCH_VENV)/bin/python -m pytest benchmarks --timeout=0 --benchmark-enable --benchmark-min-rounds=1 --benchmark-max-time=0.05 --benchmark-warmup=off

bench-bars: $(BENCH_VENV)/.installed ## what docs/performance.md is to have, in one run of half an hour
	@scripts/ensure_nginx.sh
	$(BENCH_VENV)/bin/python -m benchmarks --bars $(ARGS)

bench-views: $(BENCH_VENV)/.installed ## views whose pages are filled when they are touched, beside plain requests
	@scripts/ensure_nginx.sh
	$(BENCH_VENV)/bin/python -m benchmarks.views $(ARGS)

clean: ## remove environments, caches and builds
	rm -rf .venv .venv-* build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis .benchmarks .coverage htmlcov
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# An environment whose interpreter was uninstalled is made anew, however new its stamp.
usable = $(shell $(1)/bin/python -c '' 2>/dev/null || echo FORCE)

# --clear where it doesn't work: what is left there is of another interpreter.
define make_venv
@python=$$(PYTHON="$(PYTHON)" scripts/find_python.sh) || exit 1; \
$(@D)/bin/python -m pip --version >/dev/null 2>&1 || { echo "making $(@D) with $$python"; "$$python" -m venv --clear $(@D); }
@echo "installing into $(@D)"
endef

$(VENV)/.installed: pyproject.toml $(call usable,$(VENV))
	$(make_venv)
	@$(@D)/bin/python $(PIP_INSTALL) -e '.[dev]'
	@touch $@

# pyarrow only as a wheel: the demo shows more with it, and nobody waits for a C++ build.
$(DEMO_VENV)/.installed: pyproject.toml $(call usable,$(DEMO_VENV))
	$(make_venv)
	@$(@D)/bin/python $(PIP_INSTALL) -e '.[all]'
	@$(@D)/bin/python $(PIP_INSTALL) --only-binary=:all: pyarrow || echo "no pyarrow wheel for this Python: the demo goes on without"
	@touch $@

# The peers. A peer without a wheel for this Python is reported by the benchmarks, not here; hctef 0.4.1, PyPI's other code
# base of the same name, has a folder of its own.
$(BENCH_VENV)/.installed: pyproject.toml $(call usable,$(BENCH_VENV))
	$(make_venv)
	@$(@D)/bin/python $(PIP_INSTALL) --prefer-binary -e '.[bench]'
	@$(@D)/bin/python $(PIP_INSTALL) --only-binary=:all: --upgrade --no-deps --target $(@D)/peers/hctef-0.4.1 hctef==0.4.1 || echo "no hctef 0.4.1: the benchmarks go on without"
	@touch $@
