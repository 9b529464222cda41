"""Masked batches: this program's loader and the libraries people use, from the same tokens, taking turns.

    make bench-loader [C4="FILE..."]

Sequence length 128, global batch 4096, 30 % masked, 80/10/10. The peers read rows of 128 tokens, packed beforehand; this
program cuts documents into samples as it goes, puts [CLS] and [SEP] around them and leaves padding out. A figure is the
median of the runs. Also measured: masking alone (criterion), the wait of a consumer that takes 1 M tokens a second, and
what a memory copy of this machine moves. --json keeps every run, and --table FILE prints the table of all that are in it.
"""

import argparse
import json
import os
import pathlib
import platform
import statistics
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
PYTHON = ROOT / ".python/bench/bin/python"
PEERS = ROOT / "tests/bench/peers/masked_batches.py"
TOKENIZER = ROOT / "ingest/assets/bert-base-uncased/tokenizer.json"
BATCH = 4096
# Bytes of a token: two read, four written, and for each masked one a position and a label of four.
TOKEN_BYTES = 2 + 4 + 0.3 * 8

OURS = "tessera"
FIRST = "mosaicml-streaming-hf"
NAMES = {
    OURS: "this program",
    FIRST: "mosaicml-streaming, HF collator",
    "hf-datasets-hf": "HF datasets, HF collator",
    "litdata-hf": "litdata, HF collator",
    "mosaicml-streaming-numpy": "mosaicml-streaming, masks in numpy",
    "litdata-numpy": "litdata, masks in numpy",
    "memory-map-numpy": "a memory map, masks in numpy",
}


def call(command, **options):
    environment = dict(os.environ, CUDA_VISIBLE_DEVICES="", HF_HUB_OFFLINE="1", HF_DATASETS_OFFLINE="1")
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, env=environment, **options)
    if done.returncode != 0:
        sys.exit(f"{' '.join(map(str, command))} failed ({done.returncode}):\n{(done.stdout + done.stderr)[-3000:]}")
    return done.stdout


def ours(shards, workers, steps, demand=None):
    command = [ROOT / "target/release/train", "bench", "--data-only", "--shards", shards, "--json", "--preset",
               "mosaic-bert-base", "--workers", workers, "--steps", steps]
    return json.loads(call(command + (["--demand", demand] if demand else [])))


