"""Data-parallel scaling on the GPUs of this machine: samples/s on 1, 2, 4, 8 of them, waiting for the exchange, and efficiency;
then a real run on 1 and N GPUs with the same losses, a rank killed in the middle, and its continuation on fewer GPUs.

    make bench-scaling SHARDS=DIR
    python3 tests/bench/scaling.py --train target/release/train [--gpus 1,2,4] [--shards DIR | --text FILE...]
                                   [--only speed|runs] [--out DIR]

Needs nothing but Python and the program, whose own options are used: it starts one process a GPU with the variables that
torchrun sets. Everything the processes print lies in --out, and is printed when one fails. NVLink multicast is off
(NCCL_NVLS_ENABLE=0). The runs need shards, or C4 files for the `ingest` that lies beside the program.
"""

import argparse
import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import time

HERE = pathlib.Path(__file__).resolve().parent
# Preset, micro-batch tokens, timed steps by number of GPUs: about five seconds of work each.
SPEED = [
    ("mosaic-bert-base", 131072, {1: 4, 2: 8, 4: 14, 8: 24}),
    ("mosaic-bert-large", 65536, {1: 2, 2: 3, 4: 6, 8: 10}),
]
TARGETS = {("mosaic-bert-base", 2): 97, ("mosaic-bert-base", 8): 94, ("mosaic-bert-large", 2): 98, ("mosaic-bert-large", 8): 96}
# A model of the fused path that takes a hundred steps in seconds.
RUN = ["--preset", "mosaic-bert-base", "--device", "cuda", "--set", "model.num_hidden_layers=4", "--set", "model.hidden_size=256",
       "--set", "model.num_attention_heads=4", "--set", "model.intermediate_size=1024", "--set", "model.hidden_dropout_prob=0.0",
       "--set", "train.seq_len=128", "--set", "train.batch_size=512", "--set", "train.micro_batch_tokens=8192",
       "--set", "train.log_every_steps=1", "--set", "checkpoint.every_steps=20", "--set", "eval.every_steps=50", "--set", "eval.max_samples=256",
       "--set", "optimizer.lr=1e-3", "--set", "loader.workers=2"]


def gpus():
    """The number of GPUs that this process may use."""
    if os.environ.get("CUDA_VISIBLE_DEVICES", "").strip():
        return len(os.environ["CUDA_VISIBLE_DEVICES"].split(","))
    try:
        listed = subprocess.run(["nvidia-smi", "--list-gpus"], capture_output=True, text=True, check=True).stdout
        return len([line for line in listed.splitlines() if line.startswith("GPU ")])
    except (OSError, subprocess.CalledProcessError):
        cards = pathlib.Path("/proc/driver/nvidia/gpus")
        return len(list(cards.iterdir())) if cards.is_dir() else 0


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Job:
    """One process a GPU, as torchrun would start them."""

    def __init__(self, name, ranks, command, out, device):
        self.name, self.command, self.processes, self.logs = name, [str(word) for word in command], [], []
        port = str(free_port())
        for rank in range(ranks):
            variables = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(ranks), "MASTER_ADDR": "127.0.0.1",
                         "MASTER_PORT": port}
            # NCCL writes to standard output unless it is told where to.
            environment = {**os.environ, "NCCL_NVLS_ENABLE": "0", "NCCL_DEBUG": os.environ.get("NCCL_DEBUG", "WARN"),
                           "NCCL_DEBUG_FILE": str(out / f"{name}-nccl.%h.%p.log")}
            # One GPU is a program without a launcher: what the others are compared with.
            environment.update(variables if ranks > 1 else {})
            if device == "cpu":
                environment.update(OMP_NUM_THREADS="1")
            log = out / f"{name}-rank{rank}.log"
            self.logs.append(log)
            # Standard output of rank 0 is what is measured.
            stdout = open(out / f"{name}-rank{rank}.out", "w")
            process = subprocess.Popen(self.command, env=environment, stdout=stdout, stderr=open(log, "w"), start_new_session=True)
            self.processes.append(process)
        self.output, self.out = out / f"{name}-rank0.out", out

    def wait(self, seconds):
        """The exit codes; processes that are not done by then are killed and have the code of that."""
        end = time.monotonic() + seconds
        while time.monotonic() < end and any(process.poll() is None for process in self.processes):
            time.sleep(0.05)
        late = [process for process in self.processes if process.poll() is None]
        for process in late:
            process.kill()
        codes = [process.wait() for process in self.processes]
        if late:
            print(f"{self.name}: not done within {seconds} s: killed", flush=True)
        return codes

    def show(self):
        print(f"--- {self.name} failed: {' '.join(self.command)}", flush=True)
        for log in self.logs:
            text = log.read_text(errors="replace")
            print(f"--- {log}\n{text[-6000:]}", flush=True)
        for log in sorted(self.out.glob(f"{self.name}-nccl.*.log")):
            print(f"--- {log}\n{log.read_text(errors='replace')[-3000:]}", flush=True)
        print(f"--- {self.output}\n{self.output.read_text(errors='replace')[-2000:]}", flush=True)


