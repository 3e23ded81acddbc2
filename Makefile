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

# And for real container runtimes that speak CNI.
CNI_TOOLS := podman:podman ctr:containerd runc:runc busybox:busybox-static /usr/lib/cni/host-local:containernetworking-plugins

# The same for what is tested with Docker engines, which the tests start and stop themselves.
ENGINE_TOOLS := dockerd:docker.io runc:runc iptables:iptables busybox:busybox-static

# And what a Kubernetes cluster is tried with, besides these and its own programs.
CLUSTER_TOOLS := etcd:etcd-server docker-registry:docker-registry conntrack:conntrack openssl:openssl

.PHONY: help deps uml-deps cni-deps engine-deps root build release image docker-plugin demo lab lab-down test kubernetes-trial \
        bench profile sim-large sim-crowd bench-uml bench-switching bench-names bench-cni bench-allocation bench-limits fuzz lint

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

# $(1): programs and their packages, $(2): what is skipped without. Only programs are wanted: no service of theirs shall start.
define install_optional
	@missing=""; \
	for tool in $(1); do command -v "$${tool%%:*}" >/dev/null || missing+=" $${tool##*:}"; done; \
	if [ -z "$$missing" ]; then exit 0; fi; \
	if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
		echo "weft: installing$$missing"; \
		apt-get update -qq || true; \
		if [ ! -e /usr/sbin/policy-rc.d ]; then \
			printf '#!/bin/sh\nexit 101\n' >/usr/sbin/policy-rc.d; chmod 755 /usr/sbin/policy-rc.d; \
			trap 'rm -f /usr/sbin/policy-rc.d' EXIT; \
		fi; \
		for package in $$missing; do \
			DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $$package >/dev/null \
				|| echo "weft: $$package cannot be installed here" >&2; \
		done; \
	fi; \
	for tool in $(1); do \
		command -v "$${tool%%:*}" >/dev/null || echo "weft: no $${tool##*:}: $(2) ARE SKIPPED" >&2; \
	done
endef

uml-deps: deps ## Install what is missing to test in a User-Mode-Linux kernel
	$(call install_optional,$(UML_TOOLS),TESTS IN A USER-MODE-LINUX KERNEL)

cni-deps: deps ## Install what is missing to test with real container runtimes that speak CNI
	$(call install_optional,$(CNI_TOOLS),TESTS WITH PODMAN AND CONTAINERD)

engine-deps: deps ## Install what is missing to test with Docker engines
	$(call install_optional,$(ENGINE_TOOLS),TESTS WITH DOCKER ENGINES)

root:
	@if [ "$$(id -u)" != 0 ]; then echo "weft: network namespaces are made here: run this as root" >&2; exit 1; fi

build: deps ## Build the weft program and the lab
	cargo build -p weft-cmd -p weft-integration --bins

release: deps ## Build the weft program and the lab, optimised
	cargo build --release -p weft-cmd -p weft-integration --bins

# What is in the image besides weft: nft for `weft expose`, iptables beside Docker, and busybox to look around with.
IMAGE_PROGRAMS = $(CARGO_TARGET_DIR)/release/weft nft iptables ip6tables busybox

image: release engine-deps ## Make the image `weft` with the Docker engine of this machine
	docker/rootfs.sh target/image $(IMAGE_PROGRAMS)
	docker build -f docker/Dockerfile -t weft target/image

docker-plugin: release engine-deps ## Make Docker's managed plugin `weft` in the engine of this machine, not yet enabled
	docker/rootfs.sh target/plugin/rootfs $(IMAGE_PROGRAMS)
	cp docker/plugin/config.json target/plugin/
	docker plugin create weft target/plugin

demo: root release ## Show Weft working: three hosts, containers, encryption, a cut and its healing
	@"$$CARGO_TARGET_DIR/release/demo"

lab: root release ## Leave the demo's three hosts up to play with
	@"$$CARGO_TARGET_DIR/release/demo" lab up

lab-down: root release ## Remove what `make lab` made
	@"$$CARGO_TARGET_DIR/release/demo" lab down

