# The first call on a fresh machine creates .venv and installs the pinned versions; later calls
# reuse it until a file in requirements/ changes.
#
#   make demo PYTHON=python3.11        another interpreter for the virtual environment
#   make demo PIP_FLAGS='--extra-index-url https://download.pytorch.org/whl/cpu'
#                                      Linux without a GPU: a torch that is 2 GB smaller

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV ?= .venv
PIP_FLAGS ?=
PYTEST_FLAGS ?=
BIN := $(VENV)/bin
HALF := $(VENV)/.installed-torch
ALL := $(VENV)/.installed-all

.DEFAULT_GOAL := help
.PHONY: help demo test lint bench install clean

help:  ## this list
	@sed -n 's/^\([a-z]*\):.*## /  make \1\t/p' $(MAKEFILE_LIST) | expand -t 18

demo: $(HALF)  ## pretrain and fine-tune a small Funnel-Transformer on real text: six minutes, two cores
	$(BIN)/python pytorch/demo.py

test: $(ALL)  ## every test, one worker per core
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n auto $(PYTEST_FLAGS)

lint: $(ALL)  ## style
	$(BIN)/ruff check .
	$(BIN)/ruff format --check -q .

# glibc returns large blocks to the system after every call by default; these thresholds keep them,
# for everything measured alike.
BENCHMARKS := models bench_text input_pipeline tensorflow_step finetuning int8 report
bench: export MALLOC_MMAP_THRESHOLD_ := 4294967296
bench: export MALLOC_TRIM_THRESHOLD_ := 4294967296
bench: export MALLOC_TOP_PAD_ := 268435456
bench: $(ALL)  ## time everything beside other implementations; 40 minutes
	set -e; for part in $(BENCHMARKS); do \
	    echo "== $$part"; $(BIN)/python benchmarks/$$part.py; done

install: $(ALL)  ## also make `import funnel` work from anywhere in .venv
	$(BIN)/pip install --no-deps -e .

clean:  ## remove caches and the demo's output; .venv stays
	rm -rf demo_output .pytest_cache .ruff_cache .hypothesis *.egg-info
	find common pytorch tensorflow data-scripts benchmarks tests -name __pycache__ -prune -exec rm -rf {} +

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(HALF): requirements/common.txt requirements/torch.txt | $(BIN)/python
	$(BIN)/pip install --disable-pip-version-check -q $(PIP_FLAGS) -r requirements/torch.txt
	touch $@

$(ALL): requirements.txt $(wildcard requirements/*.txt) | $(BIN)/python
	$(BIN)/pip install --disable-pip-version-check -q $(PIP_FLAGS) -r requirements.txt
	touch $@ $(HALF)
