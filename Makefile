# `make demo` and `make test` are all that is needed on a fresh Debian 12 machine, as root.
.DEFAULT_GOAL := help
.PHONY: help setup demo test test-kernel check bench bench-migration bench-placement proto clean
MAKEFLAGS += --no-print-directory
BIN := .venv/bin
# Tests at a time: two for each of two cores, since those on real daemons wait for half of their time. Those of one file
# stay together: they share a lab.
WORKERS := 4

help: ## this list
	@sed -n 's/^\([a-z-]*\):[^#]*## /  make \1\t/p' $(MAKEFILE_LIST) | expand -t 16

setup: ## install what is missing: Debian packages, .venv, the lab's guest
	@scripts/install.sh

demo: setup ## three hosts, two zones: ping, copy, live migration, a refused one; cleans up
	@scripts/demo

test: setup check ## every test there is
	@$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile

test-kernel: setup ## the data plane's tests on the kernel's datapath, in an emulated machine; ARGS='--rest -x'
	@scripts/test-kernel $(ARGS)

check: ## lint, format, types
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

bench: ## our network beside OVN's and a bare bridge: how soon, how fast, how large; half an hour; SAMPLES=10 FEW=1
	@scripts/install.sh --bench
	@scripts/bench-network $(if $(SAMPLES),--samples $(SAMPLES)) $(if $(FEW),--few)

bench-migration: ## a live migration seen by the network: ours, OVN, MAC learning, the floor; MOVES=20 (docs/bench.md)
	@scripts/install.sh --bench
	@scripts/bench-migration $(if $(MOVES),--moves $(MOVES))

bench-placement: ## a decision where a VM goes, on 10,000 hosts with 100,000 VMs
	@scripts/bench-placement

proto: ## regenerate the contract's Python from its .proto files
	@$(BIN)/python -m grpc_tools.protoc -I. --python_out=. --pyi_out=. --grpc_python_out=. netmgr/contract/proto/*.proto

clean: ## end every lab; remove what was built here
	@[ ! -x $(BIN)/python ] || scripts/lab down --all
	@rm -rf .venv build *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
