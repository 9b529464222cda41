"""MosaicBERT against BERT with the same time to train: pretraining, GLUE of intermediate checkpoints, the Pareto page.

    make bench-pareto SHARDS="DIR..." GLUE=DIR
    python tests/bench/pareto.py --train target/release/train --shards DIR --data GLUE_DIR --out DIR --scratch DIR

Pretrains `mosaic-bert-base` and `bert-base` on the same shards with the same time budget, fine-tunes some checkpoints of each on
the tasks GLUE_DIR has complete, and draws the page. Each step is skipped when its result is there, and none is begun that does
not fit before --until seconds have passed: give the same command again until it says that everything is done. Small results go
to --out, checkpoints to --scratch.
"""

import argparse
import json
import pathlib
import shutil
import subprocess
import sys
import time

HERE = pathlib.Path(__file__).resolve().parent
TASKS = "cola,sst2,mrpc,stsb,rte"
# Short, and the same for every checkpoint: checkpoints are compared here, not papers.
RECIPE = """base = "quick"
seq_len = 128
[tasks.sst2]
epochs = 1
batch_size = 128
lr = 8e-5
[tasks.cola]
epochs = 3
batch_size = 64
lr = 8e-5
[tasks.mrpc]
epochs = 3
batch_size = 32
lr = 8e-5
[tasks.stsb]
epochs = 3
batch_size = 32
lr = 8e-5
precision = "bf16"
[tasks.rte]
epochs = 3
batch_size = 32
lr = 5e-5
"""


class Clock:
    """What is left of this call."""

    def __init__(self, until):
        self.begun, self.until = time.monotonic(), until

    def left(self):
        return float("inf") if self.until is None else self.until - (time.monotonic() - self.begun)

    def need(self, seconds, what):
        if self.left() < seconds:
            print(f"{what} needs about {seconds:.0f} s and {self.left():.0f} s are left; give the same command again", flush=True)
            sys.exit(3)


def run(command, log, timeout=None):
    """Runs a command, its output also into a file. A timeout asks it to stop and is no failure."""
    command = [str(part) for part in command]
    print("$ " + " ".join(command), flush=True)
    with open(log, "a", encoding="utf-8") as file:
        file.write("$ " + " ".join(command) + "\n")
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        begun = time.monotonic()
        stopped = False
        for line in process.stdout:
            file.write(line)
            file.flush()
            sys.stdout.write(line)
            sys.stdout.flush()
            if timeout and not stopped and time.monotonic() - begun > timeout:
                process.terminate()
                stopped = True
        if process.wait() != 0 and not stopped:
            sys.exit(f"{command[1]} failed with {process.returncode}; its output is in {log}")
        return not stopped


def pretrain(arguments, clock, preset, lr, every):
    """One run, from the beginning or from where it stopped."""
    folder = arguments.scratch / preset
    done = folder / "pretraining-done"
    if done.exists():
        return folder
    log = arguments.out / f"pretrain-{preset}.log"
    if (folder / "config.toml").exists():
        clock.need(60, f"going on with {preset}")
        command = [arguments.train, "--resume", folder]
    else:
        clock.need(min(60 * arguments.minutes + 90, 0.9 * (arguments.until or 1e9)), f"pretraining {preset}")
        command = [arguments.train, "--out", folder, "--preset", preset, "--budget", f"{round(60 * arguments.minutes)}s"]
        for shards in arguments.shards:
            command += ["--shards", shards]
        sets = [f"train.batch_size={arguments.batch_size}", f"optimizer.lr={lr}", "loader.policy=chunk",
                f"checkpoint.every_steps={every}", "checkpoint.keep=0", f"eval.every_steps={every}", "eval.max_samples=4096",
                f"train.micro_batch_tokens={arguments.micro_batch_tokens}", f"train.device={arguments.device}", *arguments.set]
        for value in sets:
            command += ["--set", value]
    # Ends itself when the budget is used up; is asked to stop, and saves, if this call's time is over first.
    timeout = None if arguments.until is None else clock.left() - 20
    if not run(command, log, timeout):
        print("stopped and saved; give the same command again", flush=True)
        sys.exit(3)
    done.write_text("")
    return folder


def checkpoints(folder, count):
    """Evenly spaced ones, the last always among them."""
    found = sorted((folder / "checkpoints").glob("step-*"))
    if len(found) <= count:
        return found
    return [found[round((i + 1) * len(found) / count) - 1] for i in range(count)]


