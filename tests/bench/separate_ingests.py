"""A process of this program for each worker, each on a processor of its own with its share of the files: what several
workers come to when they have nothing in common but the machine."""

import os
import subprocess
import sys

ingest, workers, out, files = sys.argv[1], int(sys.argv[2]), sys.argv[3], sys.argv[4:]
cpus = sorted(os.sched_getaffinity(0))
processes = []
for index in range(min(workers, len(files))):
    command = [ingest, "c4", *files[index::workers], "--out", f"{out}/shards-{index}", "--workers", "1"]
    cpu = cpus[index % len(cpus)]
    processes.append(subprocess.Popen(command, preexec_fn=lambda cpu=cpu: os.sched_setaffinity(0, [cpu])))
sys.exit(any([process.wait() for process in processes]))
