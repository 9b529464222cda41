"""From .json.gz to token shards: this program and the pipelines people use, on the same files, taking turns.

    make bench-ingest [C4="FILE..."]

Every system writes bert-base-uncased WordPiece ids. Runs alternate between systems, so that a machine that slows down
slows all of them; a figure is the median of its runs. MB are of UTF-8 text. Whole processes are timed, start-up included.
"""

import argparse
import gzip
import json
import os
import pathlib
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
PEERS = ROOT / "tests/bench/peers"
PYTHON = ROOT / ".python/bench/bin/python"
TOKENIZER = ROOT / "ingest/assets/bert-base-uncased/tokenizer.json"
INGEST = ROOT / "target/release/ingest"


def ours(encoder):
    def command(files, workers, out):
        return [INGEST, "c4", *files, "--out", out / "shards", "--workers", str(workers), "--encoder", encoder]
    return command


def peer(name):
    def command(files, workers, out):
        return [PYTHON, PEERS / f"{name}.py", str(workers), out, TOKENIZER, *files]
    return command


SYSTEMS = {
    "tessera ingest": ours("auto"),
    "tessera ingest --encoder tokenizers": ours("tokenizers"),
    "gzip + orjson + nanotoken (25 lines of Python)": peer("nanotoken_pipeline"),
    "datatrove DocumentTokenizer": peer("datatrove_pipeline"),
    "mosaicml-streaming MDSWriter": peer("mosaicml_streaming_pipeline"),
    "HF datasets + tokenizers (run_mlm)": peer("hf_datasets_pipeline"),
}


def text_bytes(files):
    total = 0
    for path in files:
        with gzip.open(path, "rt", encoding="utf-8") as lines:
            total += sum(len(json.loads(line)["text"].encode()) for line in lines)
    return total


def run(command, workers, log):
    """Seconds of wall time and peak memory (MiB of the largest process), pinned to as many processors as workers."""
    environment = dict(os.environ, TOKENIZERS_PARALLELISM="false", RAYON_NUM_THREADS="1", HF_HUB_OFFLINE="1",
                       HF_DATASETS_OFFLINE="1", CUDA_VISIBLE_DEVICES="", PYTHONWARNINGS="ignore")
    cpus = sorted(os.sched_getaffinity(0))[:workers]
    started = time.perf_counter()
    process = subprocess.Popen([str(word) for word in command], stdout=log, stderr=log, env=environment,
                               preexec_fn=lambda: os.sched_setaffinity(0, cpus))
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    return time.perf_counter() - started, usage.ru_maxrss / 1024, process.returncode


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", type=pathlib.Path, help=".json.gz files or folders of them")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--only", nargs="+", default=[""], help="systems whose name contains one of these")
    parser.add_argument("--json", type=pathlib.Path, help="write every run as a JSON line")
    arguments = parser.parse_args()

    files = sorted(f for path in arguments.files for f in (path.glob("*.json.gz") if path.is_dir() else [path]))
    files = [f.resolve() for f in files]
    megabytes = text_bytes(files) / 1e6
    print(f"{len(files)} files, {megabytes:.1f} MB of text, median of {arguments.runs} runs")

    systems = {name: make for name, make in SYSTEMS.items() if any(part in name for part in arguments.only)}
    speeds, memory = {}, {}
    for index in range(arguments.runs):
        for name, make in systems.items():
            for workers in arguments.workers:
                out = pathlib.Path(tempfile.mkdtemp(prefix="bench-", dir=ROOT / "target"))
                with open(out / "printed.txt", "wb") as log:
                    seconds, peak, code = run(make(files, workers, out), workers, log)
                if code != 0:
                    printed = (out / "printed.txt").read_text(errors="replace")[-2000:]
                    sys.exit(f"{name} failed ({code}):\n{printed}")
                shutil.rmtree(out)
                row = {"system": name, "workers": workers, "run": index, "seconds": seconds, "mb_per_s": megabytes / seconds, "peak_mib": peak}
                print(json.dumps(row), flush=True)
                if arguments.json:
                    with open(arguments.json, "a") as lines:
                        lines.write(json.dumps(row) + "\n")
                speeds.setdefault((name, workers), []).append(row["mb_per_s"])
                memory.setdefault((name, workers), []).append(peak)

    first = arguments.workers[0]
    best = statistics.median(speeds[next(iter(systems)), first])
    heads = [f"{w} worker{'s' * (w > 1)}, MB/s" for w in arguments.workers]
    heads += [f"{w} workers gain" for w in arguments.workers[1:]]
    print(f"\n| {' | '.join(['system', *heads, 'peak MiB (largest process)', f'{next(iter(systems))} is faster, {first} worker'])} |")
    print(f"| --- |{' ---: |' * (len(heads) + 2)}")
    for name in systems:
        medians = [statistics.median(speeds[name, w]) for w in arguments.workers]
        cells = [f"{m:.1f}" for m in medians] + [f"{m / medians[0]:.2f} x" for m in medians[1:]]
        cells += [f"{statistics.median(memory[name, first]):.0f}", f"{best / medians[0]:.1f} x"]
        print(f"| {name} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
