"""Prints the demo's closing table from what ingest, train and eval wrote: summary.py WORK REPORT"""

import json
import pathlib
import sys

work, report = pathlib.Path(sys.argv[1]), sys.argv[2]
manifest = json.loads((work / "shards/manifest.json").read_text())
ingest = json.loads((work / "ingest.json").read_text())
evaluation = json.loads((work / "eval.json").read_text())
steps = [json.loads(line) for line in (work / "tiny/metrics.jsonl").read_text().splitlines()]
steps = [step for step in steps if step["kind"] == "train"]
# The first logged steps warm caches and threads up.
speeds = sorted(step["samples_per_s"] for step in steps[1:]) or [steps[0]["samples_per_s"]]

rows = [
    ("documents", f"{manifest['documents']:,} ({manifest['held_out_documents']:,} held out)"),
    ("tokens", f"{manifest['tokens']:,}"),
    ("ingest", f"{ingest['tokens_per_s']:,.0f} tokens/s ({ingest['mb_per_s']:.1f} MB/s of text)"),
    ("training", f"{speeds[len(speeds) // 2]:,.0f} samples/s, {steps[-1]['step']:,} steps, {steps[-1]['elapsed_s']:.0f} s"),
    ("training loss, first -> last", f"{steps[0]['loss']:.3f} -> {steps[-1]['loss']:.3f}"),
    ("held-out loss", f"{evaluation['loss']:.3f}"),
    ("held-out accuracy", f"{evaluation['accuracy']:.1%} of masked tokens"),
    ("unigram cross-entropy", f"{evaluation['unigram_loss']:.3f} (what a model that ignores context can reach)"),
    ("report", report),
]
width = max(len(name) for name, _ in rows)
print()
for name, value in rows:
    print(f"  {name:<{width}}  {value}")
if not evaluation["loss"] < evaluation["unigram_loss"]:
    sys.exit("demo: the held-out loss is not below the unigram cross-entropy: the model has not learned to use context")
