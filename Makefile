SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.PHONY: help demo test test-system test-lowest test-long compiled lint fix bench docs clean

VENV := .venv
# The machine's own Python, looked up before the virtual environment comes first in PATH.
PYTHON := $(shell command -v python3)
export PATH := $(CURDIR)/$(VENV)/bin:$(PATH)
# A shell's own PYTHONPATH would shadow what the virtual environment holds.
unexport PYTHONPATH

SYSTEM_PYTHON := /usr/bin/python3
PYTHON_VERSION := import sys; print(sys.version)
# Whether there is what mypyc's output takes: a C compiler, and the header files of Python.
COMPILES := import os, shutil, sys, sysconfig; cc = os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc"; \
	sys.exit(not (shutil.which(cc.split()[0]) and os.path.exists(sysconfig.get_path("include") + "/Python.h")))

# Absolute, because relative paths of a configuration start from the configuration.
DEMO := $(abspath $(or $(PIPECRYPT_DEMO_DIR),./demo))
SCALE ?= 0.1
COMPILED_TESTS ?= tests/parquet tests/crypto

help: ## Print these targets
	@sed -nE 's/^([a-z-]+):[^#]*## (.*)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 20

demo: export PIPECRYPT_DEMO_DIR := $(DEMO)
demo: export PIPECRYPT_PASSPHRASE_FILE := $(DEMO)/passphrase
demo: export PIPECRYPT_STATE_DIR := $(DEMO)/state
demo: $(VENV)/.demo ## Set up, encrypt TPC-H lineitem, inspect it, read it back with a filter
	@mkdir -p $(DEMO)/data
	@test -s $(DEMO)/passphrase || (umask 077; head -c 24 /dev/urandom | base64 > $(DEMO)/passphrase)
	@test -s $(DEMO)/data/lineitem.parquet || { \
		tpchgen-cli parquet -s $(SCALE) -T lineitem -o $(DEMO)/new --overwrite && \
		mv $(DEMO)/new/lineitem.parquet $(DEMO)/data/ && rmdir $(DEMO)/new; }
	@for key in prices pii; do \
		pipecrypt keys list "keystore://$(DEMO)/keys.json#$$key" > /dev/null 2>&1 || \
		pipecrypt keys new "keystore://$(DEMO)/keys.json#$$key"; done
	pipecrypt run configs/quickstart.yaml --overwrite
	pipecrypt inspect $(DEMO)/encrypted/lineitem.parquet
	python docs/examples/read_back.py $(DEMO)/encrypted/lineitem.parquet \
		"keystore://$(DEMO)/keys.json#prices" "keystore://$(DEMO)/keys.json#pii"

test: lint ## Lint, check types and layers, run the tests with coverage
	pytest -n 3 --dist worksteal -m "not long" --cov --cov-report=term:skip-covered

