"""Masked batches of 4096 x 128 tokens: this program's loader and the ones people use, on the same tokens, taking turns.

    make bench-loader [SHARDS=DIR]

Every system shuffles, masks 30 % of the tokens 80/10/10 and hands over whole batches; two workers each, as their users set
them. Runs alternate between systems; a figure is the median of its runs, in millions of tokens a second.
"""

import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
PYTHON = ROOT / ".python/bench/bin/python"
PEER = ROOT / "tests/bench/peers/masked_batches.py"
TRAIN = ROOT / "target/release/train"
PEERS = {
    "plain memory map + vectorised numpy masking, one process": "memmap-numpy-0",
    "plain memory map + HF collator": "memmap-hf-2",
    "HF datasets (Arrow) + HF collator": "arrow-hf-2",
    "mosaicml-streaming + HF collator": "mds-hf-2",
}


def ours(workers, shards):
    return [TRAIN, "bench", "--data-only", "--shards", shards, "--workers", str(workers), "--seq", "128", "--batch", "4096", "--json"]


def output(command):
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, env=dict(os.environ, TOKENIZERS_PARALLELISM="false"))
    if done.returncode != 0:
        sys.exit(f"{command} failed ({done.returncode}):\n{done.stdout[-1000:]}{done.stderr[-2000:]}")
    return json.loads(done.stdout[done.stdout.index("{"):])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shards", type=pathlib.Path, help="a shard folder of u16 tokens")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--json", type=pathlib.Path, help="write every run as a JSON line")
    arguments = parser.parse_args()

    scratch = ROOT / "target/bench-loader"
    scratch.mkdir(parents=True, exist_ok=True)
    subprocess.run([PYTHON, PEER, "prepare", arguments.shards, scratch], check=True)
    systems = {f"tessera, {w} worker{'s' * (w > 1)}": ours(w, arguments.shards) for w in (1, 2)}
    systems |= {name: [PYTHON, PEER, key, scratch] for name, key in PEERS.items()}
    speeds = {}
    for index in range(arguments.runs):
        for name, command in systems.items():
            row = {"system": name, "run": index, "tokens_per_s": output(command)["tokens_per_s"]}
            print(json.dumps(row), flush=True)
            if arguments.json:
                with open(arguments.json, "a") as lines:
                    lines.write(json.dumps(row) + "\n")
            speeds.setdefault(name, []).append(row["tokens_per_s"] / 1e6)

    copied = output([PYTHON, PEER, "copy", scratch])["gb_per_s"]
    best = statistics.median(speeds[next(iter(systems))])
    print(f"\nmemory copy on this machine: {copied:.1f} GB/s read plus write\n")
    print("| masked batches of 4096 x 128 | M tokens/s, median | range | tessera, 1 worker, is faster |\n| --- | ---: | ---: | ---: |")
    for name, values in speeds.items():
        median = statistics.median(values)
        print(f"| {name} | {median:.2f} | {min(values):.2f} - {max(values):.2f} | {best / median:.0f} x |")


if __name__ == "__main__":
    main()
