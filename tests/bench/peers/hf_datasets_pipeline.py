"""What run_mlm.py does: load_dataset(json) -> tokenize -> group into rows of 128 -> Arrow files."""

import os
import sys
from itertools import chain

workers, out, tokenizer, files = int(sys.argv[1]), sys.argv[2], sys.argv[3], sys.argv[4:]
os.environ.update(HF_DATASETS_CACHE=f"{out}/cache", HF_HOME=f"{out}/home")
ROW = 128

from datasets import load_dataset  # noqa: E402  (the cache folders come first)
from transformers import BertTokenizerFast  # noqa: E402

encoder = BertTokenizerFast(tokenizer_file=tokenizer, model_max_length=10**9)
processes = workers if workers > 1 else None


def tokenize(examples):
    return encoder(examples["text"], return_special_tokens_mask=True)


def group(examples):
    columns = {name: list(chain(*values)) for name, values in examples.items()}
    length = len(next(iter(columns.values()))) // ROW * ROW
    return {name: [values[i:i + ROW] for i in range(0, length, ROW)] for name, values in columns.items()}


dataset = load_dataset("json", data_files=files, split="train", num_proc=processes)
dataset = dataset.map(tokenize, batched=True, num_proc=processes, remove_columns=dataset.column_names)
dataset = dataset.map(group, batched=True, num_proc=processes)