def speed(arguments, counts, out):
    """Measures every preset on every number of GPUs; gives whether all worked."""
    rows, alone, complete = [], {}, True
    for preset, micro_batch, steps in SPEED:
        for ranks in counts:
            # Sharding matters where the optimizer's state is large.
            sharding = ranks == counts[-1] and ranks > 1 and preset == "mosaic-bert-large"
            for shard in (False, True) if sharding else (False,):
                command = [arguments.train, "bench", "--preset", preset, "--seq", "128", "--batch-size", "4096",
                           "--micro-batch-tokens", str(micro_batch), "--device", "cuda", "--json", "--warm-up", "2",
                           "--steps", str(steps.get(ranks, steps[8])), "--set", f"train.shard_optimizer={str(shard).lower()}"]
                name = f"{preset}-{ranks}gpu{'-sharded' if shard else ''}"
                if ranks == counts[-1] and not shard:
                    command += ["--trace", out / f"{name}.trace.json"]
                begun = time.monotonic()
                job = Job(name, ranks, command, out, "cuda")
                codes = job.wait(150)
                if any(codes):
                    job.show()
                    complete = False
                    continue
                lines = [line for line in job.output.read_text().splitlines() if line.startswith("{")]
                result = json.loads(lines[-1])
                if not shard:
                    alone.setdefault(preset, result["samples_per_s"] / ranks)
                efficiency = 100 * result["samples_per_s"] / ranks / alone[preset]
                rows.append({"preset": preset, "gpus": ranks, "efficiency": efficiency, **result})
                print(f"{name}: {result['samples_per_s']:,.0f} samples/s, waiting {100 * result['reduce_wait_share']:.2f} %, "
                      f"efficiency {efficiency:.1f} % ({time.monotonic() - begun:.0f} s)", flush=True)
    (out / "speed.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    print("\n| seq 128, global batch 4096 | GPUs | optimizer | samples/s | a step, ms | waiting for the exchange | peak GiB | efficiency | target |")
    print("| --- | ---: | --- | ---: | ---: | ---: | ---: | ---: | ---: |")
    for row in rows:
        target = TARGETS.get((row["preset"], row["gpus"]))
        print(f"| {row['preset']} | {row['gpus']} | {'sharded' if row['shard_optimizer'] else 'whole'} | {row['samples_per_s']:,.0f} "
              f"| {row['step_ms']:.1f} | {100 * row['reduce_wait_share']:.2f} % | {row['peak_memory_gib'] or 0:.1f} "
              f"| {row['efficiency']:.1f} % | {f'{target} %' if target else ''} |", flush=True)
    return complete


def losses(run):
    """Step to loss, of the last record of each step."""
    lines = (run / "metrics.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in lines]
    return {record["step"]: record["loss"] for record in records if record["kind"] == "train"}


def run_options(arguments, shards):
    """The run, for the vocabulary of the shards."""
    vocabulary = json.loads((shards / "manifest.json").read_text())["tokenizer"]["model_vocab_size"]
    options = [*RUN, "--set", f"model.vocab_size={vocabulary}"]
    if arguments.device == "cuda":
        return options
    # The same program on processors, to try this script.
    options[options.index("cuda")] = "cpu"
    return options + ["--set", "train.batch_size=8", "--set", "train.threads=1", "--set", "model.num_hidden_layers=1",
                      "--set", "model.hidden_size=64", "--set", "model.num_attention_heads=1", "--set", "model.intermediate_size=64",
                      "--set", "train.seq_len=32"]


def runs(arguments, counts, out, shards):
    """Curves of 1 and N ranks, with the optimizer whole and sharded; a rank killed; its continuation. Gives whether all is right."""
    fewest, most = counts[0], counts[-1]
    steps = ["--set", f"train.steps={arguments.steps}"]
    start = lambda run, *more: [arguments.train, "--shards", shards, "--out", out / run, *run_options(arguments, shards), *steps, *more]
    right = True
    curves = {}
    for name, ranks, more in [(f"run-{fewest}", fewest, []), (f"run-{most}", most, []),
                              (f"run-{most}-sharded", most, ["--set", "train.shard_optimizer=true"])]:
        job = Job(name, ranks, start(name, *more), out, arguments.device)
        if any(job.wait(150)):
            job.show()
            right = False
            continue
        curves[name] = losses(out / name)
    base = curves.get(f"run-{fewest}")
    for name, curve in curves.items():
        if base is None or curve is base:
            continue
        difference = max(abs(curve[step] - base[step]) for step in base)
        verdict = "agrees" if curve.keys() == base.keys() and difference < arguments.tolerance else "DIFFERS"
        right &= verdict == "agrees"
        print(f"{name} {verdict} with run-{fewest}: {len(base)} steps, losses {base[min(base)]:.4f} to {base[max(base)]:.4f}, "
              f"largest difference {difference:.2e}", flush=True)
    # A rank is killed in the middle. The rest must end by itself, naming it.
    name = "run-killed"
    victim = most - 1
    job = Job(name, most, start(name, "--rank-timeout", "20"), out, arguments.device)
    end = time.monotonic() + 120
    killed_at = None
    while time.monotonic() < end and killed_at is None and all(process.poll() is None for process in job.processes):
        time.sleep(0.02)
        metrics = out / name / "metrics.jsonl"
        done = losses(out / name) if metrics.exists() and metrics.read_text().endswith("\n") else {}
        if done and max(done) >= 0.4 * arguments.steps:
            os.kill(job.processes[victim].pid, signal.SIGKILL)
            killed_at = time.monotonic()
    if killed_at is None:
        print("the run to be killed ended before", flush=True)
        job.wait(1)
        job.show()
        return False
    codes = job.wait(60)
    took = time.monotonic() - killed_at
    named = [f"rank {victim} " in log.read_text(errors="replace") for log in job.logs[:victim]]
    good = all(code not in (0, -signal.SIGKILL) for code in codes[:victim]) and all(named)
    right &= good
    print(f"rank {victim} of {most} killed: the job ended after {took:.1f} s with codes {codes}, "
          f"{'naming it' if all(named) else 'NOT naming it'}", flush=True)
    reason = next((line for line in job.logs[0].read_text(errors="replace").splitlines() if f"rank {victim} " in line), "")
    print(f"    {reason}", flush=True)
    if not good:
        job.show()
    # Its continuation on another number of ranks ends where the others ended.
    for ranks in sorted({fewest, max(1, most // 2)}, reverse=True)[:1]:
        job = Job(f"{name}-resumed", ranks, [arguments.train, "--resume", out / name], out, arguments.device)
        if any(job.wait(120)):
            job.show()
            return False
        curve = losses(out / name)
        if base is not None:
            difference = max(abs(curve[step] - base[step]) for step in base)
            good = curve.keys() == base.keys() and difference < arguments.tolerance
            right &= good
            print(f"resumed on {ranks}: {'agrees' if good else 'DIFFERS'} with run-{fewest}, largest difference {difference:.2e}", flush=True)
    return right


def write_shards(train, text, out):
    """Shards of C4 files, by the program that lies beside `train`."""
    command = [train.with_name("ingest"), "c4", *text, "--out", out / "shards", "--held-out", "0.02"]
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"{' '.join(map(str, command))} failed:\n{done.stderr[-3000:]}")
    return out / "shards"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train", type=pathlib.Path, default=HERE.parents[1] / "target/release/train")
    parser.add_argument("--shards", type=pathlib.Path, help="shards for the runs")
    parser.add_argument("--text", type=pathlib.Path, nargs="+", help="C4 files to make shards of, where there are none")
    parser.add_argument("--gpus", help="numbers of GPUs, such as 1,2,4; default: as many powers of two as there are")
    parser.add_argument("--only", choices=["speed", "runs"])
    parser.add_argument("--steps", type=int, default=100, help="steps of the runs")
    parser.add_argument("--tolerance", type=float, default=0.05, help="largest difference of two losses")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda", help="cpu tries the runs without GPUs")
    parser.add_argument("--out", type=pathlib.Path, help="folder for runs and logs; default: a new one in /tmp")
    arguments = parser.parse_args()
    arguments.train = arguments.train.resolve()
    out = arguments.out or pathlib.Path(f"/tmp/tessera-scaling-{os.getpid()}")
    out.mkdir(parents=True, exist_ok=True)
    there = gpus() if arguments.device == "cuda" else 4
    counts = [int(count) for count in arguments.gpus.split(",")] if arguments.gpus else [n for n in (1, 2, 4, 8) if n <= there]
    print(f"{there} GPUs; measuring on {counts}; logs in {out}", flush=True)
    if not counts or max(counts) > there:
        sys.exit(f"there are {there} GPUs, {counts} were asked for")
    begun = time.monotonic()
    right = True
    if arguments.only != "runs" and arguments.device == "cuda":
        right &= speed(arguments, counts, out)
    if arguments.only != "speed":
        if arguments.shards is None and arguments.text is None:
            sys.exit("--shards DIR or --text FILE... is needed for the runs")
        shards = arguments.shards.resolve() if arguments.shards else write_shards(arguments.train, arguments.text, out)
        print(f"\nruns of {arguments.steps} steps:", flush=True)
        right &= runs(arguments, counts, out, shards)
    print(f"\n{'everything worked' if right else 'SOMETHING FAILED, see above'}, {time.monotonic() - begun:.0f} s", flush=True)
    sys.exit(0 if right else 1)


if __name__ == "__main__":
    main()
