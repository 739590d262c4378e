# Two commands are enough: `make demo` and `make test`. Each sets up what is missing, once.

VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready
# What the installed package is made of; sources in Python are used in place.
BUILD  := pyproject.toml $(wildcard setup.py transport/*.c transport/*.h)

.DEFAULT_GOAL := help
.PHONY: help demo test setup lint format unit perf clean

help:
	@echo "make demo    serve, mount and copy a real folder over QUIC on this machine"
	@echo "make test    style, types and all tests"
	@echo "make setup   only what both need: Debian packages and $(VENV)"
	@echo "make lint    style and types        make unit   the quick tests only"
	@echo "make format  put the style right    make perf   measure against other implementations"
	@echo "make clean   remove what these made"

demo: .make/packages-demo $(READY)
	@$(BIN)/quicfs demo

test: .make/packages-test .make/leaf lint
	$(BIN)/python -m pytest

setup: .make/packages-test .make/leaf $(READY)

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

unit: $(READY)
	$(BIN)/python -m pytest -q tests/unit tests/sim

perf: .make/packages-test .make/leaf $(READY)
	$(BIN)/python -m tests.perf

clean:
	rm -rf $(VENV) .make build dist *.egg-info transport/*.so .mypy_cache .ruff_cache .pytest_cache .hypothesis

.make/packages-%: tools/system-packages tools/find-python
	@tools/system-packages $*
	@mkdir -p $(@D) && touch $@

# The packages come first: one of them may be Python's venv. They are no reason to install again.
$(READY): $(BUILD) | .make/packages-demo
	@echo "Setting up $(VENV)"
	@test -x $(BIN)/python || "$$(tools/find-python)" -m venv $(VENV)
	@$(BIN)/pip install --quiet --disable-pip-version-check -e '.[test,peers]'
	@touch $@

# The packages for tests bring a compiler: an environment that was made without one gets its part in C now.
.make/leaf: $(BUILD) | .make/packages-test $(READY)
	@$(BIN)/python -c "import quicfs.transport._protection" 2>/dev/null || \
	    $(BIN)/pip install --quiet --disable-pip-version-check --no-deps -e .
	@touch $@