def keep(folder, out):
    """The small files of a run."""
    target = out / folder.name
    target.mkdir(parents=True, exist_ok=True)
    for name in ["config.toml", "provenance.json", "metrics.jsonl"]:
        shutil.copy(folder / name, target / name)
    for results in sorted(folder.glob("glue/*/results.json")):
        copy = target / "glue" / results.parent.name
        copy.mkdir(parents=True, exist_ok=True)
        shutil.copy(results, copy / "results.json")
        shutil.copy(results.with_name("report.md"), copy / "report.md")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train", type=pathlib.Path, default=HERE.parents[1] / "target/release/train")
    parser.add_argument("--shards", type=pathlib.Path, nargs="+", required=True)
    parser.add_argument("--data", type=pathlib.Path, required=True)
    parser.add_argument("--out", type=pathlib.Path, required=True)
    parser.add_argument("--scratch", type=pathlib.Path, required=True)
    parser.add_argument("--minutes", type=float, default=7, help="of pretraining, each")
    parser.add_argument("--until", type=float, metavar="SECONDS", help="end this call after so long")
    parser.add_argument("--presets", type=lambda text: text.split(","), default=["mosaic-bert-base", "bert-base"])
    parser.add_argument("--every", type=lambda text: [int(part) for part in text.split(",")], default=[250, 150],
                        help="steps between checkpoints, for each preset")
    parser.add_argument("--checkpoints", type=int, default=4, help="evaluated of each run")
    parser.add_argument("--batch-size", type=int, default=1024)
    parser.add_argument("--lr", type=lambda text: [float(part) for part in text.split(",")], default=[5e-4, 2e-4],
                        help="for each preset, or one for all: BERT does not bear the paper's in so short a time")
    parser.add_argument("--micro-batch-tokens", default="65536")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="further settings of pretraining")
    parser.add_argument("--tasks", default=TASKS)
    parser.add_argument("--jobs", type=int, default=3, help="fine-tunings side by side")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--price-per-hour", default="2.5", help="dollars, of the machine")
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto")
    arguments = parser.parse_args()
    arguments.train = arguments.train.resolve()
    arguments.out.mkdir(parents=True, exist_ok=True)
    arguments.scratch.mkdir(parents=True, exist_ok=True)
    clock = Clock(arguments.until)
    recipe = arguments.out / "recipe.toml"
    recipe.write_text(RECIPE)

    rates = arguments.lr if len(arguments.lr) > 1 else arguments.lr * len(arguments.presets)
    runs = [pretrain(arguments, clock, preset, lr, every)
            for preset, lr, every in zip(arguments.presets, rates, arguments.every)]
    for folder in runs:
        keep(folder, arguments.out)
    # The newest of each run first, so that a call cut short leaves what matters most.
    chosen = [list(reversed(checkpoints(folder, arguments.checkpoints))) for folder in runs]
    longest = 0.0
    for row in range(max(map(len, chosen))):
        for folder, found in zip(runs, chosen):
            if row >= len(found):
                continue
            checkpoint = found[row]
            out = folder / "glue" / checkpoint.name
            if (out / "results.json").exists():
                continue
            clock.need(max(60.0, 1.15 * longest), f"GLUE of {folder.name}, {checkpoint.name}")
            begun = time.monotonic()
            timeout = None if arguments.until is None else clock.left() - 15
            finished = run([arguments.train, "glue", "--from", checkpoint, "--data", arguments.data, "--out", out, "--tasks",
                            arguments.tasks, "--recipe", recipe, "--seeds", str(arguments.seeds), "--jobs", str(arguments.jobs),
                            "--device", arguments.device], arguments.out / f"glue-{folder.name}.log", timeout)
            longest = max(longest, time.monotonic() - begun)
            if not finished:
                print("stopped; what is finished is kept: give the same command again", flush=True)
                sys.exit(3)
            keep(folder, arguments.out)
    pages = [("glue", "pareto.html"), ("loss", "pareto-loss.html")]
    for score, page in pages:
        run([arguments.train, "pareto", *runs, "--score", score, "--price-per-hour", arguments.price_per_hour,
             "--out", arguments.out / page], arguments.out / "pareto.log")
    summary = {folder.name: [json.loads(path.read_text())["average"] for path in sorted(folder.glob("glue/*/results.json"))]
               for folder in runs}
    (arguments.out / "averages.json").write_text(json.dumps(summary, indent=1) + "\n")
    print("everything is done", flush=True)


if __name__ == "__main__":
    main()
