# Everything a person or CI runs. `make` alone lists it. The two that matter on
# a fresh machine are `make run` and `make test`; both install what they need.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.NOTPARALLEL:

# For example CARGO_FLAGS=--locked.
CARGO_FLAGS ?=
# The folder of YAML that `make run` serves.
CONFIG ?= examples/bookinfo
# RELEASE=0: `make run` builds faster and runs slower.
RELEASE ?= 1
# What `make bench` runs, such as s3 or churn; everything if empty. Its other
# arguments are in ARGS; `ARGS=--help` lists them.
SCENARIO ?=
ARGS ?=

target := $(abspath $(or $(CARGO_TARGET_DIR),target))
tools := $(CURDIR)/.cache

# The parts of the Gateway API that `make test` has the conformance suite try.
core-profiles := GATEWAY-HTTP,GATEWAY-TLS,GATEWAY-GRPC,MESH-HTTP

# What the tests start and call. Set one of these to test something else.
export FAIRWAY_BIN ?= $(target)/debug/fairway
export FAIRWAY_CONTROLPLANE ?= $(tools)/bin/controlplane
export FAIRWAY_ENVOY ?= $(tools)/bin/envoy
export FAIRWAY_CRDS ?= $(tools)/crds
export FAIRWAY_KUBECTL ?= $(tools)/bin/kubectl
export FAIRWAY_CONFORMANCE ?= $(tools)/conformance
export FAIRWAY_GRPCURL ?= $(tools)/bin/grpcurl
export PYTHONDONTWRITEBYTECODE := 1

##@ Start here
.PHONY: help run demo stage test
help: ## list what can be made
	@awk -F ':.*## ' '/^##@/ { printf "\n%s\n", substr($$0, 5) } /^[a-z-]+:.*## / { printf "  make %-13s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

run: ## build and start Fairway on examples/bookinfo, no cluster needed (CONFIG=DIR, RELEASE=0)
	@RELEASE=$(RELEASE) CARGO_FLAGS="$(CARGO_FLAGS)" scripts/run.sh $(CONFIG)

demo: envoy binary ## send requests through a gateway and a waypoint on real Envoys, no cluster needed
	cargo run $(CARGO_FLAGS) -p fairway-integration-tests --bin demo

stage: controlplane envoy binary ## a Kubernetes with Fairway, waypoints and pods that run, for you with kubectl (root)
	cargo run $(CARGO_FLAGS) -p fairway-integration-tests --bin stage

test: check integration python-tests otel conformance-core ## all tests; what CI runs

##@ While working
.PHONY: check fmt fmt-check lint unit doc
check: fmt-check lint unit doc ## the quick loop: format, lints, unit tests, documentation

fmt: ## format the Rust code
	cargo fmt --all

fmt-check:
	cargo fmt --all --check

lint: tools
	cargo clippy $(CARGO_FLAGS) --workspace --all-targets --all-features -- -D warnings

unit: tools ## unit and golden tests only
	cargo test $(CARGO_FLAGS)

doc: tools
	RUSTDOCFLAGS="-D warnings" cargo doc $(CARGO_FLAGS) --no-deps

##@ Against real parts
.PHONY: integration conformance conformance-core python-tests otel bench micro
integration: controlplane envoy binary ## Fairway against a real Kubernetes API and real Envoys
	cargo test $(CARGO_FLAGS) -p fairway-integration-tests

conformance: controlplane envoy binary ## the Gateway API's own conformance suite (root; ARGS="-run Mesh")
	@scripts/conformance.sh
	cargo run $(CARGO_FLAGS) -p fairway-integration-tests --bin conformance -- $(ARGS)

conformance-core: ## what that suite asks of everybody, in minutes (root)
	@$(MAKE) --no-print-directory conformance ARGS="-features core -conformance-profiles $(core-profiles)"

python-tests: controlplane binary ## Fairway seen by grpcio, grpcurl, buf, Prometheus and Helm
	.cache/venv/bin/python -m pytest integration-tests/python

otel: tools ## a build with traces, seen by a collector
	cargo test $(CARGO_FLAGS) -p fairway --features otel --test otel

bench: controlplane ## measure (SCENARIO=s3 ARGS="...")
	cargo build $(CARGO_FLAGS) --release -p fairway -p fairway-bench
	$(target)/release/fairway-bench $(SCENARIO) $(ARGS)

micro: tools ## measure single parts alone, in 3 minutes (ARGS=commit for some)
	cargo bench $(CARGO_FLAGS) -p fairway-bench --bench micro -- $(ARGS)

##@ Parts
.PHONY: tools controlplane envoy binary certs clean
tools: ## install what is missing: Debian packages, .cache/venv, kubectl, grpcurl, buf, helm, promtool
	@scripts/tools.sh

controlplane: tools ## build etcd, kube-apiserver, controllers and kube-proxy for the tests, fetch CRDs
	@scripts/controlplane.sh
	@scripts/crds.sh

envoy: tools ## install the Envoy that the tests start
	@scripts/envoy.sh

binary: tools
	cargo build $(CARGO_FLAGS)

certs: ## make new development and test roots
	certs/make.sh

clean: ## remove everything that was built or installed here
	cargo clean
	rm -rf .cache
