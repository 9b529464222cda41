"""JinaBERT's computation over an exported folder: jina_bert.py DIR EXPECTED.safetensors

Written out with nothing but tensors by the names and keys that JinaBERT's readers look for (jinaai/jina-bert-implementation,
and the JinaBERT of text-embeddings-inference), since transformers itself does not bring the model along.
"""

import json
import math
import pathlib
import sys

import torch
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.torch import load_file

folder, expected_file = sys.argv[1:]
config = json.loads((pathlib.Path(folder) / "config.json").read_text())
tensors = load_file(pathlib.Path(folder) / "model.safetensors")
with safe_open(expected_file, "pt") as file:
    expected = {name: file.get_tensor(name) for name in file.keys()}
ids, mask = expected["input_ids"].long(), expected["attention_mask"].long()

assert config["model_type"] == "bert" and config["_name_or_path"] == "jinaai/jina-bert-implementation"
assert config["position_embedding_type"] == "alibi" and config["feed_forward_type"] == "geglu"
assert config["hidden_act"] == "gelu" and config["architectures"] == ["JinaBertForMaskedLM"]
heads, width = config["num_attention_heads"], config["hidden_size"]


def linear(x, name):
    return F.linear(x, tensors[f"{name}.weight"], tensors.get(f"{name}.bias"))


def norm(x, name):
    return F.layer_norm(x, (width,), tensors[f"{name}.weight"], tensors[f"{name}.bias"], config["layer_norm_eps"])


def slopes(n):
    if math.log2(n).is_integer():
        start = 2 ** (-(2 ** -(math.log2(n) - 3)))
        return [start ** (i + 1) for i in range(n)]
    lower = 2 ** math.floor(math.log2(n))
    return slopes(lower) + slopes(2 * lower)[0::2][: n - lower]


def split(x):
    return x.unflatten(-1, (heads, width // heads)).transpose(1, 2)  # [B, H, S, K]


length = ids.shape[1]
positions = torch.arange(length)
penalty = -torch.tensor(slopes(heads))[:, None, None] * (positions[None] - positions[:, None]).abs()  # [H, S, S]
bias = penalty[None] + (1.0 - mask[:, None, None, :].float()) * torch.finfo(torch.float32).min  # [B, H, S, S]
words = tensors["bert.embeddings.word_embeddings.weight"]
x = norm(words[ids] + tensors["bert.embeddings.token_type_embeddings.weight"][0], "bert.embeddings.LayerNorm")  # [B, S, D]
for i in range(config["num_hidden_layers"]):
    layer = f"bert.encoder.layer.{i}"
    query, key, value = (split(linear(x, f"{layer}.attention.self.{part}")) for part in ("query", "key", "value"))
    scores = query @ key.transpose(-1, -2) / math.sqrt(width // heads) + bias  # [B, H, S, S]
    context = (scores.softmax(-1) @ value).transpose(1, 2).flatten(2)  # [B, S, D]
    x = norm(linear(context, f"{layer}.attention.output.dense") + x, f"{layer}.attention.output.LayerNorm")
    both = linear(x, f"{layer}.mlp.gated_layers")  # [B, S, 2·I]
    gated, plain = both[..., : config["intermediate_size"]], both[..., config["intermediate_size"] :]
    x = norm(linear(F.gelu(gated) * plain, f"{layer}.mlp.wo") + x, f"{layer}.mlp.layernorm")
y = norm(F.gelu(linear(x, "cls.predictions.transform.dense")), "cls.predictions.transform.LayerNorm")
logits = F.linear(y, words, tensors["cls.predictions.bias"])  # [B, S, V]

for what, found, wanted in (("hidden states", x, expected["hidden"]), ("logits", logits, expected["logits"])):
    difference = (found[mask.bool()] - wanted).abs().max().item()
    largest = wanted.abs().max().item()
    print(f"JinaBERT's {what}: largest difference {difference:.2e}, largest value {largest:.2f}")
    assert difference <= 1e-4 * max(1.0, largest)
