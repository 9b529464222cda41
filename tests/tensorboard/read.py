"""Whether TensorBoard and Prometheus read what a run wrote, and read the same numbers: read.py RUN FILE.prom"""

import json
import struct
import sys
import time
import urllib.request
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families
from tensorboard import program
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

run, prom = Path(sys.argv[1]), Path(sys.argv[2])
records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
TAGS = {
    "train": {f"train/{key}": key for key in ["loss", "accuracy", "lr", "mask_rate", "grad_norm", "progress", "samples", "tokens", "skipped"]}
    | {f"throughput/{key}": key for key in ["samples_per_s", "tokens_per_s", "model_tflops", "wait_share"]},
    "eval": {f"eval/{key}": key for key in ["loss", "accuracy", "unigram_loss"]},
}


def single(number):
    """As TensorBoard keeps it, in float32."""
    return struct.unpack("f", struct.pack("f", number))[0]


def assert_equal(found, expected, what):
    assert len(found) == len(expected), f"{what}: {len(found)} points, expected {len(expected)}"
    for one, other in zip(found, expected):
        assert one == other, f"{what}: {one}, expected {other}"


def expected(kind, key):
    return [(r["time"], r["step"], single(r[key])) for r in records if r["kind"] == kind]


# The library: everything, to the last bit.
events = EventAccumulator(str(run / "tensorboard"), size_guidance={"scalars": 0, "tensors": 0}).Reload()
tags = events.Tags()
assert set(tags["scalars"]) == {tag for of in TAGS.values() for tag in of}, tags["scalars"]
for kind, of in TAGS.items():
    for tag, key in of.items():
        found = [(e.wall_time, e.step, single(e.value)) for e in events.Scalars(tag)]
        assert_equal(found, expected(kind, key), tag)
config = events.Tensors("config/text_summary")[-1].tensor_proto.string_val[0].decode()
assert config.replace("    ", "", 1).startswith("seed = "), config
assert (run / "config.toml").read_text().split() == config.split(), config

# The program with its own data server, as people open it.
board = program.TensorBoard()
board.configure(argv=[None, "--logdir", str(run), "--port", "0", "--load_fast", "true"])
url = board.launch()


def get(path):
    return json.load(urllib.request.urlopen(url.rstrip("/") + path, timeout=10))


deadline = time.monotonic() + 60
while True:
    try:
        served = get("/data/plugin/scalars/scalars?run=tensorboard&tag=train/loss")
        if len(served) == len(expected("train", "loss")):
            break
    except urllib.error.HTTPError:
        served = None
    assert time.monotonic() < deadline, f"after a minute TensorBoard serves {served and len(served)} points"
    time.sleep(0.1)
for kind, of in TAGS.items():
    for tag, key in of.items():
        served = get(f"/data/plugin/scalars/scalars?run=tensorboard&tag={tag}")
        found = [(t, step, single(value)) for t, step, value in served]
        assert_equal(found, expected(kind, key), f"{tag}, served")
texts = get("/data/plugin/text/tags")
assert set(texts["tensorboard"]) == {"config/text_summary", "command/text_summary"}, texts

# Prometheus.
families = {family.name: family for family in text_string_to_metric_families(prom.read_text())}
last = [r for r in records if r["kind"] == "train"][-1]
for name, kind, value in [
    ("tessera_training", "gauge", 0),
    ("tessera_step", "gauge", last["step"]),
    ("tessera_loss_nats", "gauge", last["loss"]),
    ("tessera_tokens", "counter", last["tokens"]),
    ("tessera_record_timestamp_seconds", "gauge", last["time"]),
]:
    family = families[name]
    assert family.type == kind and family.documentation, family
    (sample,) = family.samples
    assert sample.value == value and sample.labels == {"run": run.name}, (sample, value)
print(f"TensorBoard and Prometheus read {len(records)} records of {run.name}, {len(families)} series")
