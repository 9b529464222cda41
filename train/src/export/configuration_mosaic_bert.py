"""The architecture of a MosaicBERT, as `config.json` holds it."""

from transformers import PretrainedConfig


class MosaicBertConfig(PretrainedConfig):
    """MosaicBERT (Portes et al. 2023, https://arxiv.org/abs/2312.17482), and what lies between it and BERT.

    Args:
        vocab_size: rows of the word embedding. A multiple of 64, so some at the end may belong to no token.
        hidden_size: width of the residual stream.
        num_hidden_layers: number of layers.
        num_attention_heads: attention heads; `hidden_size` is a multiple of it.
        intermediate_size: width of the feed-forward block, behind the gate.
        max_position_embeddings: longest sequence that learned positions reach; ALiBi knows no limit.
        type_vocab_size: segment embeddings.
        hidden_dropout_prob: share of activations dropped in training.
        attention_probs_dropout_prob: share of attention probabilities dropped in training.
        classifier_dropout: the same before the classifier; `hidden_dropout_prob` where it is None.
        layer_norm_eps: added to the variance in LayerNorm.
        initializer_range: standard deviation of fresh weights.
        position_embedding: "alibi", a penalty on distance (https://arxiv.org/abs/2108.12409), or "learned".
        feed_forward: "geglu", the gated block (https://arxiv.org/abs/2002.05202), or "gelu", BERT's.
        add_pooling_layer: whether the bare model ends with BERT's pooler, which masked-LM pretraining does not train.
    """

    model_type = "mosaic_bert"

    def __init__(
        self,
        vocab_size=30528,
        hidden_size=768,
        num_hidden_layers=12,
        num_attention_heads=12,
        intermediate_size=3072,
        max_position_embeddings=512,
        type_vocab_size=2,
        hidden_dropout_prob=0.1,
        attention_probs_dropout_prob=0.0,
        classifier_dropout=None,
        layer_norm_eps=1e-12,
        initializer_range=0.02,
        position_embedding="alibi",
        feed_forward="geglu",
        add_pooling_layer=False,
        pad_token_id=0,
        tie_word_embeddings=True,
        **kwargs,
    ):
        if hidden_size % num_attention_heads != 0:
            raise ValueError(f"hidden_size is {hidden_size}; it must be a multiple of num_attention_heads = {num_attention_heads}")
        if position_embedding not in ("alibi", "learned"):
            raise ValueError(f"position_embedding is {position_embedding!r}; it must be 'alibi' or 'learned'")
        if feed_forward not in ("geglu", "gelu"):
            raise ValueError(f"feed_forward is {feed_forward!r}; it must be 'geglu' or 'gelu'")
        self.vocab_size = vocab_size
        self.hidden_size = hidden_size
        self.num_hidden_layers = num_hidden_layers
        self.num_attention_heads = num_attention_heads
        self.intermediate_size = intermediate_size
        self.max_position_embeddings = max_position_embeddings
        self.type_vocab_size = type_vocab_size
        self.hidden_dropout_prob = hidden_dropout_prob
        self.attention_probs_dropout_prob = attention_probs_dropout_prob
        self.classifier_dropout = classifier_dropout
        self.layer_norm_eps = layer_norm_eps
        self.initializer_range = initializer_range
        self.position_embedding = position_embedding
        self.feed_forward = feed_forward
        self.add_pooling_layer = add_pooling_layer
        super().__init__(pad_token_id=pad_token_id, tie_word_embeddings=tie_word_embeddings, **kwargs)
