# The two commands of a new checkout are `make run` and `make test`; `make` alone lists the rest.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
MAKEFLAGS += --no-print-directory
.DEFAULT_GOAL := help
.PHONY: binary dev worker worker-all worker-verbose queue-info queue-health cleanup-s3 cleanup-daily
.PHONY: help setup run test topologies chaos test-compose lint format-check clippy deny proto monitoring manifests shellcheck build image bench clean distclean

# A shell that is not a login shell often lacks rustup's directory.
export PATH := $(HOME)/.cargo/bin:$(PATH)

# Where `make run` keeps its data, and more arguments for `riacho up`.
DATA_DIR ?= .riacho/data
ARGS ?=
# The program that the targets of operators run; where none is named, the release is built. What `make worker` runs.
RIACHO ?=
STAGES ?= extractor
# The plan of `make chaos`: a seed (by default a new one), minutes, and partitions. PROFILE=release tests the release.
SEED ?=
MINUTES ?= 10
PARTITIONS ?= 1
PROFILE ?= dev
# What `make topologies` tests, and on which ways to run Redis; `valkey` is Valkey 8 as one server, where there is a package of it.
TOPOLOGIES ?= single sentinel cluster valkey valkey-sentinel valkey-cluster
SUITES := handoff server runner outputs poison foreground lanes pauses
# What a change of the .proto files is compared with; by default the last release, else the main branch.
PROTO_BASE ?=

SETUP := python3 crates/local/setup/setup.py
TOOLS := .riacho/tools/bin
PYTHON := .riacho/venv/bin/python
PROGRAM = $(or $(RIACHO),target/release/riacho) --data-dir $(DATA_DIR)
# Cargo shows its progress to people; a log gets warnings, errors and results only.
QUIET := $(shell test -t 2 || echo --quiet)
SAY = printf '== %s\n'

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

setup: ## fetch the servers, the model and the tools of the tests
	@$(SAY) "making the runtime and the tools of the tests ready"
	@$(SETUP) build runtime test

run: ## build, start everything, ingest the samples, search, keep serving until Ctrl-C
	@$(SAY) "making the runtime ready"
	@$(SETUP) build runtime
	@$(SAY) "building the release (the first time takes several minutes)"
	@cargo build --release --locked $(QUIET) -p riacho
	@exec target/release/riacho up --demo --data-dir $(DATA_DIR) $(ARGS)

test: setup lint ## everything that has to pass before a change lands
	@$(SAY) "compiling and running all tests"
	@cargo test --workspace --locked --no-fail-fast $(QUIET)
	@$(MAKE) topologies TOPOLOGIES="sentinel cluster valkey"

