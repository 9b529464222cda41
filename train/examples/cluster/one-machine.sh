#!/bin/bash
# Trains on all GPUs of this machine, or on GPUS of them; the arguments are train's. A run that is there already is continued.
#
#   ./one-machine.sh --shards DIR --out RUN --preset mosaic-bert-base
#
# Needs `train` and torchrun (of torch's Python package) in PATH.
set -euo pipefail

gpus=${GPUS:-$(nvidia-smi --list-gpus | wc -l)}

# What follows --out, if anything does.
run=
for ((i = 1; i < $#; i++)); do
    if [ "${!i}" = --out ]; then j=$((i + 1)); run=${!j}; fi
done
if [ -n "$run" ] && [ -e "$run/config.toml" ]; then set -- --resume "$run"; fi

exec torchrun --standalone --nproc-per-node "$gpus" --no-python train "$@"
