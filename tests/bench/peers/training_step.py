"""One training step of what people train BERT-size encoders with on one GPU, on synthetic batches of full length.

    python training_step.py SYSTEM eager|compile [--size base|large] [--seq 128] [--batch 4096]

SYSTEM is `bert` (transformers' BertForMaskedLM, SDPA), `modernbert` (transformers' ModernBertForMaskedLM, SDPA), or
`mosaicbert` (MosaicBERT as one would write it in plain PyTorch: unpadded, ALiBi as a bias of SDPA, gated feed-forward,
LayerNorm in bf16, last layer and head on the masked tokens only). bf16 by autocast, fused AdamW once in a global batch,
gradients accumulated over the largest micro-batch that fits. Prints one JSON object.
"""

import argparse
import json
import math
import time

import torch
import torch.nn.functional as F
from torch import nn

VOCABULARY = 30528
MASKED = 0.3
DROPOUT = 0.1
SIZES = {"base": (768, 12, 12, 3072), "large": (1024, 24, 16, 4096)}  # hidden, layers, heads, intermediate
MODERNBERT_SIZES = {"base": (768, 22, 12, 1152), "large": (1024, 28, 16, 2624)}
LARGEST_MICRO_BATCH = 1024


def norm(x, layer_norm):
    """LayerNorm in bf16: MosaicBERT's low-precision one."""
    with torch.autocast("cuda", enabled=False):
        weight, bias = layer_norm.weight.bfloat16(), layer_norm.bias.bfloat16()
        return F.layer_norm(x.bfloat16(), layer_norm.normalized_shape, weight, bias, 1e-12)


def alibi_slopes(heads):
    """Press et al. 2022: powers of two; in between, every other one of the next power."""
    power = 2 ** math.floor(math.log2(heads))
    slopes = [2 ** (-8 * (i + 1) / power) for i in range(power)]
    more = [2 ** (-8 * (i + 1) / (2 * power)) for i in range(2 * power)]
    return slopes + more[0::2][: heads - power]


