"""Masked batches as peers make them. masked_batches.py prepare SHARDS SCRATCH | NAME-COLLATOR-WORKERS SCRATCH | copy SCRATCH"""

import json
import os
import pathlib
import shutil
import struct
import sys
import time
import warnings

import numpy as np

warnings.filterwarnings("ignore")
ROW, BATCH, BATCHES = 128, 4096, 12
VOCABULARY, CLS, SEP, MASK = 30522, 101, 102, 103
TOKENIZER = pathlib.Path(__file__).resolve().parents[3] / "ingest/assets/bert-base-uncased/tokenizer.json"


def prepare(shards, scratch):
    """The shards' tokens as rows of 128, in every peer's own format."""
    if (scratch / "ready").exists():
        return
    parts = []
    for path in sorted(shards.glob("*.tokens")):
        with open(path, "rb") as file:
            header = file.read(128)
        width, tokens = struct.unpack_from("<I", header, 12)[0], struct.unpack_from("<Q", header, 32)[0]
        assert header[:8] == b"TESSERA\0" and width == 2, path
        parts.append(np.memmap(path, np.uint16, "r", 128, tokens))
    tokens = np.concatenate(parts)
    rows = tokens[: len(tokens) // ROW * ROW].reshape(-1, ROW)
    rows.tofile(scratch / "tokens.bin")

    from streaming import MDSWriter

    shutil.rmtree(scratch / "mds", ignore_errors=True)
    with MDSWriter(out=str(scratch / "mds"), columns={"tokens": f"ndarray:uint16:{ROW}"}, size_limit="64mb") as writer:
        for row in rows:
            writer.write({"tokens": row})

    import pyarrow as pa
    from datasets import Dataset

    def table(rows):
        column = lambda values, kind: pa.ListArray.from_arrays(pa.array(np.arange(len(rows) + 1, dtype=np.int32) * ROW), pa.array(values.reshape(-1), kind))
        return pa.table({
            "input_ids": column(rows.astype(np.int32), pa.int32()),
            "token_type_ids": column(np.zeros_like(rows, np.int8), pa.int8()),
            "attention_mask": column(np.ones_like(rows, np.int8), pa.int8()),
            "special_tokens_mask": column(((rows == CLS) | (rows == SEP)).astype(np.int8), pa.int8()),
        })

    Dataset(pa.concat_tables([table(rows[i:i + 1000]) for i in range(0, len(rows), 1000)])).save_to_disk(scratch / "arrow")
    (scratch / "ready").touch()


class Rows:
    """Rows of the memory map; a whole batch of them in one gather."""

    def __init__(self, scratch):
        self.rows = np.memmap(scratch / "tokens.bin", np.uint16, "r").reshape(-1, ROW)

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, index):
        return self.rows[index]

    def __getitems__(self, indices):
        return self.rows[np.asarray(indices)]


def numpy_collator():
    import torch

    generator = np.random.default_rng(1)

    def collate(rows):
        ids = np.asarray(rows).astype(np.int64)
        draw = generator.random(ids.shape, dtype=np.float32)
        chosen = (draw < 0.3) & (ids != CLS) & (ids != SEP)
        labels = np.where(chosen, ids, -100)
        ids[chosen & (draw < 0.24)] = MASK
        random = chosen & (draw >= 0.27)
        ids[random] = generator.integers(0, VOCABULARY, int(random.sum()))
        return {"input_ids": torch.from_numpy(ids), "labels": torch.from_numpy(labels)}

    return collate


def hf_collator(to_example):
    from transformers import BertTokenizerFast, DataCollatorForLanguageModeling

    tokenizer = BertTokenizerFast(tokenizer_file=str(TOKENIZER), model_max_length=10**9)
    collator = DataCollatorForLanguageModeling(tokenizer, mlm_probability=0.3, seed=17)
    return lambda examples: collator([to_example(example) for example in examples])


def batches(name, scratch):
    import torch
    from torch.utils.data import DataLoader

    torch.set_num_threads(1)
    source, collator, workers = name.split("-")
    shuffle = True
    if source == "memmap":
        data = Rows(scratch)
        row = lambda r: {"input_ids": torch.from_numpy(r.astype(np.int64))}
    elif source == "arrow":
        from datasets import load_from_disk

        data = load_from_disk(str(scratch / "arrow"))
        row = lambda r: r
    elif source == "mds":
        from streaming import StreamingDataset
        from streaming.base.util import clean_stale_shared_memory

        clean_stale_shared_memory()
        data = StreamingDataset(local=str(scratch / "mds"), shuffle=True, batch_size=BATCH, shuffle_seed=1)
        row = lambda r: {"input_ids": torch.from_numpy(r["tokens"].astype(np.int64))}
        shuffle = None
    collate = numpy_collator() if collator == "numpy" else hf_collator(row)
    return DataLoader(data, batch_size=BATCH, num_workers=int(workers), shuffle=shuffle, collate_fn=collate, drop_last=True)


def measure(name, scratch):
    loader = batches(name, scratch)
    tokens, iterator = 0, iter(loader)
    for index in range(BATCHES + 2):
        batch = next(iterator, None)
        if batch is None:
            iterator = iter(loader)
            batch = next(iterator)
        if index == 1:  # two batches of warm-up
            started = time.perf_counter()
        elif index > 1:
            tokens += batch["input_ids"].numel()
    print(json.dumps({"tokens_per_s": tokens / (time.perf_counter() - started)}), flush=True)
    os._exit(0)  # worker processes of some peers do not end by themselves


def copy():
    source = np.ones(64 << 20, np.int64)
    target = np.empty_like(source)
    np.copyto(target, source)
    started = time.perf_counter()
    for _ in range(5):
        np.copyto(target, source)
    print(json.dumps({"gb_per_s": 10 * source.nbytes / (time.perf_counter() - started) / 1e9}))


if __name__ == "__main__":
    what = sys.argv[1]
    if what == "prepare":
        prepare(pathlib.Path(sys.argv[2]), pathlib.Path(sys.argv[3]))
    elif what == "copy":
        copy()
    else:
        measure(what, pathlib.Path(sys.argv[2]))
