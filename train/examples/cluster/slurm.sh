#!/bin/bash
# Trains on 64 GPUs as a Slurm job; the arguments are train's. Shards and run lie on a file system that all nodes share;
# `train` is in PATH. A run that is there already is continued, so a job that is requeued goes on.
#
#   sbatch slurm.sh --shards /data/shards --out /data/runs/base --preset mosaic-bert-base
#
#SBATCH --job-name=train
#SBATCH --nodes=8
#SBATCH --ntasks-per-node=8
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=8
#SBATCH --time=08:00:00
#SBATCH --requeue
#SBATCH --signal=TERM@120
#SBATCH --output=train-%j.log

set -euo pipefail

# What follows --out, if anything does.
run=
for ((i = 1; i < $#; i++)); do
    if [ "${!i}" = --out ]; then j=$((i + 1)); run=${!j}; fi
done
if [ -n "$run" ] && [ -e "$run/config.toml" ]; then set -- --resume "$run"; fi

# srun sets SLURM_PROCID, SLURM_NTASKS, SLURM_LOCALID and the list of hosts. Two minutes before its time is up a job is sent
# SIGTERM: the step is finished and saved.
exec srun --kill-on-bad-exit=1 train "$@"
