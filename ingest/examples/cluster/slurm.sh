#!/bin/bash
# Ingests a corpus as a Slurm array. Inputs and shards lie on a file system that all nodes share; `ingest` is in PATH.
#
#   sbatch slurm.sh /data/c4/en /data/shards
#   sbatch --dependency=afterok:JOB --wrap "ingest merge /data/shards"
#
# A task that is requeued or repeated continues where it was. To repeat some tasks only, such as 3 and 7:
#
#   sbatch --array=3,7 slurm.sh /data/c4/en /data/shards
#
#SBATCH --job-name=ingest
#SBATCH --array=0-127
#SBATCH --ntasks=1
#SBATCH --cpus-per-task=2
#SBATCH --mem=2G
#SBATCH --time=01:00:00
#SBATCH --requeue
#SBATCH --output=ingest-%A-%a.log

set -euo pipefail

# As many as the array above has. It stands here because Slurm does not tell a repeated task how many there were at first.
TASKS=${TASKS:-128}

exec ingest c4 "$1" --out "$2" --task "$SLURM_ARRAY_TASK_ID/$TASKS" --workers "$SLURM_CPUS_PER_TASK"
