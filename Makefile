# Weft: what people and machines run. Every target installs first what the machine lacks (as root, by apt-get).
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
export CARGO_TARGET_DIR ?= $(CURDIR)/target

# program or file that must be there : Debian package that brings it
TOOLS := cmake:cmake g++:g++ make:make pkg-config:pkg-config nft:nftables ip:iproute2 ping:iputils-ping \
         iperf3:iperf3 tcpdump:tcpdump ethtool:ethtool ps:procps setpriv:util-linux

# The same for what is tested in a User-Mode-Linux kernel: without them those tests are skipped, and say so.
UML_TOOLS := linux.uml:user-mode-linux modprobe:kmod iptables-legacy:iptables ovs-dpctl:openvswitch-switch

.PHONY: help deps uml-deps root build release demo lab lab-down test bench bench-switching bench-allocation fuzz lint

help: ## Show this
	@awk -F':.*## ' '/^[a-z-]+:.*## /{printf "make %-15s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))

deps: ## Install what is missing to build and test
	@missing=""; \
	for tool in $(TOOLS); do command -v "$${tool%%:*}" >/dev/null || missing+=" $${tool##*:}"; done; \
	[ -n "$${LIBCLANG_PATH:-}$$(compgen -G '/usr/lib*/libclang[.-][0-9s]*'; compgen -G '/usr/lib/*/libclang[.-][0-9s]*'; \
		compgen -G '/usr/lib/llvm-*/lib/libclang[.-][0-9s]*')" ] || missing+=" libclang-dev"; \
	if ! command -v cargo >/dev/null; then echo "weft: no cargo: install Rust from https://rustup.rs, then again" >&2; exit 1; fi; \
	if [ -n "$$missing" ]; then \
		if [ "$$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then \
			echo "weft: this machine lacks:$$missing" >&2; \
			echo "weft: install these (on Debian and Ubuntu as root: apt-get install$$missing), then again" >&2; exit 1; \
		fi; \
		echo "weft: installing$$missing"; \
		apt-get update -qq; \
		DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $$missing >/dev/null; \
	fi

uml-deps: deps ## Install what is missing to test in a User-Mode-Linux kernel
	@missing=""; \
	for tool in $(UML_TOOLS); do command -v "$${tool%%:*}" >/dev/null || missing+=" $${tool##*:}"; done; \
	if [ -z "$$missing" ]; then exit 0; fi; \
	if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
		echo "weft: installing$$missing"; \
		apt-get update -qq || true; \
		: "Only programs are wanted: no service of theirs shall start."; \
		if [ ! -e /usr/sbin/policy-rc.d ]; then \
			printf '#!/bin/sh\nexit 101\n' >/usr/sbin/policy-rc.d; chmod 755 /usr/sbin/policy-rc.d; \
			trap 'rm -f /usr/sbin/policy-rc.d' EXIT; \
		fi; \
		for package in $$missing; do \
			DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $$package >/dev/null \
				|| echo "weft: $$package cannot be installed here" >&2; \
		done; \
	fi; \
	for tool in $(UML_TOOLS); do \
		command -v "$${tool%%:*}" >/dev/null || \
			echo "weft: no $${tool##*:}: TESTS IN A USER-MODE-LINUX KERNEL ARE SKIPPED" >&2; \
	done

root:
	@if [ "$$(id -u)" != 0 ]; then echo "weft: network namespaces are made here: run this as root" >&2; exit 1; fi

build: deps ## Build the weft program and the lab
	cargo build -p weft-cmd -p weft-integration --bins

release: deps ## Build the weft program and the lab, optimised
	cargo build --release -p weft-cmd -p weft-integration --bins

demo: root release ## Show Weft working: three hosts, containers, encryption, a cut and its healing
	@"$$CARGO_TARGET_DIR/release/demo"

lab: root release ## Leave the demo's three hosts up to play with
	@"$$CARGO_TARGET_DIR/release/demo" lab up

lab-down: root release ## Remove what `make lab` made
	@"$$CARGO_TARGET_DIR/release/demo" lab down

test: export WEFT_TEST_BINARIES = $(CARGO_TARGET_DIR)/test-binaries.json
test: root uml-deps build ## Run all tests: unit, property, simulator, lab
	@rm -rf "$$CARGO_TARGET_DIR/debug/scenarios"; \
	cargo test --workspace --all-features --no-run --message-format=json-render-diagnostics >"$$WEFT_TEST_BINARIES"; \
	status=0; \
	if cargo nextest --version >/dev/null 2>&1; then \
		cargo test --workspace --all-features --doc --quiet && cargo nextest run --workspace --all-features || status=$$?; \
	else \
		cargo test --workspace --all-features || status=$$?; \
	fi; \
	"$$CARGO_TARGET_DIR/debug/table" || true; \
	exit $$status

bench: root release ## Measure Weft beside raw veth and kernel VXLAN (BENCH_SECONDS, BENCH_ROUNDS, BENCH_UNDERLAY, BENCH_ONLY, BENCH_OUT)
	cargo bench -p weft-integration --bench throughput

bench-switching: root release ## Measure how long nothing is heard when the kernel's path fails (BENCH_TRIALS, BENCH_OUT)
	cargo bench -p weft-integration --bench switching

bench-allocation: root release ## Measure how long it takes to be given an address (BENCH_TRIALS)
	cargo bench -p weft-integration --bench allocation

fuzz: deps ## Run each fuzz target of the parsers for FUZZ_SECONDS (10)
	BOLERO_RANDOM_TEST_TIME_MS=$$(( $${FUZZ_SECONDS:-10} * 1000 )) BOLERO_RANDOM_ITERATIONS=4294967295 \
		cargo test --workspace --all-features --exclude weft-integration --release --lib

lint: deps ## Check format, lints and documentation
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --all-features -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps --all-features --quiet
