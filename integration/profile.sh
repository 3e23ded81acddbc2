#!/bin/bash
# Records where the two routers of a bench spend their time while one TCP stream crosses the sleeve: `make profile` calls this.
# In DIRECTORY (the first argument) it leaves routers.perf, for `perf report -i`, and routers.svg, a flame graph.
# BENCH_ONLY and BENCH_UNDERLAY say which sleeve (`sleeve`, `sleeve-9000`, …) over which wire, as for the bench.
set -euo pipefail
directory=$1 weft=${WEFT_BIN:-$CARGO_TARGET_DIR/release/weft} seconds=${BENCH_SECONDS:-5}

WEFT_BIN=$weft BENCH_SECONDS=$((seconds + 5)) BENCH_ROUNDS=1 BENCH_ONLY=${BENCH_ONLY:-sleeve} BENCH_LOADS=tcp-1 \
	cargo bench -q -p weft-integration --bench throughput &
bench=$!
trap 'kill $bench 2>/dev/null || true' EXIT

# A router sends from the moment that the load does.
routers=
until [ -n "$routers" ] && pgrep -x iperf3 >/dev/null; do
	kill -0 $bench
	sleep 0.2
	routers=$(pgrep -f "^$weft .*router" | paste -sd,) || true
done
sleep 1
mkdir -p "$directory"
# By the clock, as virtual machines often have no counters; at a fixed distance, so that all samples weigh the same.
perf record -q -g -e cpu-clock -c 500000 -o "$directory/routers.perf" -p "$routers" -- sleep "$seconds"
trap - EXIT
wait $bench

perf report -i "$directory/routers.perf" --no-children -g none --sort comm,symbol 2>/dev/null | grep -v '^#' | grep . | sed -n 1,30p
perf script -i "$directory/routers.perf" 2>/dev/null | inferno-collapse-perf --all | inferno-flamegraph >"$directory/routers.svg"
echo "$directory/routers.svg"
