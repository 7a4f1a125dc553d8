# Two commands do all the set-up, each on a bare machine with Python >= 3.11: `make demo` and `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

# Two tests at once, on a thread each: the models are so tiny that threads only wait for each other.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 --dist loadgroup

EVERY_HEAD := test_onnx_runs_every_family_and_head_dense_and_pruned

.PHONY: demo test test-slow fuzz test-all lint docs install clean

demo: $(VENV)/.usable
	$(BIN)/python examples/demo.py

test: install
	$(PYTEST) -m "not slow"

# All the slow ones but every family and head through the public door and as ONNX files, which take hours, every layout
# as GGUF files, and two hundred prunes in one process: see test-all.
test-slow: install
	$(PYTEST) -m slow --ignore=tests/export/onnx --ignore=tests/export/gguf --ignore=tests/models/test_public_door.py \
		--ignore=tests/cli/test_endurance.py --deselect=tests/costs/test_backends.py::$(EVERY_HEAD)

# What is random, five times as often: 18,000 spoiled files, 105 killed commands, 10,000 cases of each search. Half an hour.
fuzz: install
	TRIMFORMER_FUZZ=5 $(PYTEST) -m slow tests/hostile tests/allocation

test-all: install
	$(PYTEST)

# Which lines of src the quick tests run; several minutes.
coverage: install
	$(PYTEST) -m "not slow" --cov=trimformer --cov-report=term-missing:skip-covered

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# The documentation site, in site/.
docs: $(VENV)/.docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

install: $(VENV)/.installed

# What a user installs. torch first and by itself: with it there, nothing else pulls another build.
$(VENV)/.usable: pyproject.toml constraints.txt
	@echo "installing into $(VENV) (a minute) ..."
	$(PYTHON) -m venv $(VENV)
	$(PIP) torch
	$(PIP) -e ".[train]"
	@touch $@

# And what tests, lint and types need.
$(VENV)/.installed: $(VENV)/.usable
	@echo "installing what tests need (a minute) ..."
	$(PIP) -e ".[dev]"
	@touch $@

# And what the documentation needs.
$(VENV)/.docs: $(VENV)/.usable
	$(PIP) -e ".[docs]"
	@touch $@

clean:
	rm -rf $(VENV) demo-output site
