#!/bin/sh
# Runs every fuzz target for so many seconds (600 if not given), one after the other; stops at the first finding.
#
#   tests/fuzz/run.sh [SECONDS [TARGET...]]
#
# Wants the nightly compiler and cargo-fuzz (`cargo install cargo-fuzz`). What is printed goes to tests/fuzz/logs.
set -eu
cd "$(dirname "$0")"
seconds=${1:-600}
[ $# -gt 0 ] && shift
[ $# -gt 0 ] || set -- $(sed -n 's/^path = "fuzz_targets\/\(.*\)\.rs"$/\1/p' Cargo.toml)
mkdir -p logs
for target in "$@"; do
    echo "$target: $seconds s ..."
    mkdir -p "corpus/$target"
    # Something longer than a byte to begin with; left to itself the fuzzer tries short inputs for minutes.
    head -c 4096 "fuzz_targets/$target.rs" >"corpus/$target/seed"
    # A zstd frame may ask for a window of 2 GiB; that much may be asked for at once.
    cargo +nightly fuzz run "$target" --fuzz-dir . -- -max_total_time="$seconds" -timeout=60 -rss_limit_mb=5000 \
        -len_control=0 -max_len=4096 \
        -malloc_limit_mb=4000 -print_final_stats=1 >"logs/$target.log" 2>&1 ||
        { tail -n 40 "logs/$target.log"; echo "$target: a finding, see tests/fuzz/logs/$target.log"; exit 1; }
    tail -n 12 "logs/$target.log"
done
