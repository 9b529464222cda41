"""MosaicBERT in plain PyTorch, for transformers.

Architecture: Portes et al. 2023, https://arxiv.org/abs/2312.17482. A BERT with LayerNorm behind every residual sum, in
which ALiBi (https://arxiv.org/abs/2108.12409) takes the place of position embeddings and GeGLU
(https://arxiv.org/abs/2002.05202) that of the feed-forward block. Parameters have the names of MosaicML's checkpoints.

Attention is `scaled_dot_product_attention`; nothing but torch and transformers is needed.

Letters in shapes: B sequences, S tokens of the longest, D `hidden_size`, H heads, K = D / H, I `intermediate_size`,
V `vocab_size`, L labels.
"""

import math

import torch
import torch.nn.functional as F
from torch import nn
from transformers import PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPooling, MaskedLMOutput, SequenceClassifierOutput

from .configuration_mosaic_bert import MosaicBertConfig


def alibi_slopes(heads):
    """The penalty on distance of each head, [H].

    2^(-8/H), 2^(-16/H), ... where H is a power of two; otherwise those of the next lower power, then every other one of
    twice that power, as the authors of ALiBi do it.
    """
    def powers(n):
        return [2.0 ** (-8.0 * (i + 1) / n) for i in range(n)]

    lower = 2 ** math.floor(math.log2(heads))
    return powers(lower) + powers(2 * lower)[0::2][: heads - lower]


def attention_bias(config, attention_mask, length, dtype, device):
    """What is added to the attention scores: [B or 1, H or 1, S, S], or None where there is nothing to add.

    Padded keys get the lowest number of the type, not minus infinity: a sequence of nothing but padding yields numbers.
    """
    bias = None
    if config.position_embedding == "alibi":
        slopes = torch.tensor(alibi_slopes(config.num_attention_heads), dtype=torch.float32, device=device)  # [H]
        positions = torch.arange(length, dtype=torch.float32, device=device)  # [S]
        distance = (positions[None, :] - positions[:, None]).abs()  # [S, S]
        bias = (-slopes[:, None, None] * distance)[None].to(dtype)  # [1, H, S, S]
    if attention_mask is not None:
        padded = attention_mask[:, None, None, :] == 0  # [B, 1, 1, S]
        if bias is None:
            bias = torch.zeros(1, 1, length, length, dtype=dtype, device=device)  # [1, 1, S, S]
        bias = bias.masked_fill(padded, torch.finfo(dtype).min)  # [B, H or 1, S, S]
    return bias


class Embeddings(nn.Module):
    """Word, segment and, where positions are learned, position embeddings; LayerNorm; dropout."""

    def __init__(self, config):
        super().__init__()
        self.word_embeddings = nn.Embedding(config.vocab_size, config.hidden_size, padding_idx=config.pad_token_id)
        if config.position_embedding == "learned":
            self.position_embeddings = nn.Embedding(config.max_position_embeddings, config.hidden_size)
        else:
            self.position_embeddings = None
        self.token_type_embeddings = nn.Embedding(config.type_vocab_size, config.hidden_size)
        self.LayerNorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(self, input_ids=None, token_type_ids=None, inputs_embeds=None):
        x = self.word_embeddings(input_ids) if inputs_embeds is None else inputs_embeds  # [B, S, D]
        if token_type_ids is None:
            x = x + self.token_type_embeddings.weight[0]  # [B, S, D]
        else:
            x = x + self.token_type_embeddings(token_type_ids)  # [B, S, D]
        if self.position_embeddings is not None:
            length, limit = x.shape[1], self.position_embeddings.num_embeddings
            if length > limit:
                raise ValueError(f"the sequence has {length} tokens; this model's positions reach {limit}")
            x = x + self.position_embeddings.weight[:length]  # [B, S, D]
        return self.dropout(self.LayerNorm(x))


class SelfAttention(nn.Module):
    """`softmax(Q K^T / sqrt(K) + bias) V` over one map to queries, keys and values."""

    def __init__(self, config):
        super().__init__()
        self.heads = config.num_attention_heads
        self.dropout = config.attention_probs_dropout_prob
        self.Wqkv = nn.Linear(config.hidden_size, 3 * config.hidden_size)

    def forward(self, x, bias):
        batch, length, width = x.shape
        qkv = self.Wqkv(x).view(batch, length, 3, self.heads, width // self.heads)  # [B, S, 3, H, K]
        query, key, value = qkv.permute(2, 0, 3, 1, 4)  # 3 x [B, H, S, K]
        dropout = self.dropout if self.training else 0.0
        context = F.scaled_dot_product_attention(query, key, value, attn_mask=bias, dropout_p=dropout)  # [B, H, S, K]
        return context.transpose(1, 2).reshape(batch, length, width)  # [B, S, D]


class SelfOutput(nn.Module):
    """The output projection, added to the input, and the LayerNorm; also what follows BERT's own feed-forward block."""

    def __init__(self, config, inputs):
        super().__init__()
        self.dense = nn.Linear(inputs, config.hidden_size)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)
        self.LayerNorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    def forward(self, y, x):
        return self.LayerNorm(x + self.dropout(self.dense(y)))  # [B, S, D]


