"""Compares an exported folder with what this project computed: compare.py DIR EXPECTED.safetensors

EXPECTED holds a padded batch (input_ids, attention_mask), its logits and hidden states by this project in float32, and the
ids of the sentences in its metadata. Every difference ends the script with an error.
"""

import pathlib
import sys
import tempfile

import torch
import transformers
from safetensors import safe_open
from transformers import AutoModel, AutoModelForMaskedLM, AutoModelForSequenceClassification, AutoTokenizer

folder, expected_file = sys.argv[1:]
TOLERANCE = 1e-4
with safe_open(expected_file, "pt") as file:
    expected = {name: file.get_tensor(name) for name in file.keys()}
ids, mask = expected["input_ids"].long(), expected["attention_mask"].long()
real = mask.bool()
print(f"transformers {transformers.__version__}, torch {torch.__version__}")


def close(what, found, wanted):
    difference, largest = (found - wanted).abs().max().item(), wanted.abs().max().item()
    print(f"{what}: largest difference {difference:.2e}, largest value {largest:.2f}")
    allowed = TOLERANCE * max(1.0, largest)
    assert difference <= allowed, f"{what} differ by {difference}, more than {allowed}"


# The masked language model: padded batch, then each sequence on its own.
model, info = AutoModelForMaskedLM.from_pretrained(folder, trust_remote_code=True, output_loading_info=True)
assert not info["missing_keys"] and not info["unexpected_keys"], info
print(type(model).__module__.split(".")[-1], type(model).__name__)
model.eval()
with torch.no_grad():
    output = model(input_ids=ids, attention_mask=mask)
    close("logits, padded", output.logits[real], expected["logits"])
    alone = [model(input_ids=row[keep][None]).logits[0] for row, keep in zip(ids, real)]
    close("logits, one by one", torch.cat(alone), expected["logits"])
    nothing = model(input_ids=ids, attention_mask=torch.zeros_like(mask)).logits
    assert torch.isfinite(nothing).all(), "a batch of nothing but padding gives numbers"

# The weights of decoder and word embedding are one tensor, also after saving and loading.
assert model.get_output_embeddings().weight is model.get_input_embeddings().weight, "the decoder is not tied"
with tempfile.TemporaryDirectory() as again:
    model.save_pretrained(again)
    reloaded = AutoModelForMaskedLM.from_pretrained(again, trust_remote_code=True).eval()
    assert reloaded.get_output_embeddings().weight is reloaded.get_input_embeddings().weight
    with torch.no_grad():
        close("logits, saved and loaded again", reloaded(input_ids=ids, attention_mask=mask).logits, output.logits)

# Gradients reach every parameter, and one step lowers the loss.
labels = torch.where(real, ids, -100)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
losses = []
for _ in range(2):
    loss = model(input_ids=ids, attention_mask=mask, token_type_ids=torch.zeros_like(ids), labels=labels).loss
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    losses.append(loss.item())
without = [name for name, parameter in model.named_parameters() if parameter.grad is None]
assert not without, f"no gradient reaches {without}"
assert losses[1] < losses[0], losses

# The bare encoder.
encoder = AutoModel.from_pretrained(folder, trust_remote_code=True).eval()
with torch.no_grad():
    output = encoder(input_ids=ids, attention_mask=mask, output_hidden_states=True)
close("hidden states", output.last_hidden_state[real], expected["hidden"])
close("the last of all hidden states", output.hidden_states[-1][real], expected["hidden"])
with torch.no_grad():
    embedded = encoder(inputs_embeds=encoder.get_input_embeddings()(ids), attention_mask=mask).last_hidden_state
close("hidden states from word embeddings", embedded[real], expected["hidden"])
segments = encoder(input_ids=ids, attention_mask=mask, token_type_ids=torch.ones_like(ids)).last_hidden_state
assert (segments[real] - expected["hidden"]).abs().max() > 1e-3, "segments are ignored"

# A classifier begins over it and learns.
classifier = AutoModelForSequenceClassification.from_pretrained(folder, trust_remote_code=True, num_labels=3)
loss = classifier(input_ids=ids, attention_mask=mask, labels=torch.arange(len(ids)) % 3)
assert loss.logits.shape == (len(ids), 3)
loss.loss.backward()
assert classifier.classifier.weight.grad.abs().sum() > 0
one = AutoModelForSequenceClassification.from_pretrained(folder, trust_remote_code=True, num_labels=1)
assert torch.isfinite(one(input_ids=ids, attention_mask=mask, labels=torch.rand(len(ids))).loss)

# The tokenizer reads what this project reads.
tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=True)
sentences = (pathlib.Path(expected_file).parent / "sentences.txt").read_text().splitlines()
batch = tokenizer(sentences, padding=True, return_tensors="pt")
assert batch["input_ids"].tolist() == ids.tolist(), (batch["input_ids"], ids)
assert batch["attention_mask"].tolist() == mask.tolist()
assert tokenizer.mask_token == "[MASK]" and tokenizer.decode(ids[0], skip_special_tokens=True)
print("equal")
