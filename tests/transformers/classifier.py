"""Compares an exported classifier with what this project predicted: classifier.py DIR NAMES EXPECTED.safetensors

EXPECTED holds the logits that this project computed in float32 for the texts, or pairs of texts, of texts.jsonl beside it. NAMES
are the classes, joined by commas. Every difference ends the script with an error.
"""

import json
import pathlib
import sys

import torch
from safetensors.torch import load_file
from transformers import AutoModelForSequenceClassification, AutoTokenizer, pipeline

folder, names, expected_file = sys.argv[1:]
expected = load_file(expected_file)["logits"]
model, info = AutoModelForSequenceClassification.from_pretrained(folder, trust_remote_code=True, output_loading_info=True)
assert not info["missing_keys"] and not info["unexpected_keys"], info
assert [model.config.id2label[i] for i in range(model.config.num_labels)] == names.split(","), model.config.id2label
assert model.config.problem_type == ("regression" if len(expected[0]) == 1 else "single_label_classification")
model.eval()

tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=True)
lines = pathlib.Path(expected_file).with_name("texts.jsonl").read_text().splitlines()
texts = [[text for text in json.loads(line) if text is not None] for line in lines]
# One by one, with the segments that the tokenizer gives; then all as one padded batch.
with torch.no_grad():
    alone = torch.cat([model(**tokenizer(*text, return_tensors="pt")).logits for text in texts])
    rows = [tokenizer(*text) for text in texts]
    together = model(**tokenizer.pad(rows, return_tensors="pt")).logits
for what, found in [("one by one", alone), ("padded", together)]:
    difference = (found - expected).abs().max().item()
    print(f"{type(model).__name__}, {what}: largest difference {difference:.2e}, largest value {expected.abs().max():.2f}")
    assert difference <= 1e-4 * max(1.0, expected.abs().max().item()), difference

if len(names.split(",")) > 1:
    single = next(text for text in texts if len(text) == 1)[0]
    answer = pipeline("text-classification", model=model, tokenizer=tokenizer)(single)[0]["label"]
    assert answer == names.split(",")[expected[[len(text) for text in texts].index(1)].argmax()], answer
