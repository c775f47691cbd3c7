# A fresh machine needs Python 3.11 or later and make; the targets install the rest into .venv.
PYTHON ?= python3
BIN := .venv/bin
export PATH := $(CURDIR)/$(BIN):$(PATH)
ifdef HEADSWAP_MIRROR
# A relative path would break inside `dvc exp run --temp`; an address is left as it is.
export HEADSWAP_MIRROR := $(if $(findstring ://,$(HEADSWAP_MIRROR)),$(HEADSWAP_MIRROR),$(abspath $(HEADSWAP_MIRROR)))
endif

.PHONY: help demo test repro bench lint clean
.DEFAULT_GOAL := help

help:  ## say what can be made
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## (.*)/make \1\t\2/' | expand -t 14

demo: .venv/installed  ## the whole pipeline on generated images, in the folder demo/ (no download)
	@sh data/generated/demo.sh

test: .venv/installed  ## all tests (HEADSWAP_MIRROR, if set, adds those on the real photographs)
	OMP_NUM_THREADS=1 pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder

repro: .venv/installed  ## the real experiment, as params.yaml describes it
	headswap check
	dvc repro

bench: .venv/installed  ## headswap against the classic script, into benchmarks/RESULTS.md
	python benchmarks/bench.py

lint: .venv/installed  ## style and format
	ruff check .
	ruff format --check .

clean:  ## forget finished and interrupted runs and the demo (DVC's cache stays)
	rm -rf runs demo dvc_plots

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "headswap needs Python 3.11 or later; say make PYTHON=python3.12, for example")'
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[test]'
	touch $@
