"""Masked batches from the libraries people use, all from the same rows of 128 token ids.

    masked_batches.py prepare ROWS.bin FOLDER            writes what each library reads
    masked_batches.py SYSTEM WORKERS BATCH SECONDS FOLDER TOKENIZER    measures, prints one JSON object

30 % of the tokens are masked, 80/10/10. Batches are PyTorch's int64 tensors, input_ids and labels. `hf` systems mask with
transformers' DataCollatorForLanguageModeling, `numpy` systems with a few lines of vectorised numpy.
"""

import json
import os
import pathlib
import shutil
import sys
import time
import warnings

warnings.filterwarnings("ignore")
os.environ.update(TOKENIZERS_PARALLELISM="false", LITDATA_DISABLE_VERSION_CHECK="1", OMP_NUM_THREADS="1")

ROW = 128
VOCABULARY, CLS, SEP, MASK = 30522, 101, 102, 103
RATE = 0.3


def rows_of_chunk(inputs):
    import numpy as np
    import torch

    path, start, end = inputs
    rows = np.memmap(path, np.uint16, "r").reshape(-1, ROW)
    yield torch.from_numpy(rows[start:end].reshape(-1).copy())


def prepare(path, folder):
    import numpy as np
    import pyarrow as pa
    from datasets import Dataset
    from litdata import TokensLoader, optimize
    from streaming import MDSWriter

    rows = np.fromfile(path, np.uint16).reshape(-1, ROW)
    for name in ["mds", "arrow", "litdata"]:
        shutil.rmtree(folder / name, ignore_errors=True)
    with MDSWriter(out=str(folder / "mds"), columns={"tokens": f"ndarray:uint16:{ROW}"}, size_limit="64mb") as writer:
        for row in rows:
            writer.write({"tokens": row})

    def table(rows):
        ends = pa.array(np.arange(len(rows) + 1, dtype=np.int32) * ROW)
        special = ((rows == CLS) | (rows == SEP)).astype(np.int8)
        columns = {"input_ids": rows.astype(np.int32), "token_type_ids": np.zeros_like(rows, np.int8),
                   "attention_mask": np.ones_like(rows, np.int8), "special_tokens_mask": special}
        return pa.table({name: pa.ListArray.from_arrays(ends, pa.array(values.reshape(-1)))
                         for name, values in columns.items()})

    tables = [table(rows[start:start + 1000]) for start in range(0, len(rows), 1000)]
    Dataset(pa.concat_tables(tables)).save_to_disk(str(folder / "arrow"))
    each = 4096
    chunks = [(str(path), start, start + each) for start in range(0, len(rows) - each + 1, each)]
    optimize(fn=rows_of_chunk, inputs=chunks, output_dir=str(folder / "litdata"), num_workers=1,
             chunk_size=each * ROW * 8, item_loader=TokensLoader(block_size=ROW), start_method="fork")


def numpy_masks(rng, rows):
    import numpy as np
    import torch

    ids = rows.astype(np.int64)
    chance = rng.random(ids.shape, dtype=np.float32)
    chosen = (chance < RATE) & (ids != CLS) & (ids != SEP)
    labels = np.where(chosen, ids, -100)
    ids[chosen & (chance < 0.8 * RATE)] = MASK
    random = chosen & (chance >= 0.9 * RATE)
    ids[random] = rng.integers(0, VOCABULARY, int(random.sum()))
    return {"input_ids": torch.from_numpy(ids), "labels": torch.from_numpy(labels)}


def batches(system, workers, batch, folder, tokenizer):
    import numpy as np
    import torch
    from torch.utils.data import DataLoader, Dataset

    torch.set_num_threads(1)
    library, masks = system.rsplit("-", 1)
    if masks == "hf":
        from transformers import DataCollatorForLanguageModeling, PreTrainedTokenizerFast

        special = {f"{name}_token": f"[{name.upper()}]" for name in ["pad", "unk", "cls", "sep", "mask"]}
        tokenizer = PreTrainedTokenizerFast(tokenizer_file=tokenizer, model_max_length=10**9, **special)
        collator = DataCollatorForLanguageModeling(tokenizer, mlm_probability=RATE, seed=17)
        as_rows = lambda rows: collator([{"input_ids": torch.as_tensor(row.astype(np.int64))} for row in rows])
    else:
        rng = np.random.default_rng(1)
        as_rows = lambda rows: numpy_masks(rng, np.asarray(rows))
    common = {"batch_size": batch, "num_workers": workers, "drop_last": True}
    if library == "mosaicml-streaming":
        from streaming import StreamingDataset
        from streaming.base.util import clean_stale_shared_memory

        clean_stale_shared_memory()
        rows = StreamingDataset(local=str(folder / "mds"), shuffle=True, batch_size=batch, shuffle_seed=1)
        collate = lambda samples: as_rows([sample["tokens"] for sample in samples])
        return DataLoader(rows, collate_fn=collate, **common)
    if library == "hf-datasets":
        from datasets import load_from_disk

        return DataLoader(load_from_disk(str(folder / "arrow")), shuffle=True, collate_fn=collator, **common)
    if library == "litdata":
        from litdata import StreamingDataLoader, StreamingDataset, TokensLoader

        rows = StreamingDataset(str(folder / "litdata"), item_loader=TokensLoader(block_size=ROW), shuffle=True,
                                drop_last=True)
        return StreamingDataLoader(rows, collate_fn=lambda samples: as_rows([row.numpy() for row in samples]), **common)
    if library == "memory-map":
        class Rows(Dataset):
            def __init__(self):
                self.rows = np.memmap(folder / "rows.bin", np.uint16, "r").reshape(-1, ROW)

            def __len__(self):
                return len(self.rows)

            def __getitems__(self, indices):
                return self.rows[np.asarray(indices)]

        return DataLoader(Rows(), shuffle=True, collate_fn=as_rows, **common)
    sys.exit(f"no system {system}")


def measure(loader, seconds):
    def endless():
        while True:
            yield from loader

    tokens = taken = 0
    for number, batch in enumerate(endless()):
        # The first two are on their way while everything starts.
        if number == 1:
            start = time.perf_counter()
        if number < 2:
            continue
        taken += 1
        tokens += batch["input_ids"].numel()
        elapsed = time.perf_counter() - start
        if elapsed >= seconds and taken >= 4:
            masked = float((batch["labels"] != -100).float().mean())
            return {"tokens_per_s": tokens / elapsed, "batches": taken, "seconds": elapsed, "masked": masked}


def main():
    if sys.argv[1] == "prepare":
        return prepare(pathlib.Path(sys.argv[2]), pathlib.Path(sys.argv[3]))
    system, workers, batch, seconds, folder, tokenizer = sys.argv[1:]
    loader = batches(system, int(workers), int(batch), pathlib.Path(folder), tokenizer)
    print(json.dumps(measure(loader, float(seconds))), flush=True)
    # Worker processes of some libraries never end by themselves.
    os._exit(0)


if __name__ == "__main__":
    main()