class Attention(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.self = SelfAttention(config)
        self.output = SelfOutput(config, config.hidden_size)

    def forward(self, x, bias):
        return self.output(self.self(x, bias), x)  # [B, S, D]


class GatedFeedForward(nn.Module):
    """`LN(x + W_o (gelu(W_g x) * W_u x))`; the first half of `gated_layers` is W_g, the second W_u."""

    def __init__(self, config):
        super().__init__()
        self.gated_layers = nn.Linear(config.hidden_size, 2 * config.intermediate_size, bias=False)
        self.wo = nn.Linear(config.intermediate_size, config.hidden_size)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)
        self.layernorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    def forward(self, x):
        gate, value = self.gated_layers(x).chunk(2, dim=-1)  # 2 x [B, S, I]
        return self.layernorm(x + self.wo(self.dropout(F.gelu(gate) * value)))  # [B, S, D]


class Intermediate(nn.Module):
    """The first half of BERT's feed-forward block."""

    def __init__(self, config):
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.intermediate_size)

    def forward(self, x):
        return F.gelu(self.dense(x))  # [B, S, I]


class Layer(nn.Module):
    """Attention, then feed-forward."""

    def __init__(self, config):
        super().__init__()
        self.attention = Attention(config)
        if config.feed_forward == "geglu":
            self.mlp = GatedFeedForward(config)
        else:
            self.mlp = None
            self.intermediate = Intermediate(config)
            self.output = SelfOutput(config, config.intermediate_size)

    def forward(self, x, bias):
        x = self.attention(x, bias)  # [B, S, D]
        return self.output(self.intermediate(x), x) if self.mlp is None else self.mlp(x)  # [B, S, D]


