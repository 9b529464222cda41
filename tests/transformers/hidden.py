"""Writes what transformers computes for a padded batch: hidden.py MODEL SENTENCES.txt OUT.safetensors"""

import sys

import torch
from safetensors.torch import save_file
from transformers import AutoModel, AutoTokenizer

folder, sentences, out = sys.argv[1:]
tokenizer = AutoTokenizer.from_pretrained(folder)
batch = tokenizer(open(sentences).read().splitlines(), padding="longest", truncation=True, max_length=512, return_tensors="pt")
model = AutoModel.from_pretrained(folder).eval()
with torch.no_grad():
    hidden = model(**batch).last_hidden_state
save_file({"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"], "hidden": hidden}, out)
