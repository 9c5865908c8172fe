# Ebbtide's commands. `make` alone lists them. On a fresh Debian machine with Rust, Java and Maven, `make test` and
# `make build` do everything else themselves.

SHELL := /bin/bash

# Downloads and build output live outside the checkout: RocksDB is compiled once (25 minutes on 2 cores) for the program,
# the tests and CI together, and a fresh clone finds it ready.
export EBBTIDE_CACHE ?= $(HOME)/.cache/ebbtide
export CARGO_TARGET_DIR ?= $(EBBTIDE_CACHE)/target

# One profile everywhere, or everything native would be compiled a second time.
CARGO := cargo
PROFILE := --release
EBBTIDE := $(CARGO_TARGET_DIR)/release/ebbtide

# Where `make kafka` keeps its broker.
KAFKA_DIR ?= /tmp/ebbtide-kafka-$(shell id -u)

# Where `make bench` writes its figures.
BENCH_OUT ?= $(CURDIR)/bench.json

.DEFAULT_GOAL := help

.PHONY: help
help: ## List the commands
	@awk 'BEGIN { FS = ":.*## " } /^[a-z-]+:.*## / { printf "  \033[1m%-12s\033[0m %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: setup
setup: ## Install missing system packages (with apt, as root) and check the toolchain
	@tools/setup

.PHONY: build
build: setup ## Build the program
	$(CARGO) build $(PROFILE) --locked

.PHONY: demo
demo: build ## See it work, without a broker (ARGS="--brokers localhost:9092" for your own)
	@$(EBBTIDE) demo $(ARGS)

.PHONY: test
test: build ## All tests, with a real broker, browser and Prometheus (ARGS="--test exactly_once" for one)
	@tools/setup test
	@tools/kafka/kafka fetch
	@for folder in browser deploy; do npm ci --silent --no-audit --no-fund --ignore-scripts --prefix tests/$$folder; done
	$(CARGO) test $(PROFILE) --locked $(ARGS)

# How long `make chaos` runs, and the seed of its schedule (drawn, and printed, where it is empty).
MINUTES ?= 30
SEED ?=

.PHONY: chaos
chaos: build ## Break everything at random under load, and compare with the model (MINUTES=60 SEED=7)
	@tools/kafka/kafka fetch
	EBBTIDE_CHAOS_MINUTES=$(MINUTES) $(if $(SEED),EBBTIDE_SEED=$(SEED)) \
		$(CARGO) test $(PROFILE) --locked --test chaos -- --nocapture

.PHONY: bench
bench: build ## Measure: a table on the terminal, JSON in bench.json (ARGS="--only floor,hot --repeat 5"; --quick to try it)
	@tools/kafka/kafka fetch
	$(CARGO) bench --profile release --locked --bench engine -- --out $(BENCH_OUT) $(ARGS)

.PHONY: limits
limits: build ## Ten million users in 24 partitions on one instance: restore, events, a storm of all; peak memory (20 GB of disk)
	@tools/kafka/kafka fetch
	$(CARGO) bench --profile release --locked --bench engine -- --only random,storm --repeat 1 --users 10000000 \
		--timers 10000000 --partitions 24

.PHONY: lint
lint: setup ## Formatting, clippy (warnings are errors), Dockerfile and Kubernetes example
	@tools/lint-docker
	$(CARGO) fmt --all --check
	$(CARGO) clippy $(PROFILE) --locked --all-targets -- -D warnings

.PHONY: kafka
kafka: ## Start a real Apache Kafka broker on a free port, and print its address
	@tools/kafka/kafka start $(KAFKA_DIR)

.PHONY: kafka-stop
kafka-stop: ## Stop that broker and remove its data
	@tools/kafka/kafka stop $(KAFKA_DIR) --purge
