#!/bin/sh
# The whole way, small: text -> shards -> a trained MosaicBERT -> report. Called by `make demo`; may be interrupted and
# started again at any point, finished parts are not done twice.
#
#   tests/demo/demo.sh [C4 FILE...]     without files: the documentation of the crates in Cargo.lock
set -eu
cd "$(dirname "$0")/../.."

bin=${CARGO_TARGET_DIR:-target}/release
# On a busy machine, threads that spin while they wait take the processors from those that work.
export OMP_WAIT_POLICY=${OMP_WAIT_POLICY:-passive}
say() { printf '\n== %s\n' "$*"; }

free_mb=$(df -Pm . | awk 'NR == 2 { print $4 }')
[ "$free_mb" -ge 1000 ] || { echo "demo: this folder has $free_mb MB free, 1000 MB are needed; free some space" >&2; exit 1; }

mkdir -p demo
if [ $# -eq 0 ]; then
    work=demo/crate-docs
    if [ ! -e $work/corpus.done ]; then
        say "corpus: the documentation of the crates in Cargo.lock"
        rm -rf $work
        mkdir -p $work
        ${CARGO:-cargo} fetch --locked --quiet
        CARGO=${CARGO:-cargo} $bin/examples/crate_docs $work/corpus
        touch $work/corpus.done
    fi
    set -- $work/corpus
else
    # Another list of files is another corpus: a folder of its own, named after the list.
    work=demo/c4-$(printf '%s\n' "$@" | cksum | cut -d' ' -f1)
    mkdir -p $work
fi

say "ingest: text -> packed shards in $work/shards"
$bin/ingest c4 "$@" --out $work/shards --held-out 0.02 --json $work/ingest.json

say "train: the tiny preset on the CPU, about two minutes"
if [ -e $work/tiny/config.toml ]; then
    $bin/train --resume $work/tiny
else
    $bin/train --shards $work/shards --out $work/tiny --preset tiny --device cpu
fi

say "evaluate: documents held out from training"
$bin/train eval --from $work/tiny --shards $work/shards --json >$work/eval.json

$bin/train report $work/tiny --out demo/report.html
python3 tests/demo/summary.py $work demo/report.html

# Sentences of the kind that the corpus is made of, and within reach of two minutes of training.
if [ "$work" = demo/crate-docs ]; then
    set -- "Returns [MASK] number of elements in the slice." \
        "The source is at https:/[MASK]github.com." \
        "Files are opened by std[MASK]:fs."
else
    set -- "We would like to thank [MASK] for your help." \
        "He is one of the [MASK] important people in the world." \
        "The house was built in the early 19th [MASK]."
fi
say "fill: the words that the model finds likeliest for [MASK]"
$bin/train fill "$@" --from $work/tiny --top 3
