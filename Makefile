# Every target creates what it needs: python3 (3.11 or newer) and make are enough.
PYTHON ?= python3
WORKERS ?= 2
VENV := .venv
FLOOR := .venv-floor
ifeq ($(OS),Windows_NT)
SCRIPTS := Scripts
else
SCRIPTS := bin
endif
BIN := $(VENV)/$(SCRIPTS)
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

# One BLAS thread per test worker: two workers on two cores do not fight for them.
PYTEST := OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS)

# CuPy on emulated devices (tests/emulated_gpu), in processes of their own: the others see no GPU.
EMULATED := -n 0 -p tests.emulated_gpu.plugin tests/emulated_gpu tests/gpu/test_on_gpu.py -k "not torch" \
	--backends cupy,cupy:1 --require-backends cupy,cupy:1

.PHONY: train test test-all test-floor lint coverage wheel mutants bench docs docs-smoke docs-test clean

train: $(VENV)/.cli
	$(BIN)/portable-bp train digits

test: $(VENV)/.test lint docs-smoke
	$(PYTEST) -m "not slow"
ifeq ($(shell uname -s),Linux)
	$(PYTEST) $(EMULATED) -m "not slow"
endif

test-all: $(VENV)/.test lint
	$(PYTEST)
ifeq ($(shell uname -s),Linux)
	$(PYTEST) $(EMULATED)
endif

lint: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m tools.docstrings
	$(BIN)/check-jsonschema --quiet --builtin-schema vendor.github-workflows .github/workflows/*.yml
	$(BIN)/check-jsonschema --quiet --builtin-schema vendor.dependabot .github/dependabot.yml
	$(BIN)/check-jsonschema --quiet --builtin-schema vendor.github-issue-forms .github/ISSUE_TEMPLATE/bug.yml .github/ISSUE_TEMPLATE/idea.yml
	$(BIN)/check-jsonschema --quiet --builtin-schema vendor.citation-file-format CITATION.cff
	$(BIN)/zizmor --quiet --offline .github
	$(BIN)/hadolint deploy/Containerfile

# The lowest versions that pyproject.toml allows, in an environment of their own.
test-floor: $(FLOOR)/.test
	OMP_NUM_THREADS=1 $(FLOOR)/$(SCRIPTS)/python -m pytest -n $(WORKERS) -m "not slow" --ignore=tests/docs --ignore=tests/project

# Which lines the tests run, of the packages; the files for CuPy are left out: they need a GPU.
coverage: $(VENV)/.test
	$(PYTEST) -m "not slow" --cov --cov-report=term

# The wheel, and a training with it in an environment that has nothing else but what it asks for.
wheel: $(VENV)/.test
	$(BIN)/python -m pip wheel --quiet --no-deps --wheel-dir dist .
	$(PYTEST) tests/project/test_packaging.py

# The site; a warning is an error. The pages work from the folder, without a network.
docs: $(VENV)/.test
	$(BIN)/python -m sphinx -q -W --keep-going docs docs/_build/html
	@echo docs/_build/html/index.html

# Everything that can be wrong with a page, without running its code or the gallery.
docs-smoke: $(VENV)/.test
	$(BIN)/python -m sphinx -q -W --keep-going -b dummy -D plot_gallery=0 -D nb_execution_mode=off -d docs/_build/smoke docs docs/_build/smoke

# The built site in a browser: needs Debian's chromium, or CHROMIUM=/path/to/it.
docs-test: docs
	PORTABLE_BP_DOCS=required $(PYTEST) tests/docs

mutants: $(VENV)/.test
	$(BIN)/python tools/mutants.py

bench: $(VENV)/.bench
	$(BIN)/python -m benchmarks --save
	$(BIN)/python -m tools.readme_tables

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.cli: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) --editable '.[cli,plot]'
	touch $@

$(VENV)/.test: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) --editable '.[test,test-gpu]'
	touch $@ $(VENV)/.cli

$(FLOOR)/.test: pyproject.toml constraints-floor.txt
	$(PYTHON) -m venv $(FLOOR)
	$(FLOOR)/$(SCRIPTS)/python -m pip install --quiet --disable-pip-version-check --constraint constraints-floor.txt --editable '.[suite]'
	touch $@

$(VENV)/.bench: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) --editable '.[bench]'
	touch $@

clean:
	rm -rf $(VENV) $(FLOOR) build dist docs/_build docs/_generated docs/api docs/gallery *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
