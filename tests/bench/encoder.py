"""Text in memory to ids, one thread: this program's WordPiece encoder beside nanotoken's, taking turns.

    make bench-encoder C4="FILE..."

Each turn is a new process on the same processor. Its first pass over the documents is cold, the later ones are warm; a
figure is the median over the turns. MB are of UTF-8 text.
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
TOKENIZER = ROOT / "ingest/assets/bert-base-uncased/tokenizer.json"
SYSTEMS = {
    "tessera": [ROOT / "target/release/examples/encoder_speed"],
    "nanotoken": [PYTHON, ROOT / "tests/bench/peers/nanotoken_encoder.py", TOKENIZER],
}


def passes(command):
    environment = dict(os.environ, RAYON_NUM_THREADS="1")
    cpu = {min(os.sched_getaffinity(0))}
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, env=environment,
                          preexec_fn=lambda: os.sched_setaffinity(0, cpu))
    if done.returncode != 0:
        sys.exit(f"{command[0]} failed ({done.returncode}):\n{done.stderr[-2000:]}")
    return [json.loads(line) for line in done.stdout.splitlines()]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", type=pathlib.Path, help=".json.gz files or folders of them")
    parser.add_argument("--turns", type=int, default=5)
    arguments = parser.parse_args()
    files = sorted(f for path in arguments.files for f in (path.glob("*.json.gz") if path.is_dir() else [path]))

    speeds, tokens = {}, set()
    for turn in range(arguments.turns):
        for name, command in SYSTEMS.items():
            rows = passes(command + files)
            for row in rows:
                speeds.setdefault((name, "cold" if row["pass"] == 0 else "warm"), []).append(row["mb_per_s"])
                tokens.add(row["tokens"])
            print(json.dumps({"turn": turn, "system": name, "mb_per_s": [row["mb_per_s"] for row in rows]}), flush=True)
    if len(tokens) != 1:
        sys.exit(f"the encoders disagree on the number of tokens: {sorted(tokens)}")

    medians = {key: statistics.median(values) for key, values in speeds.items()}
    print(f"\n{tokens.pop()} tokens from each, {arguments.turns} turns\n")
    print("| encoder alone, one thread, MB/s | cold | warm |\n| --- | ---: | ---: |")
    for name in SYSTEMS:
        print(f"| {name} | {medians[name, 'cold']:.1f} | {medians[name, 'warm']:.1f} |")
    ratio = [medians["tessera", state] / medians["nanotoken", state] for state in ("cold", "warm")]
    print(f"| tessera is faster | {ratio[0]:.2f} x | {ratio[1]:.2f} x |")


if __name__ == "__main__":
    main()