def rows_of(shards, path):
    """All tokens of a shard folder, in rows of 128, as loader/FORMAT.md draws them."""
    import numpy as np

    manifest = json.loads((shards / "manifest.json").read_text())
    tokens = [np.fromfile(shards / shard["file"], f"<u{manifest['token_bytes']}", shard["tokens"], offset=128)
              for shard in manifest["shards"]]
    tokens = np.concatenate(tokens).astype(np.uint16)
    tokens[:len(tokens) // 128 * 128].tofile(path)
    return manifest


def copy_bandwidth():
    """GB/s, read plus write, of one thread that copies half a gigabyte."""
    import numpy as np

    source = np.ones(64 << 20, np.int64)
    target = np.empty_like(source)
    np.copyto(target, source)
    start = time.perf_counter()
    for _ in range(5):
        np.copyto(target, source)
    return 5 * 2 * source.nbytes / (time.perf_counter() - start) / 1e9


def masking():
    """M tokens/s of one core, by the instructions that it has, from the last `cargo bench --bench mask`."""
    found = {}
    for path in sorted((ROOT / "target/criterion").glob("mask_30%_126/*/new/estimates.json")):
        tokens = json.loads((path.parent / "benchmark.json").read_text())["throughput"]["Elements"]
        nanoseconds = json.loads(path.read_text())["median"]["point_estimate"]
        found[path.parent.parent.name] = tokens / nanoseconds * 1e3
    return found


def processor_seconds():
    """What the processors have worked for all programs, for those that this one has started, and what the host took away."""
    own = os.times()
    own = own.user + own.system + own.children_user + own.children_system
    try:
        ticks = [int(word) for word in pathlib.Path("/proc/stat").read_text().split("\n")[0].split()[1:]]
    except OSError:
        return own, own, 0.0
    user, nice, system, _idle, _waiting, hard, soft, stolen = ticks[:8]
    second = os.sysconf("SC_CLK_TCK")
    return (user + nice + system + hard + soft) / second, own, stolen / second


def alone(measured):
    """What `measured` gives, with how many processors other programs used meanwhile, and how many the host took away."""
    start, before = time.perf_counter(), processor_seconds()
    row = measured()
    seconds = time.perf_counter() - start
    everyone, own, stolen = (after - before for after, before in zip(processor_seconds(), before))
    return {**row, "others_cores": round(max(everyone - own, 0) / seconds, 3), "stolen_cores": round(stolen / seconds, 3)}


def machine():
    lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines() if pathlib.Path("/proc/cpuinfo").exists() else []
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return {"processor": (names or [platform.processor()])[0], "cores": len(os.sched_getaffinity(0)),
            "system": platform.platform()}


def table(rows):
    """Markdown of the medians."""
    rates = {}
    for row in rows:
        if row["what"] == "loading":
            rates.setdefault(row["system"], {}).setdefault(row["workers"], []).append(row["tokens_per_s"] / 1e6)
    workers = sorted({count for system in rates.values() for count in system})
    best = {system: {count: statistics.median(found) for count, found in by_count.items()}
            for system, by_count in rates.items()}
    heads = ["M tokens/s", *[f"{count} worker{'s' * (count > 1)}" for count in workers], "this program is faster"]
    print(f"\n| {' | '.join(heads)} |\n| --- |{' ---: |' * (len(heads) - 1)}")
    for system, name in NAMES.items():
        if system in best:
            rate = [f"{best[system][count]:.2f}" if count in best[system] else "-" for count in workers]
            faster = [best[OURS][count] / best[system][count] for count in workers
                      if count in best[system] and count in best.get(OURS, {})]
            ratio = f"{min(faster):.0f} to {max(faster):.0f} x" if faster and system != OURS else ""
            print(f"| {name} | {' | '.join(rate)} | {ratio} |")
    print()
    loads = [row["others_cores"] + row["stolen_cores"] for row in rows if "others_cores" in row]
    if loads:
        print(f"other programs and the host took {statistics.median(loads):.2f} processors meanwhile, at most {max(loads):.2f}")
    bandwidth = [row["gb_per_s"] for row in rows if row["what"] == "copy"]
    for row in rows:
        if row["what"] == "masking":
            kinds = ", ".join(f"{kind} {rate:.0f}" for kind, rate in row["m_tokens_per_s"].items())
            print(f"masking alone, one core, M tokens/s: {kinds}")
        if row["what"] == "waiting":
            print(f"waiting at a demand of 1 M tokens/s, one worker: {100 * row['wait_share']:.4f} % of {row['elapsed_s']:.0f} s")
    if bandwidth and OURS in best:
        copy = statistics.median(bandwidth)
        print(f"a memory copy by one thread moves {copy:.1f} GB/s, read plus write")
        for count, rate in sorted(best[OURS].items()):
            moved = rate * TOKEN_BYTES / 1e3
            print(f"{count} worker{'s' * (count > 1)}: {moved:.2f} GB/s at {TOKEN_BYTES} bytes a token, {100 * moved / copy:.0f} % of it")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="*", type=pathlib.Path, help=".json.gz files or folders of them")
    parser.add_argument("--shards", type=pathlib.Path, help="a finished shard folder, in place of the files")
    parser.add_argument("--scratch", type=pathlib.Path, help="folder for what the peers read; kept for the next time")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=8, help="of each run of a peer")
    parser.add_argument("--steps", type=int, default=2000, help="of each run of this program")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--only", nargs="+", default=[""], help="systems whose name contains one of these, or `none`")
    parser.add_argument("--prepare", action="store_true", help="only write what the peers read")
    parser.add_argument("--json", type=pathlib.Path, help="add every run as a JSON line")
    parser.add_argument("--table", type=pathlib.Path, help="run nothing, print the table of the runs in this file")
    arguments = parser.parse_args()
    if arguments.table:
        return table([json.loads(line) for line in arguments.table.read_text().splitlines()])

    scratch = arguments.scratch or pathlib.Path(tempfile.mkdtemp(prefix="bench-", dir=ROOT / "target"))
    scratch.mkdir(parents=True, exist_ok=True)
    shards = arguments.shards or scratch / "shards"
    if not (shards / "manifest.json").exists():
        files = [f for path in arguments.files for f in (sorted(path.glob("*.json.gz")) if path.is_dir() else [path])]
        files or sys.exit("name .json.gz files, or a folder that has some")
        call([ROOT / "target/release/ingest", "c4", *files, "--out", shards, "--tokenizer", TOKENIZER])
    if not (scratch / "ready").exists():
        rows_of(shards, scratch / "rows.bin")
        call([PYTHON, PEERS, "prepare", scratch / "rows.bin", scratch])
        (scratch / "ready").touch()
    if arguments.prepare:
        return

    rows = []

    def note(row):
        rows.append(row)
        print(json.dumps(row), flush=True)
        if arguments.json:
            with open(arguments.json, "a") as lines:
                lines.write(json.dumps(row) + "\n")

    note({"what": "machine", **machine()})
    for run in range(arguments.runs):
        for system in NAMES:
            if not any(part in system for part in arguments.only):
                continue
            for workers in arguments.workers:
                def measured():
                    if system == OURS:
                        return ours(shards, workers, arguments.steps)
                    said = call([PYTHON, PEERS, system, workers, BATCH, arguments.seconds, scratch, TOKENIZER])
                    return json.loads(said[said.rindex("{"):])
                found = alone(measured)
                note({"what": "loading", "system": system, "workers": workers, "run": run, **found})
        if any(part in OURS for part in arguments.only):
            note({"what": "copy", "run": run, "gb_per_s": copy_bandwidth()})
    if any(part in OURS for part in arguments.only):
        note({"what": "waiting", **alone(lambda: ours(shards, 1, 40, demand=1_000_000))})
        if masks := masking():
            note({"what": "masking", "m_tokens_per_s": masks})
    table(rows)


if __name__ == "__main__":
    main()