test: export WEFT_TEST_BINARIES = $(CARGO_TARGET_DIR)/test-binaries.json
test: root uml-deps cni-deps engine-deps ## Run all tests: unit, property, simulator, lab
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

sim-large: deps ## Simulate WEFT_RUNS (10000) meshes where all kinds of things break, then one of SIM_HOSTS (1000) hosts
	WEFT_RUNS=$${WEFT_RUNS:-10000} nice cargo test --release -p weft --features sim --test simulation -- --exact --nocapture faults::whatever_breaks_no_frame_comes_twice_and_none_is_long_in_coming_while_a_path_exists
	WEFT_SCALE=$${SIM_HOSTS:-1000} cargo test --release -p weft --features sim --test simulation -- --exact --nocapture scale::a_large_mesh_is_soon_whole_by_few_connections

sim-crowd: deps ## Simulate SIM_HOSTS (100) hosts among SIM_CROWD (4900) others only told of, SIM_NEWS (2) changes/s: idle traffic
	WEFT_SCALE=$${SIM_HOSTS:-100} WEFT_CROWD=$${SIM_CROWD:-4900} WEFT_NEWS=$${SIM_NEWS:-2} cargo test --release -p weft --features sim --test simulation -- --exact --nocapture scale::hosts_in_a_crowd_send_little_when_idle

kubernetes-trial: root cni-deps engine-deps release ## Try docs/kubernetes.md on a cluster of the programs in KUBERNETES (integration/kubernetes/README.md)
	$(call install_optional,$(CLUSTER_TOOLS),PARTS OF THE CLUSTER)
	integration/kubernetes/trial.sh "$(KUBERNETES)"

bench: root release ## Measure Weft beside raw veth and kernel VXLAN (BENCH_SECONDS, BENCH_ROUNDS, BENCH_UNDERLAY, BENCH_ONLY, BENCH_LOADS, BENCH_OUT)
	cargo bench -p weft-integration --bench throughput

profile: root release ## Record where routers spend their time while TCP crosses the sleeve: target/profile (BENCH_SECONDS, BENCH_ONLY, BENCH_UNDERLAY)
	@command -v perf >/dev/null || DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends linux-perf >/dev/null
	@command -v inferno-flamegraph >/dev/null || cargo install --quiet --locked inferno
	integration/profile.sh "$$CARGO_TARGET_DIR/profile"

bench-uml: export BENCH_UML = 1
bench-uml: root uml-deps release ## Measure ESP and Open vSwitch beside the same made by hand, in a User-Mode-Linux kernel (as bench)
	cargo bench -p weft-integration --bench throughput

bench-switching: root release ## Measure how long nothing is heard when the kernel's path fails (BENCH_TRIALS, BENCH_OUT)
	cargo bench -p weft-integration --bench switching

bench-names: root release ## Measure queries for names beside dnsmasq (BENCH_SECONDS, BENCH_ROUNDS)
	@command -v dnsmasq >/dev/null || DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends dnsmasq-base >/dev/null
	cargo bench -p weft-integration --bench names

bench-cni: root cni-deps release ## Measure CNI's ADD and DEL beside the reference plugins, with hundreds of containers (BENCH_PODS, BENCH_OUT)
	cargo bench -p weft-integration --bench cni

bench-allocation: root release ## Measure how long it takes to be given an address (BENCH_TRIALS)
	cargo bench -p weft-integration --bench allocation

bench-limits: root deps ## Measure what each stage of the sleeve's path reaches alone: sealing, UDP, the TAP (BENCH_SECONDS)
	cargo bench -p weft-integration --bench limits

fuzz: deps ## Run each fuzz target of the parsers for FUZZ_SECONDS (10)
	BOLERO_RANDOM_TEST_TIME_MS=$$(( $${FUZZ_SECONDS:-10} * 1000 )) BOLERO_RANDOM_ITERATIONS=4294967295 \
		cargo test --workspace --all-features --exclude weft-integration --release --lib

lint: deps ## Check format, lints and documentation
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --all-features -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps --all-features --quiet