class Layer(nn.Module):
    def __init__(self, hidden, heads, intermediate):
        super().__init__()
        self.heads = heads
        self.qkv, self.out = nn.Linear(hidden, 3 * hidden), nn.Linear(hidden, hidden)
        self.gated, self.down = nn.Linear(hidden, 2 * intermediate, bias=False), nn.Linear(intermediate, hidden)
        self.norm1, self.norm2 = nn.LayerNorm(hidden), nn.LayerNorm(hidden)

    def forward(self, x, bias, rows):  # x [B, S, D] or, afterwards, [R, D]
        batch, length, hidden = x.shape
        qkv = self.qkv(x).view(batch, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        a = F.scaled_dot_product_attention(*qkv, attn_mask=bias).transpose(1, 2).reshape(batch, length, hidden)
        if rows is not None:
            a, x = a.reshape(-1, hidden)[rows], x.reshape(-1, hidden)[rows]
        x = norm(F.dropout(self.out(a), DROPOUT) + x, self.norm1)
        gate, linear = self.gated(x).chunk(2, dim=-1)
        return norm(self.down(F.dropout(F.gelu(gate) * linear, DROPOUT)) + x, self.norm2)


class MosaicBert(nn.Module):
    def __init__(self, size, length):
        super().__init__()
        hidden, layers, heads, intermediate = SIZES[size]
        self.words, self.types = nn.Embedding(VOCABULARY, hidden), nn.Embedding(2, hidden)
        self.layers = nn.ModuleList(Layer(hidden, heads, intermediate) for _ in range(layers))
        self.transform = nn.Linear(hidden, hidden)
        self.first, self.last = nn.LayerNorm(hidden), nn.LayerNorm(hidden)
        self.decoder_bias = nn.Parameter(torch.zeros(VOCABULARY))
        for parameter in self.parameters():
            if parameter.dim() > 1:
                nn.init.normal_(parameter, std=0.02)
        at = torch.arange(length)
        distance = (at[:, None] - at[None]).abs()
        bias = -torch.tensor(alibi_slopes(heads))[:, None, None] * distance
        self.register_buffer("bias", bias[None].bfloat16())

    def forward(self, input_ids, rows, labels):
        x = F.dropout(norm(self.words(input_ids) + self.types.weight[0], self.first), DROPOUT)
        bias = self.bias.expand(input_ids.shape[0], -1, -1, -1)
        for layer in self.layers[:-1]:
            x = layer(x, bias, None)
        x = self.layers[-1](x, bias, rows)
        x = norm(F.gelu(self.transform(x)), self.last)
        return F.cross_entropy(F.linear(x, self.words.weight, self.decoder_bias), labels)


def build(system, size, length):
    """A model on the GPU, and a function of it and token ids that gives the loss."""
    if system == "mosaicbert":
        model = MosaicBert(size, length)

        def loss(call, ids):
            count = ids.numel()
            rows = torch.randperm(count, device=ids.device)[: int(MASKED * count)].sort().values
            return call(ids, rows, ids.flatten()[rows])
    else:
        from transformers import BertConfig, BertForMaskedLM, ModernBertConfig, ModernBertForMaskedLM

        kind = {"bert": (BertConfig, BertForMaskedLM), "modernbert": (ModernBertConfig, ModernBertForMaskedLM)}
        hidden, layers, heads, intermediate = (SIZES if system == "bert" else MODERNBERT_SIZES)[size]
        config = kind[system][0](hidden_size=hidden, num_hidden_layers=layers, num_attention_heads=heads,
                                 intermediate_size=intermediate, attn_implementation="sdpa")
        if system == "bert":
            config.vocab_size = VOCABULARY
        else:
            config.sparse_prediction = True
        model = kind[system][1](config)

        def loss(call, ids):
            labels = torch.where(torch.rand(ids.shape, device=ids.device) < MASKED, ids, -100)
            return call(input_ids=ids, labels=labels).loss
    return model.cuda().train(), loss


def measure(system, mode, size, length, global_batch, micro_batch):
    torch.manual_seed(0)
    model, loss = build(system, size, length)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    call = torch.compile(model, dynamic=False) if mode == "compile" else model
    ids = torch.randint(1000, 30000, (micro_batch, length), device="cuda")

    def step():
        for _ in range(global_batch // micro_batch):
            with torch.autocast("cuda", torch.bfloat16):
                value = loss(call, ids)
            value.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=False)

    step(), step()
    torch.cuda.synchronize()
    steps, start = 3, time.perf_counter()
    for _ in range(steps):
        step()
    torch.cuda.synchronize()
    seconds = (time.perf_counter() - start) / steps
    return {"system": system, "mode": mode, "size": size, "seq_len": length, "micro_batch": micro_batch,
            "samples_per_s": global_batch / seconds, "real_tokens_per_s": global_batch * length / seconds,
            "peak_memory_gib": torch.cuda.max_memory_allocated() / 2**30, "torch": torch.__version__}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("system", choices=["bert", "modernbert", "mosaicbert"])
    parser.add_argument("mode", choices=["eager", "compile"])
    parser.add_argument("--size", choices=list(SIZES), default="base")
    parser.add_argument("--seq", type=int, default=128)
    parser.add_argument("--batch", type=int, default=4096)
    arguments = parser.parse_args()
    torch.set_float32_matmul_precision("high")
    micro_batch = LARGEST_MICRO_BATCH
    while True:
        try:
            result = measure(arguments.system, arguments.mode, arguments.size, arguments.seq, arguments.batch, micro_batch)
            break
        except torch.OutOfMemoryError:
            torch._dynamo.reset()
            torch.cuda.empty_cache()
            micro_batch //= 2
    print(json.dumps(result))


if __name__ == "__main__":
    main()
