"""From .json.gz to token shards: this program and the pipelines people use, on the same files, taking turns.

    make bench-ingest [C4="FILE..."]

Every system writes bert-base-uncased WordPiece ids. Runs alternate between systems, so that a machine that slows down
slows all of them; a figure is the median of its runs, and a ratio is of medians and, in brackets, of the time that all
runs took. MB are of UTF-8 text. Whole processes are timed, start-up included. Systems that go through Hugging Face's
tokenizers are forty times slower; --slow-files gives them the first files only, and the table says how much they read.
Separate processes share nothing: what they gain is what the machine's processors allow. With --json the runs are kept,
and --table FILE prints the table of all that are in it.
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


def separate(files, workers, out):
    return [sys.executable, "-IS", ROOT / "tests/bench/separate_ingests.py", INGEST, str(workers), out, *files]


SYSTEMS = {
    "tessera ingest": ours("auto"),
    "gzip + orjson + nanotoken (25 lines of Python)": peer("nanotoken_pipeline"),
    "tessera ingest, a process for each worker": separate,
    "tessera ingest --encoder tokenizers": ours("tokenizers"),
    "datatrove DocumentTokenizer": peer("datatrove_pipeline"),
    "mosaicml-streaming MDSWriter": peer("mosaicml_streaming_pipeline"),
    "HF datasets + tokenizers (run_mlm)": peer("hf_datasets_pipeline"),
}
# All but these go through Hugging Face's tokenizers.
FAST = ["tessera ingest", "gzip + orjson + nanotoken (25 lines of Python)", "tessera ingest, a process for each worker"]


def text_bytes(files):
    total = 0
    for path in files:
        with gzip.open(path, "rt", encoding="utf-8") as lines:
            total += sum(len(json.loads(line)["text"].encode()) for line in lines)
    return total


def processors(count):
    """So many of the processors this process may use, no two on one core where there are cores enough: threads of one core
    share what it can do."""
    cores, first, siblings = set(), [], []
    for cpu in sorted(os.sched_getaffinity(0)):
        topology = pathlib.Path(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list")
        core = topology.read_text() if topology.exists() else cpu
        (siblings if core in cores else first).append(cpu)
        cores.add(core)
    return (first + siblings)[:count]


def run(command, workers, log):
    """Seconds of wall time and peak memory (MiB of the largest process), pinned to as many processors as workers."""
    environment = dict(os.environ, TOKENIZERS_PARALLELISM="false", RAYON_NUM_THREADS="1", HF_HUB_OFFLINE="1",
                       HF_DATASETS_OFFLINE="1", CUDA_VISIBLE_DEVICES="", PYTHONWARNINGS="ignore")
    cpus = processors(workers)
    started = time.perf_counter()
    process = subprocess.Popen([str(word) for word in command], stdout=log, stderr=log, env=environment,
                               preexec_fn=lambda: os.sched_setaffinity(0, cpus))
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    return time.perf_counter() - started, usage.ru_maxrss / 1024, process.returncode


def table(rows):
    """All runs, as Markdown; the last column is of one worker, or of the fewest there are."""
    names = [name for name in SYSTEMS if any(row["system"] == name for row in rows)]
    workers = sorted({row["workers"] for row in rows})

    def median(name, count, key):
        found = [row[key] for row in rows if row["system"] == name and row["workers"] == count]
        return statistics.median(found) if found else None

    def rate(name, count):
        found = [row for row in rows if row["system"] == name and row["workers"] == count]
        return sum(row["megabytes"] for row in found) / sum(row["seconds"] for row in found) if found else None

    def cell(value, digits=1):
        return "-" if value is None else f"{value:.{digits}f}"

    def ratio(over, under, digits):
        """How much faster `over` is than `under`, each a system with a number of workers."""
        pairs = [(median(*over, "mb_per_s"), median(*under, "mb_per_s")), (rate(*over), rate(*under))]
        if None in pairs[0]:
            return "-"
        of_medians, of_times = (above / below for above, below in pairs)
        return f"{of_medians:.{digits}f} x ({of_times:.{digits}f} x)"

    ours = names[0]
    heads = ["system", "text read, MB", *[f"{w} worker{'s' * (w > 1)}, MB/s" for w in workers]]
    heads += [f"{w} workers gain" for w in workers[1:]] + ["peak MiB (largest process)", f"{ours} is faster"]
    print(f"\n| {' | '.join(heads)} |\n| --- |{' ---: |' * (len(heads) - 1)}")
    for name in names:
        speeds = [median(name, w, "mb_per_s") for w in workers]
        gains = [ratio((name, count), (name, workers[0]), 2) for count in workers[1:]]
        cells = [cell(median(name, workers[0], "megabytes")), *map(cell, speeds), *gains]
        cells += [cell(median(name, workers[0], "peak_mib"), 0), ratio((ours, workers[0]), (name, workers[0]), 1)]
        print(f"| {name} | {' | '.join(cells)} |")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="*", type=pathlib.Path, help=".json.gz files or folders of them")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--only", nargs="+", default=[""], help="systems with one of these names, or whose name contains one")
    parser.add_argument("--slow-files", type=int, help="files that the slow systems get")
    parser.add_argument("--json", type=pathlib.Path, help="add every run as a JSON line")
    parser.add_argument("--table", type=pathlib.Path, help="run nothing, print the table of the runs in this file")
    arguments = parser.parse_args()
    if arguments.table:
        return table([json.loads(line) for line in arguments.table.read_text().splitlines()])

    files = sorted(f for path in arguments.files for f in (path.glob("*.json.gz") if path.is_dir() else [path]))
    files = [f.resolve() for f in files] or sys.exit("name .json.gz files, or a folder that has some")
    few = files[:arguments.slow_files]
    megabytes = {tuple(part): text_bytes(part) / 1e6 for part in (files, few)}
    print(f"{len(files)} files, {megabytes[tuple(files)]:.1f} MB of text, median of {arguments.runs} runs")

    def wanted(name):
        return any(name == part if part in SYSTEMS else part in name for part in arguments.only)

    systems = {name: make for name, make in SYSTEMS.items() if wanted(name)}
    rows = []
    for index in range(arguments.runs):
        for name, make in systems.items():
            part = files if name in FAST else few
            size = megabytes[tuple(part)]
            for workers in arguments.workers:
                out = pathlib.Path(tempfile.mkdtemp(prefix="bench-", dir=ROOT / "target"))
                with open(out / "printed.txt", "wb") as log:
                    seconds, peak, code = run(make(part, workers, out), workers, log)
                if code != 0:
                    printed = (out / "printed.txt").read_text(errors="replace")[-2000:]
                    sys.exit(f"{name} failed ({code}):\n{printed}")
                shutil.rmtree(out)
                rows.append({"system": name, "workers": workers, "run": index, "megabytes": size, "seconds": seconds,
                             "mb_per_s": size / seconds, "peak_mib": peak})
                print(json.dumps(rows[-1]), flush=True)
                if arguments.json:
                    with open(arguments.json, "a") as lines:
                        lines.write(json.dumps(rows[-1]) + "\n")
    table(rows)


if __name__ == "__main__":
    main()