topologies: setup ## the suites of streams and runner on each way to run Redis: TOPOLOGIES="cluster valkey"
	@for topology in $(TOPOLOGIES); do \
	  $(SAY) "testing streams and runner: $$topology"; \
	  export RIACHO_TEST_TOPOLOGY=$${topology#valkey-} RIACHO_TEST_REDIS_DIR=; \
	  if [[ $$topology == valkey* ]]; then \
	    export RIACHO_TEST_REDIS_DIR=$(CURDIR)/.riacho/tools/valkey; \
	    if [ ! -e $$RIACHO_TEST_REDIS_DIR ]; then $(SAY) "no package of Valkey 8 for this processor"; continue; fi; \
	  fi; \
	  if [ $$topology = valkey ]; then RIACHO_TEST_TOPOLOGY=single; fi; \
	  cargo test --workspace --locked $(QUIET) $(SUITES:%=--test %); \
	done

chaos: setup ## inject faults into a deployment and check it: SEED=.. MINUTES=.. PARTITIONS=.. PROFILE=release
	@$(SAY) "compiling"
	@RIACHO_CHAOS_SEED="$(SEED)" RIACHO_CHAOS_MINUTES="$(MINUTES)" RIACHO_CHAOS_PARTITIONS="$(PARTITIONS)" \
	  cargo test --workspace --locked $(QUIET) --profile $(PROFILE) --test chaos -- --ignored --nocapture a_long_run

test-compose: build ## the image and compose/ on a real Docker engine, as root: up, scale, kill, roll, back up, restore
	@$(SETUP) compose
	@$(SAY) "testing the image and compose/"
	@PYTHONDONTWRITEBYTECODE=1 python3 compose/tests/test_compose.py $(ARGS)

lint: setup format-check clippy deny proto shellcheck monitoring manifests ## format, lints, licences, advisories, .proto files, shell scripts, alerts, what deploys

format-check:
	@$(SAY) "checking the format"
	@cargo fmt --all --check

clippy:
	@$(SAY) "linting; warnings are errors"
	@cargo clippy --workspace --all-targets --locked $(QUIET) -- -D warnings

deny:
	@$(SAY) "checking licences, sources and banned crates of all dependencies"
	@$(TOOLS)/cargo-deny --log-level error --locked check --hide-inclusion-graph licenses bans sources
	@if timeout 60 $(TOOLS)/cargo-deny --log-level off fetch db >/dev/null 2>&1; then \
	  $(SAY) "checking advisories"; \
	  $(TOOLS)/cargo-deny --log-level error --locked check --hide-inclusion-graph --disable-fetch advisories; \
	elif [ -n "$${RIACHO_REQUIRE_ADVISORIES:-}" ]; then \
	  echo "the advisory database cannot be reached, and RIACHO_REQUIRE_ADVISORIES asks for it" >&2; exit 1; \
	else \
	  $(SAY) "advisories not checked: their database cannot be reached from here"; \
	fi

proto:
	@$(SAY) "linting the .proto files"
	@$(TOOLS)/buf lint proto
	@base="$(PROTO_BASE)"; \
	if [ -z "$$base" ]; then base=$$(git describe --tags --abbrev=0 --match 'v*' 2>/dev/null || true); fi; \
	if [ -z "$$base" ]; then \
	  for ref in origin/main main HEAD; do \
	    if git rev-parse --verify --quiet "$$ref^{commit}" >/dev/null; then base=$$ref; break; fi; \
	  done; \
	fi; \
	if [ -n "$$base" ] && git cat-file -e "$$base:proto/buf.yaml" 2>/dev/null; then \
	  $(SAY) "comparing the .proto files with those of $$base"; \
	  old=$$(mktemp -d); trap 'rm -rf "$$old"' EXIT; \
	  git archive "$$base" proto | tar -x -C "$$old"; \
	  $(TOOLS)/buf breaking proto --against "$$old/proto"; \
	else \
	  $(SAY) "no earlier .proto files to compare with"; \
	fi

monitoring: ## check alerts, their tests, and the configurations of Prometheus and Alertmanager
	@$(SAY) "checking the alerts and their tests"
	@$(TOOLS)/promtool check config compose/prometheus/prometheus.yml >/dev/null
	@$(TOOLS)/promtool test rules compose/prometheus/tests/*.yml >/dev/null
	@for file in compose/alertmanager/*.yml; do $(TOOLS)/amtool check-config "$$file" >/dev/null; done

manifests:
	@$(SAY) "checking the Kubernetes manifests, the templates of platforms and the workflows"
	@$(PYTHON) -B -m unittest discover --quiet -s k8s/tests -t k8s/tests

shellcheck:
	@if [ -e $(TOOLS)/shellcheck ]; then \
	  $(SAY) "checking the shell scripts"; \
	  $(TOOLS)/shellcheck --external-sources $$(git ls-files '*.sh' .ci/run); \
	else \
	  $(SAY) "shell scripts not checked: no package of shellcheck for this processor"; \
	fi

image: ## build the container image riacho:latest with Docker
	@docker build --tag riacho:latest .

build: ## build the release
	@$(SETUP) build
	@$(SAY) "building the release"
	@cargo build --release --locked $(QUIET) -p riacho

# The names that users of the predecessor know, each a command of the program. They find the deployment that `make run` or
# `make dev` runs, or the servers that the configuration names.
binary:
	@if [ -z "$(RIACHO)" ]; then $(SETUP) build runtime && cargo build --release --locked $(QUIET) -p riacho; fi

dev: binary ## build, start everything without the samples, keep serving until Ctrl-C
	@exec $(PROGRAM) up $(ARGS)

worker: binary ## run workers beside a deployment: STAGES=extractor,embedder
	@exec $(PROGRAM) work --stages $(STAGES) $(ARGS)

worker-all: binary ## run every worker and the janitor beside a deployment
	@exec $(PROGRAM) work --stages extractor,embedder,indexer,janitor $(ARGS)

worker-verbose: binary ## the same with a log of every step
	@exec $(PROGRAM) work --stages extractor,embedder,indexer,janitor --set log.filter=info,riacho=debug $(ARGS)

queue-info: binary ## each stage's entries, and the documents by state
	@$(PROGRAM) queue info $(ARGS)

queue-health: binary ## whether work gets done; fails where it does not
	@$(PROGRAM) queue health $(ARGS)

cleanup-s3: binary ## remove objects that no row knows: ARGS=--dry-run only counts
	@$(PROGRAM) janitor run orphans $(ARGS)

cleanup-daily: binary ## all that the janitor cleans up, once: ARGS=--dry-run only counts
	@failed=; for task in expire-uploads expire-documents purge orphans consumers housekeep; do \
	  code=0; $(PROGRAM) janitor run $$task $(ARGS) || code=$$?; \
	  if [ $$code = 130 ]; then exit 130; fi; \
	  if [ $$code != 0 ]; then failed="$$failed $$task"; fi; \
	done; \
	if [ -n "$$failed" ]; then echo "failed:$$failed" >&2; exit 1; fi

bench: ## build the release and measure it; arguments of one measurement in ARGS
	@$(SETUP) build runtime
	@$(SAY) "building the release"
	@cargo build --release --locked $(QUIET) -p riacho -p riacho-benches
	@if [ -n "$(ARGS)" ]; then exec target/release/riacho-bench $(ARGS); fi; \
	for measurement in idle accept bulk memory; do \
	  $(SAY) "measuring $$measurement"; \
	  target/release/riacho-bench "$$measurement"; \
	done

clean: ## remove what was built; the runtime and the data stay
	@cargo clean --quiet
	@rm -rf .riacho/cache

distclean: clean ## remove the runtime, the tools and the data of `make run` too
	@rm -rf .riacho
