# Understudy. `make demo` shows it, `make test` proves it; both set themselves up.
#
#   make demo               two people's clips, a short training, the daemon, a swapped clip (under demo/)
#   make demo MEDIA=DIR     the same with your own clips: DIR/a*.mp4 and DIR/b*.mp4
#   make test               lint, types, tests (CPU, some ten minutes on two cores)
#   make test-all           also the tests marked slow
#   make test WORKERS=1     with one test at a time
#   make bench              the performance bars, each a ratio inside one run
#
# A CUDA build of PyTorch: PIP_EXTRA_INDEX_URL=<PyTorch's index> make TORCH=torch==2.13.0+cu130 setup

SHELL := /bin/bash
VENV  := .venv
BIN   := $(VENV)/bin
TORCH ?= torch==2.13.0
MEDIA ?=

# Most tests wait for processes that they have started, so there are more workers than cores. A file's tests stay with
# one worker, which makes what they share once; files come in the order of their names, which has the longest early.
# Bytecode is kept, whatever the environment says: else each of those processes compiles all that it loads.
WORKERS ?= $(shell cores=$$(getconf _NPROCESSORS_ONLN 2>/dev/null || echo 1); echo $$((cores < 4 ? 2 * cores : 8)))
PYTEST  := env -u PYTHONDONTWRITEBYTECODE $(BIN)/python -m pytest
SPREAD  := -n $(WORKERS) --dist loadfile --no-loadscope-reorder

.PHONY: setup demo test test-all lint bench clean
setup: $(VENV)/.ready

# Every package is pinned in the two lock files and installed without its own idea of dependencies: mediapipe
# would bring a second OpenCV that needs libGL and owns the same `cv2` folder as the headless one.
$(VENV)/.ready: requirements.lock requirements-dev.lock
	@python=; for p in python3.12 python3.11 python3 python; do \
	  if $$p -c 'import sys, venv; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))' 2>/dev/null; then python=$$p; break; fi; done; \
	if [ -z "$$python" ]; then echo "Understudy needs Python 3.11 or 3.12 on the PATH, with its venv module."; exit 1; fi; \
	set -e; rm -rf $(VENV); echo "Setting up $(VENV) with $$($$python --version) ..."; $$python -m venv $(VENV); \
	$(BIN)/python -m pip install -q --disable-pip-version-check $(TORCH) -c requirements.lock; \
	$(BIN)/python -m pip install -q --disable-pip-version-check --no-deps -r requirements.lock -r requirements-dev.lock; \
	$(BIN)/python -m pip install -q --disable-pip-version-check --no-deps -e .
	@touch $@

demo: setup
	$(BIN)/understudy demo --into demo $(if $(MEDIA),--media "$(MEDIA)")

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test: lint
	$(PYTEST) $(SPREAD) -m "not slow"

test-all: test
	$(PYTEST) -m slow

bench: setup
	$(BIN)/understudy bench

clean:
	rm -rf $(VENV) demo build *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
