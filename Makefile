.DEFAULT_GOAL := help
SHELL := /bin/bash
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
PROTOS := $(wildcard proto/tandem/search/v1/*.proto)
DEMO ?= demo-store

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk 'BEGIN {FS = ":.*## "} {printf "  make %-12s %s\n", $$1, $$2}'

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "expected Python 3.11 or newer, got $$($(PYTHON) --version); name one: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[train,ray,redis,otel,bench,dev]'
	@touch $@

install: $(STAMP) ## make the virtual environment with everything in it

demo: $(STAMP) ## invent a store, train both models, build, serve and search it
	$(BIN)/tandem demo $(DEMO)

test: $(STAMP) ## run every test
	$(BIN)/python -m pytest

check: $(STAMP) ## lint, check formatting and types, and that the gRPC stubs are fresh
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(MAKE) --no-print-directory proto-fresh

format: $(STAMP) ## format the code and mend what the linter can mend
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(STAMP) ## how to run the benchmarks
	@$(BIN)/python -m benchmarks --help

proto: $(STAMP) ## regenerate the gRPC stubs in server/pb
	$(BIN)/python -m grpc_tools.protoc -Iserver/pb=proto --python_out=. --pyi_out=. --grpc_python_out=. \
	  $(PROTOS:proto/%=server/pb/%)

proto-fresh: $(STAMP)
	@rm -rf build/proto && mkdir -p build/proto
	@$(BIN)/python -m grpc_tools.protoc -Iserver/pb=proto --python_out=build/proto --pyi_out=build/proto \
	  --grpc_python_out=build/proto $(PROTOS:proto/%=server/pb/%)
	@diff -r -x __init__.py -x __pycache__ build/proto/server/pb server/pb \
	  || { echo "server/pb is not what proto/ generates; run: make proto"; exit 1; }
	@echo "server/pb is fresh"

proto-lint: ## lint the public contract with buf (needs npx)
	npx --yes @bufbuild/buf lint

docs: $(STAMP) ## rewrite docs/configuration.md from the configuration classes
	$(BIN)/python docs/write_configuration.py

constraints: $(STAMP) ## rewrite constraints.txt from what is installed
	@{ head -1 constraints.txt; $(BIN)/python -m pip freeze --exclude-editable | sed 's/+cpu$$//'; } > constraints.tmp
	@mv constraints.tmp constraints.txt && touch $(STAMP)

clean: ## remove the virtual environment, caches and the demo store
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis $(DEMO)

.PHONY: help install demo test check format bench proto proto-fresh proto-lint docs constraints clean
