# The first call on a fresh machine creates .venv and installs the pinned versions; later calls
# reuse it until a file in requirements/ changes.
#
#   make demo PYTHON=python3.11        another interpreter for the virtual environment
#   make demo PIP_FLAGS='--extra-index-url https://download.pytorch.org/whl/cpu'
#                                      Linux without a GPU: a torch that is 2 GB smaller

# Python 3.11 to 3.13: the first of these that is one. A name on PATH may be pyenv's and not run.
PYTHON ?= $(or $(shell for python in python3 python3.13 python3.12 python3.11; do \
    $$python -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2> /dev/null \
    && echo $$python && break; done),python3)
PYTHON311 ?= python3.11
VENV ?= .venv
OLD := .venv-tensorflow-2.15
PIP_FLAGS ?=
PYTEST_FLAGS ?=
BIN := $(VENV)/bin
HALF := $(VENV)/.installed-torch
ALL := $(VENV)/.installed-all
TF_HALF := $(VENV)/.installed-tensorflow
TOOLS := $(VENV)/.installed-tools
TPU := $(VENV)/.installed-tpu-compile

.DEFAULT_GOAL := help
.PHONY: help demo test test-fast test-thorough test-torch test-tensorflow test-tensorflow-2.15 test-tpu \
    coverage lint bench tpu install clean

help:  ## list the targets
	@sed -n 's/^\([a-z0-9.-]*\):.*## /  make \1\t/p' $(MAKEFILE_LIST) | expand -t 24

demo: $(HALF)  ## pretrained or not, Transformer or Funnel, on real text: seven minutes, two cores
	$(BIN)/python demo/demo.py

# worksteal: tests of one file, with its fixtures, stay in one worker until another has nothing left.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n auto --dist worksteal $(PYTEST_FLAGS)

test: $(ALL)  ## every test, one worker per core
	$(PYTEST)

test-fast: $(ALL)  ## the tests that are not marked slow: under two minutes
	$(PYTEST) -m 'not slow'

test-thorough: export FUNNEL_TEST_THOROUGH := 1
test-thorough: $(ALL)  ## every test, with more repetitions of what differs by chance
	$(PYTEST)

test-torch: $(HALF) $(TOOLS)  ## the tests of the PyTorch half, with PyTorch alone installed
	$(PYTEST)

test-tensorflow: $(TF_HALF) $(TOOLS)  ## the tests of the TensorFlow half, with TensorFlow alone installed
	$(PYTEST)

test-tensorflow-2.15: $(OLD)/.installed  ## the TensorFlow and parity tests with TensorFlow 2.15.1 and Python 3.11
	OMP_NUM_THREADS=1 $(OLD)/bin/python -m pytest -q -n auto $(PYTEST_FLAGS) \
	    tests/tf tests/parity tests/cli/test_tf_*.py tests/scripts/test_tf_scripts.py

test-tpu: $(TPU) $(TOOLS)  ## compile small training steps for TPUs that are not there (Linux x86-64)
	$(PYTEST) tests/cli/test_tpu_compile.py

coverage: $(ALL)  ## line coverage of the packages by all tests
	$(PYTEST) --cov=funnel --cov=funnel_data --cov=funnel_torch --cov=funnel_tf \
	    --cov-report=term:skip-covered --cov-report=html

lint: $(ALL)  ## style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check -q .
	$(BIN)/mypy

# By default glibc returns large blocks to the system after every call; these thresholds keep them,
# for all cases alike. The arenas of further threads, such as autograd's, hold blocks of 64 MB at most.
BENCHMARKS := models branches bench_text input_pipeline tensorflow_step pretraining_rate finetuning int8 fused_compilation prediction report
bench: export MALLOC_MMAP_THRESHOLD_ := 2147483647
bench: export MALLOC_TRIM_THRESHOLD_ := 2147483647
bench: export MALLOC_TOP_PAD_ := 67108864
bench: export MALLOC_ARENA_MAX := 1
bench: $(ALL)  ## time everything against other implementations; over an hour
	set -e; for part in $(BENCHMARKS); do \
	    echo "== $$part"; $(BIN)/python benchmarks/$$part.py; done

# Resumable: what benchmarks/results/tpu.json has already is not compiled again.
tpu: $(TPU)  ## compile the published sizes for TPUs that are not there; hours, ONLY='B4*' for a part
	$(BIN)/python benchmarks/tpu.py --only='$(or $(ONLY),*)'
	$(BIN)/python benchmarks/tpu_tables.py --write

install: $(ALL)  ## install the packages in .venv (editable)
	$(BIN)/pip install --no-deps -e .

clean:  ## remove caches and the demo's output, but not .venv
	rm -rf demo_output .pytest_cache .ruff_cache .mypy_cache .hypothesis .coverage htmlcov *.egg-info
	find common pytorch tensorflow data-scripts benchmarks tests -name __pycache__ -prune -exec rm -rf {} +

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(HALF): requirements/base.txt requirements/common.txt requirements/torch.txt | $(BIN)/python
	$(BIN)/pip install --disable-pip-version-check -q $(PIP_FLAGS) -r requirements/torch.txt
	touch $@

$(TF_HALF): requirements/base.txt requirements/common.txt requirements/tensorflow.txt | $(BIN)/python
	$(BIN)/pip install --disable-pip-version-check -q $(PIP_FLAGS) -r requirements/tensorflow.txt
	touch $@

$(TPU): requirements/tpu-compile.txt $(TF_HALF)
	$(BIN)/pip install --disable-pip-version-check -q $(PIP_FLAGS) -r requirements/tpu-compile.txt
	touch $@

# Left out: what needs torch, which a half without it would get too; the full set has them.
$(TOOLS): requirements/dev.txt | $(BIN)/python
	grep -vE '^(transformers|accelerate|peft)==' requirements/dev.txt > $(VENV)/dev.txt
	$(BIN)/pip install --disable-pip-version-check -q $(PIP_FLAGS) -r $(VENV)/dev.txt
	touch $@

$(ALL): requirements.txt $(wildcard requirements/*.txt) | $(BIN)/python
	$(BIN)/pip install --disable-pip-version-check -q $(PIP_FLAGS) -r requirements.txt
	touch $@ $(HALF) $(TF_HALF) $(TOOLS)

# With torch, for the parity tests. torch.txt itself has the newer numpy, as pandas wants it.
$(OLD)/.installed: requirements/base.txt requirements/tensorflow-2.15.txt requirements/dev.txt requirements/torch.txt
	$(PYTHON311) -m venv $(OLD)
	grep '^torch==' requirements/torch.txt > $(OLD)/torch.txt
	grep -vE '^(pandas|datasets)==' requirements/dev.txt > $(OLD)/dev.txt
	$(OLD)/bin/pip install --disable-pip-version-check -q $(PIP_FLAGS) \
	    -r requirements/tensorflow-2.15.txt -r $(OLD)/dev.txt -r $(OLD)/torch.txt
	touch $@
