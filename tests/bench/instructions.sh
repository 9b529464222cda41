#!/bin/sh
# Instructions that each part of ingest takes for a byte of text: the same on a busy machine as on a quiet one.
# Wants valgrind; the program is the one that `cargo bench -p ingest --bench parts` builds.
set -eu
cd "$(dirname "$0")/../.."
command -v valgrind >/dev/null 2>&1 || { echo "bench: valgrind is missing (Debian: apt install valgrind)" >&2; exit 1; }
program=$(${CARGO:-cargo} bench --locked -p ingest --bench parts --no-run --message-format=json 2>/dev/null |
    sed -n 's/.*"executable":"\([^"]*parts-[^"]*\)".*/\1/p')
echo "| part | instructions a byte of text |"
echo "| --- | ---: |"
for part in unpack parse encode write; do
    said=$(PART=$part valgrind --tool=callgrind --callgrind-out-file=/dev/null --collect-atstart=no \
        --toggle-collect='*counted_part*' "$program" 2>&1)
    bytes=$(echo "$said" | sed -n "s/^$part: \([0-9]*\) bytes.*/\1/p")
    count=$(echo "$said" | sed -n 's/.*Collected : \([0-9]*\).*/\1/p')
    awk -v p=$part -v b="$bytes" -v c="$count" 'BEGIN { printf "| %s | %.1f |\n", p, c / b }'
done
