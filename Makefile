# A fresh machine needs Python 3.11 or later and make; the targets install the rest into .venv.
PYTHON ?= python3
BIN := .venv/bin
# Install a project with some extras: by uv, with CPU=1 torch from PyTorch's own index of builds for
# CPUs; by pip where there is no uv or it finds nothing, since it does not read pip's configuration.
WHAT = --constraint constraints.txt --editable
UV = uv pip install --python .venv $(if $(CPU),--torch-backend cpu)
PIP = (echo "uv cannot; pip installs, in minutes." && $(BIN)/pip install --progress-bar on $(WHAT) $(1))
install = $(UV) $(WHAT) $(1) $(if $(CPU),,|| $(PIP))
# Two processes; one thread each, as the processes that train.
PYTEST := OMP_NUM_THREADS=1 pytest --numprocesses 2
export PATH := $(CURDIR)/$(BIN):$(PATH)
# Where this is set, as in many containers, each process would compile torch anew: seconds.
export PYTHONDONTWRITEBYTECODE :=
ifdef HEADSWAP_MIRROR
# A relative path would break inside `dvc exp run --temp`; an address is left as it is.
export HEADSWAP_MIRROR := $(if $(findstring ://,$(HEADSWAP_MIRROR)),$(HEADSWAP_MIRROR),$(abspath $(HEADSWAP_MIRROR)))
endif

.PHONY: help demo test test-slow repro experiments lint clean
.DEFAULT_GOAL := help

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/make \1\t\2/' | expand -t 16

demo: .venv/installed  ## the pipeline on generated images, in demo/ (no download)
	@sh scripts/demo.sh

test: .venv/tests-installed  ## the quick tests, for every change
	$(PYTEST) --dist worksteal -m "not slow"

test-slow: .venv/tests-installed  ## kills, clusters, whole pipelines; HEADSWAP_MIRROR adds real photographs
	$(PYTEST) --dist loadfile -m slow

repro: .venv/installed  ## the real experiment, as described in params.yaml
	@[ -e .git ] || git rev-parse 2> /dev/null || dvc config --local core.no_scm true # a download without Git
	headswap check
	headswap weights
	dvc repro verify
	headswap runs
	dvc repro

experiments: .venv/installed  ## what differs between the experiments of DVC, in 80 columns
	@sh scripts/experiments.sh

lint: .venv/tests-installed  ## style, format, types, who imports whom, and what the documents name
	ruff check .
	ruff format --check .
	mypy
	lint-imports
	python scripts/check_docs.py

clean:  ## delete runs/, demo/ and dvc_plots/ (DVC's cache stays)
	rm -rf runs demo dvc_plots

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "headswap needs Python 3.11 or later; name one, for example: make PYTHON=python3.12")'
	$(PYTHON) -m venv .venv
	@echo "Installing torch $(if $(CPU),for CPUs,for NVIDIA's GPUs and for CPUs) and all else into .venv$(if $(CPU),,: 6 GiB; make CPU=1 without NVIDIA's)"
	$(if $(CPU),,-)$(BIN)/pip install --quiet --constraint constraints.txt uv
	$(call install,.)
	touch $@

.venv/tests-installed: .venv/installed
	$(call install,'.[test]')
	touch $@
