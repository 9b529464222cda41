"""Training steps on this machine's GPU: this program over sizes and lengths, and what people use, in one run.

    make bench-gpu                        (PYTHON=... names an interpreter with torch and transformers for CUDA)
    python tests/bench/gpu.py --train target/release/train [--out results.jsonl] [--peers bert:eager,...] [--no-peers]

Global batch 4096, bf16, everything included for this program (loader, masking, optimizer); the peers get batches that lie
on the GPU already. Prints a Markdown table; --out keeps every result with its kernels as JSON lines.
"""

import argparse
import json
import pathlib
import subprocess
import sys

HERE = pathlib.Path(__file__).resolve().parent
CASES = [
    ("mosaic-bert-base, 128 full", ["--preset", "mosaic-bert-base", "--seq", "128"]),
    ("mosaic-bert-base, 32 to 128", ["--preset", "mosaic-bert-base", "--seq", "128", "--lengths", "ragged"]),
    ("mosaic-bert-base, 512 full", ["--preset", "mosaic-bert-base", "--seq", "512", "--steps", "2"]),
    ("mosaic-bert-large, 128 full", ["--preset", "mosaic-bert-large", "--seq", "128", "--steps", "3"]),
    ("mosaic-bert-large, 32 to 128", ["--preset", "mosaic-bert-large", "--seq", "128", "--lengths", "ragged", "--steps", "3"]),
    ("mosaic-bert-large, 512 full", ["--preset", "mosaic-bert-large", "--seq", "512", "--steps", "1", "--warm-up", "1"]),
    ("bert-base, 128 full", ["--preset", "bert-base", "--seq", "128", "--steps", "3"]),
    ("mosaic-bert-base, 128 full, plain libtorch",
     ["--preset", "mosaic-bert-base", "--seq", "128", "--path", "reference", "--steps", "2", "--warm-up", "1"]),
]
MICRO_BATCH_TOKENS = {"mosaic-bert-base": "131072", "mosaic-bert-large": "65536", "bert-base": "131072"}
PEERS = [("mosaicbert", "eager"), ("mosaicbert", "compile"), ("bert", "eager"), ("bert", "compile"),
         ("modernbert", "eager"), ("modernbert", "compile")]
PEER_NAMES = {"mosaicbert": "MosaicBERT in plain PyTorch (SDPA + bias)", "bert": "HF BERT (SDPA)",
              "modernbert": "HF ModernBERT (SDPA)"}


def run(command):
    """The command's JSON, or None after saying what went wrong."""
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        print(f"{' '.join(map(str, command))} failed: {last}", file=sys.stderr)
        return None
    return json.loads(done.stdout.strip().splitlines()[-1])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train", type=pathlib.Path, default=HERE.parents[1] / "target/release/train")
    parser.add_argument("--out", type=pathlib.Path)
    parser.add_argument("--peers", default=",".join(map(":".join, PEERS)), metavar="SYSTEM:MODE,...")
    parser.add_argument("--no-peers", action="store_true")
    arguments = parser.parse_args()
    results = []
    print("| training step, global batch 4096, one GPU | samples/s | real tokens/s | peak GiB |")
    print("| --- | ---: | ---: | ---: |", flush=True)

    def row(name, result):
        if result:
            results.append({"case": name, **result})
            if arguments.out:
                arguments.out.write_text("".join(json.dumps(result) + "\n" for result in results))
            print(f"| {name} | {result['samples_per_s']:,.0f} | {result['real_tokens_per_s'] / 1e6:.3f} M "
                  f"| {result['peak_memory_gib']:.1f} |", flush=True)

    for name, options in CASES:
        micro_batch = ["--micro-batch-tokens", MICRO_BATCH_TOKENS[options[1]]]
        row(name, run([arguments.train.resolve(), "bench", "--device", "cuda", "--json", *options, *micro_batch]))
    # Once more the first case, with the smaller micro-batch.
    row("mosaic-bert-base, 128 full, micro-batches of 65,536 tokens",
        run([arguments.train.resolve(), "bench", "--device", "cuda", "--json", *CASES[0][1], "--micro-batch-tokens", "65536"]))
    if not arguments.no_peers:
        for system, mode in (peer.split(":") for peer in arguments.peers.split(",")):
            row(f"{PEER_NAMES[system]}, 128 full, {mode}", run([sys.executable, HERE / "peers/training_step.py", system, mode]))


if __name__ == "__main__":
    main()