class Encoder(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.layer = nn.ModuleList(Layer(config) for _ in range(config.num_hidden_layers))


class Pooler(nn.Module):
    """`tanh(dense(h))` of the first token."""

    def __init__(self, config):
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(self, hidden):
        return torch.tanh(self.dense(hidden[:, 0]))  # [B, D]


class MosaicBertPreTrainedModel(PreTrainedModel):
    """Loading, saving and fresh weights."""

    config_class = MosaicBertConfig
    base_model_prefix = "bert"
    _supports_sdpa = True

    def _init_weights(self, module):
        """As BERT: N(0, 0.02^2), zero biases, the padding token's embedding zero."""
        if isinstance(module, (nn.Linear, nn.Embedding)):
            nn.init.normal_(module.weight, mean=0.0, std=self.config.initializer_range)
        if isinstance(module, nn.LayerNorm):
            nn.init.ones_(module.weight)
        if isinstance(module, (nn.Linear, nn.LayerNorm)) and module.bias is not None:
            nn.init.zeros_(module.bias)
        if isinstance(module, nn.Embedding) and module.padding_idx is not None:
            nn.init.zeros_(module.weight[module.padding_idx])


class MosaicBertModel(MosaicBertPreTrainedModel):
    """The encoder: a vector for each token."""

    _keys_to_ignore_on_load_unexpected = [r"^cls\.", r"^classifier\.", r"pooler\."]

    def __init__(self, config, add_pooling_layer=None):
        super().__init__(config)
        self.embeddings = Embeddings(config)
        self.encoder = Encoder(config)
        pooled = config.add_pooling_layer if add_pooling_layer is None else add_pooling_layer
        self.pooler = Pooler(config) if pooled else None
        self.post_init()

    def get_input_embeddings(self):
        return self.embeddings.word_embeddings

    def set_input_embeddings(self, value):
        self.embeddings.word_embeddings = value

    def forward(
        self,
        input_ids=None,
        attention_mask=None,
        token_type_ids=None,
        inputs_embeds=None,
        output_hidden_states=None,
        output_attentions=None,
        return_dict=None,
        **kwargs,
    ):
        """
        Args:
            input_ids: [B, S]. Either these or `inputs_embeds`.
            attention_mask: [B, S], 0 where a token is padding; None is no padding.
            token_type_ids: segments, [B, S]; None is segment 0 throughout.
            inputs_embeds: word embeddings, [B, S, D].
            output_hidden_states: also return the embeddings and the output of every layer, each [B, S, D].

        Returns:
            `last_hidden_state` [B, S, D], `pooler_output` [B, D] where there is a pooler, `hidden_states`.
        """
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("give either input_ids or inputs_embeds")
        if output_attentions:
            raise ValueError("attention probabilities are not kept: output_attentions is not supported")
        if output_hidden_states is None:
            output_hidden_states = self.config.output_hidden_states
        x = self.embeddings(input_ids, token_type_ids, inputs_embeds)  # [B, S, D]
        bias = attention_bias(self.config, attention_mask, x.shape[1], x.dtype, x.device)  # [B, H, S, S]
        hidden_states = [x]
        for layer in self.encoder.layer:
            x = layer(x, bias)  # [B, S, D]
            hidden_states.append(x)
        output = BaseModelOutputWithPooling(
            last_hidden_state=x,
            pooler_output=None if self.pooler is None else self.pooler(x),
            hidden_states=tuple(hidden_states) if output_hidden_states else None,
        )
        return output if wants_dict(self.config, return_dict) else output.to_tuple()


class PredictionTransform(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)
        self.LayerNorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    def forward(self, hidden):
        return self.LayerNorm(F.gelu(self.dense(hidden)))  # [B, S, D]


class Predictions(nn.Module):
    """`decoder(LN(gelu(dense(h))))`; the decoder's weight is the word embedding."""

    def __init__(self, config):
        super().__init__()
        self.transform = PredictionTransform(config)
        self.decoder = nn.Linear(config.hidden_size, config.vocab_size)

    def forward(self, hidden):
        return self.decoder(self.transform(hidden))  # [B, S, V]


class MaskedLmHead(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.predictions = Predictions(config)

    def forward(self, hidden):
        return self.predictions(hidden)  # [B, S, V]


class MosaicBertForMaskedLM(MosaicBertPreTrainedModel):
    """The masked language model."""

    _tied_weights_keys = {"cls.predictions.decoder.weight": "bert.embeddings.word_embeddings.weight"}

    def __init__(self, config):
        super().__init__(config)
        self.bert = MosaicBertModel(config, add_pooling_layer=False)
        self.cls = MaskedLmHead(config)
        self.post_init()

    def get_output_embeddings(self):
        return self.cls.predictions.decoder

    def set_output_embeddings(self, value):
        self.cls.predictions.decoder = value

    def forward(self, input_ids=None, attention_mask=None, token_type_ids=None, inputs_embeds=None, labels=None, return_dict=None, **kwargs):
        """
        Args:
            labels: [B, S], the token where it is to be predicted and -100 elsewhere. The other arguments are
                `MosaicBertModel`'s.

        Returns:
            `logits` [B, S, V]; `loss`, the mean cross-entropy of the labelled tokens in nats.
        """
        output = self.bert(input_ids, attention_mask, token_type_ids, inputs_embeds, return_dict=True, **kwargs)
        logits = self.cls(output.last_hidden_state)  # [B, S, V]
        loss = None
        if labels is not None:
            loss = F.cross_entropy(at_least_float32(logits).flatten(0, 1), labels.flatten())  # []
        result = MaskedLMOutput(loss=loss, logits=logits, hidden_states=output.hidden_states)
        return result if wants_dict(self.config, return_dict) else result.to_tuple()


class MosaicBertForSequenceClassification(MosaicBertPreTrainedModel):
    """Classification or regression of whole sequences from the pooled first token."""

    _keys_to_ignore_on_load_unexpected = [r"^cls\."]

    def __init__(self, config):
        super().__init__(config)
        self.num_labels = config.num_labels
        self.bert = MosaicBertModel(config, add_pooling_layer=True)
        dropout = config.hidden_dropout_prob if config.classifier_dropout is None else config.classifier_dropout
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(config.hidden_size, config.num_labels)
        self.post_init()

    def forward(self, input_ids=None, attention_mask=None, token_type_ids=None, inputs_embeds=None, labels=None, return_dict=None, **kwargs):
        """
        Args:
            labels: classes [B]; numbers [B] where there is one label; 0 and 1 [B, L] where `config.problem_type` is
                "multi_label_classification". The other arguments are `MosaicBertModel`'s.

        Returns:
            `logits` [B, L]; `loss`: mean cross-entropy, squared error or binary cross-entropy.
        """
        output = self.bert(input_ids, attention_mask, token_type_ids, inputs_embeds, return_dict=True, **kwargs)
        logits = self.classifier(self.dropout(output.pooler_output))  # [B, L]
        loss = None
        if labels is not None:
            if self.config.problem_type == "multi_label_classification":
                loss = F.binary_cross_entropy_with_logits(logits, labels.to(logits.dtype))
            elif self.config.problem_type == "regression" or self.num_labels == 1:
                loss = F.mse_loss(logits.squeeze(-1), labels.to(logits.dtype).view_as(logits.squeeze(-1)))
            else:
                loss = F.cross_entropy(at_least_float32(logits), labels.view(-1))
        result = SequenceClassifierOutput(loss=loss, logits=logits, hidden_states=output.hidden_states)
        return result if wants_dict(self.config, return_dict) else result.to_tuple()


def at_least_float32(logits):
    """Half types lose too much in a sum over the vocabulary."""
    return logits.float() if logits.dtype in (torch.float16, torch.bfloat16) else logits


def wants_dict(config, return_dict):
    """Whether the output has names: what the call says, else what the configuration says."""
    return getattr(config, "return_dict", True) if return_dict is None else return_dict