# In an environment of its own, with less in it.
test-system: ## Run the tests of sources, parquet and crypto under the system's own Python, if it is another one
	@if [ ! -x "$(SYSTEM_PYTHON)" ] || \
		[ "$$($(SYSTEM_PYTHON) -c '$(PYTHON_VERSION)')" = "$$($(VENV)/bin/python -c '$(PYTHON_VERSION)')" ]; then \
		echo "$(SYSTEM_PYTHON) is not another Python than that of $(VENV)"; \
	elif ! $(SYSTEM_PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then \
		echo "$(SYSTEM_PYTHON) is older than 3.11"; \
	else \
		$(MAKE) --no-print-directory VENV=.venv-system PYTHON=$(SYSTEM_PYTHON) run-system; fi

.PHONY: run-system
run-system: $(VENV)/.rows
	pytest -n 2 -p no:cacheprovider -m "not long" tests/formats tests/parquet tests/crypto

# Some inputs of tests/parquet take a newer pyarrow to make.
test-lowest: ## Run the public face, the command line, reading, stores and key services with the lowest declared versions
	@$(MAKE) --no-print-directory VENV=.venv-lowest run-lowest

.PHONY: run-lowest
run-lowest: $(VENV)/.lowest
	pytest -n 2 -p no:cacheprovider -m "not long" tests/test_public_face.py tests/config tests/crypto tests/cli tests/reading \
		tests/dataset/test_s3.py tests/store/test_s3_sink.py tests/store/test_conditional.py \
		tests/runs/workers/test_dask.py tests/keys/schemes/test_gcp_kms.py tests/keys/schemes/test_azure_kv.py \
		tests/keys/schemes/test_pkcs11.py

test-long: $(VENV)/.dev ## Run the fault and fuzz suites
	pytest -n 2 -m long

# The wheel is unpacked, and comes before the sources; a test fails where the sources run all the same.
compiled: export PIPECRYPT_TEST_COMPILED := 1
compiled: $(VENV)/.dev ## Build a wheel with the engine compiled, and run the tests of parquet and crypto with it
	@if ! python -c '$(COMPILES)'; then \
		echo "the engine is not compiled: there is no C compiler, or no header files of Python"; \
	else \
		$(MAKE) --no-print-directory run-compiled; fi

.PHONY: run-compiled
run-compiled:
	rm -rf .compiled
	HATCH_BUILD_HOOK_ENABLE_CUSTOM=true python -m hatchling build -t wheel -d .compiled/dist
	python -m zipfile -e .compiled/dist/*.whl .compiled/lib
	pytest -n 2 -p no:cacheprovider -m "not long" -o pythonpath=".compiled/lib ." $(COMPILED_TESTS)

lint: $(VENV)/.dev ## Run ruff, mypy and import-linter
	ruff check .
	ruff format --check .
	mypy
	lint-imports

fix: $(VENV)/.dev ## Let ruff repair and format
	ruff check --fix .
	ruff format .

bench: $(VENV)/.bench ## Measure what is promised, beside limits and peers; fails where a promise is broken
	python -m benchmarks check

docs: $(VENV)/.dev ## Check the documentation's commands, links and examples; UPDATE=1 rewrites the outputs
	PIPECRYPT_UPDATE_DOCS=$(UPDATE) pytest tests/test_docs.py tests/interop

clean: ## Remove the virtual environment, the demo and all caches
	rm -rf $(VENV) .venv-system .venv-lowest .venv-duckdb .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache .coverage* htmlcov demo
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# Where the machine lacks ensurepip (Debian without python3-venv), the machine's own pip fills the environment, or that of
# the first environment fills the second one.
$(VENV)/.pip:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed"; exit 1; }
	@rm -rf $(VENV)
	$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV) && $(PYTHON) -m venv --without-pip $(VENV) && \
		{ $(PYTHON) -m pip --python $(VENV)/bin/python install pip || \
		.venv/bin/python -m pip --python $(VENV)/bin/python install pip; }; }
	python -m pip install --quiet --upgrade "pip>=25.1"
	@touch $@

$(VENV)/.demo: pyproject.toml | $(VENV)/.pip
	python -m pip install --quiet -e . "tpchgen-cli>=2"
	@touch $@

$(VENV)/.rows: pyproject.toml | $(VENV)/.pip
	python -m pip install --quiet -e . --group rows
	@touch $@

$(VENV)/.dev: pyproject.toml | $(VENV)/.pip
	python -m pip install --quiet -e . --group dev
	@touch $@

# DuckDB encrypts with OpenSSL where its extension httpfs is loaded, which is not there for the newest version.
$(VENV)/.bench: pyproject.toml | $(VENV)/.dev
	python -m pip install --quiet --group bench
	$(PYTHON) -m venv .venv-duckdb || { rm -rf .venv-duckdb && $(PYTHON) -m venv --without-pip .venv-duckdb; }
	python -m pip --python .venv-duckdb/bin/python install --quiet "duckdb>=1.5,<1.6" "duckdb-extension-httpfs>=1.5,<1.6"
	@touch $@

$(VENV)/.lowest: pyproject.toml tests/lowest.py | $(VENV)/.pip
	python tests/lowest.py > $(VENV)/lowest.txt
	python -m pip install --quiet -c $(VENV)/lowest.txt --group lowest \
		-e ".[aws,azure,azure-kv,blake3,dask,gcp-kms,gcs,http,pkcs11,s3]"
	@touch $@
