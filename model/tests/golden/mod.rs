//! A file of reference tensors: parameters (`param.NAME`), an input, and what another implementation made of them.

use std::collections::HashMap;
use std::path::Path;

use model::config::{FeedForwardKind, LayerNormPrecision, Padding, PositionEmbedding};
use model::tensor_file::TensorFile;
use model::{Head, ModelConfig, Parameters, TokenBatch};
use tch::{Device, Kind, Tensor};

/// The label of a token that is not masked.
const NOT_MASKED: i64 = -100;

/// A file of reference tensors.
pub(crate) struct Golden {
    pub(crate) config: ModelConfig,
    pub(crate) tensors: HashMap<String, Tensor>,
    given: Vec<(String, Tensor)>,
    pub(crate) origin: String,
}

impl Golden {
    /// `None` for a file that is of something else than a model.
    pub(crate) fn read(path: &Path) -> Option<Golden> {
        let file = TensorFile::read(path).unwrap();
        let mut tensors: HashMap<String, Tensor> = file.tensors.into_iter().collect();
        let word = "param.bert.embeddings.word_embeddings.weight";
        if !(tensors.contains_key(word) && tensors.contains_key("input_ids")) {
            return None;
        }
        // The decoder's weight is the word embedding; a file may name it twice.
        if let Some(decoder) = tensors.remove("param.cls.predictions.decoder.weight") {
            assert!(decoder.equal(&tensors[word]), "{}: the decoder is not tied", path.display());
        }
        // So may Hugging Face's for the decoder's bias.
        if tensors.contains_key("param.cls.predictions.bias") {
            tensors.remove("param.cls.predictions.decoder.bias");
        }
        let metadata = file.metadata.get("config").expect("metadata `config`");
        let metadata: serde_json::Value = serde_json::from_str(metadata).expect("metadata `config` is JSON");
        let parameters: Vec<(String, Tensor)> = tensors
            .iter()
            .filter_map(|(name, t)| Some((name.strip_prefix("param.")?.to_owned(), t.shallow_clone())))
            .collect();
        let config = architecture(&parameters, &metadata);
        Some(Golden { config, tensors, given: parameters, origin: path.display().to_string() })
    }

    /// The parameters: float64 on the CPU, else float32.
    pub(crate) fn parameters(&self, config: &ModelConfig, head: Head, device: Device) -> Parameters {
        let given = self.given.iter().map(|(name, tensor)| (name.clone(), tensor.shallow_clone()));
        let kind = if device == Device::Cpu { Kind::Double } else { Kind::Float };
        Parameters::from_tensors(config, head, given.collect(), &self.origin, device, kind).unwrap()
    }

    /// The number of tokens of each sequence, and the places of real tokens in the flattened `[B, S]`.
    pub(crate) fn sequences(&self) -> (Vec<i32>, Tensor) {
        let ids = &self.tensors["input_ids"];
        let mask = match self.tensors.get("attention_mask") {
            Some(mask) => mask.ne(0),
            None => ids.ones_like().ne(0),
        }; // [B, S]
        let lengths = Vec::<i64>::try_from(mask.sum_dim_intlist(1, false, Kind::Int64)).unwrap();
        for (b, &length) in (0..).zip(&lengths) {
            let prefix = mask.get(b).narrow(0, 0, length).all();
            assert_eq!(prefix.int64_value(&[]), 1, "{}: sequence {b} has padding inside", self.origin);
        }
        (lengths.iter().map(|&n| n as i32).collect(), mask.flatten(0, -1).nonzero().flatten(0, -1))
    }

    /// The tokens at `real`, packed.
    pub(crate) fn batch(&self, lengths: &[i32], real: &Tensor, device: Device) -> TokenBatch {
        let packed = |name: &str| {
            let tensor = self.tensors.get(name)?.flatten(0, -1).index_select(0, real); // [T]
            Some(Vec::<i64>::try_from(tensor.to_kind(Kind::Int64)).unwrap())
        };
        let narrow = |ids: Vec<i64>| -> Vec<i32> { ids.into_iter().map(|id| id as i32).collect() };
        let mut cu_seqlens = vec![0];
        cu_seqlens.extend(lengths.iter().scan(0, |end, length| {
            *end += length;
            Some(*end)
        }));
        let token_labels =
            if self.tensors["labels"].dim() == 2 { packed("labels").unwrap() } else { Vec::new() };
        let (positions, labels): (Vec<i64>, Vec<i64>) =
            (0..).zip(token_labels).filter(|&(_, label)| label != NOT_MASKED).unzip();
        let ids = narrow(packed("input_ids").unwrap());
        let batch = TokenBatch::from_host(&ids, &cu_seqlens, &positions, &labels, device).unwrap();
        match packed("token_type_ids") {
            Some(types) => batch.with_token_types(&narrow(types)),
            None => batch,
        }
    }
}

/// What architecture these parameters are of.
fn architecture(parameters: &[(String, Tensor)], metadata: &serde_json::Value) -> ModelConfig {
    let shape = |name: &str| parameters.iter().find(|(n, _)| n == name).map(|(_, tensor)| tensor.size());
    let number = |key: &str| metadata.get(key).and_then(serde_json::Value::as_i64);
    let word = shape("bert.embeddings.word_embeddings.weight").expect("word embeddings");
    let layers = parameters
        .iter()
        .filter_map(|(name, _)| {
            name.strip_prefix("bert.encoder.layer.")?.split('.').next()?.parse::<i64>().ok()
        })
        .max();
    let positions = shape("bert.embeddings.position_embeddings.weight").map(|shape| shape[0]);
    let gated = shape("bert.encoder.layer.0.mlp.wo.weight").map(|shape| shape[1]);
    let plain = shape("bert.encoder.layer.0.intermediate.dense.weight").map(|shape| shape[0]);
    ModelConfig {
        vocab_size: word[0],
        hidden_size: word[1],
        num_hidden_layers: layers.expect("at least one layer") + 1,
        num_attention_heads: number("num_attention_heads").expect("num_attention_heads in the metadata"),
        intermediate_size: gated.or(plain).expect("a feed-forward block"),
        max_position_embeddings: positions.unwrap_or(512),
        type_vocab_size: shape("bert.embeddings.token_type_embeddings.weight").expect("segment embeddings")
            [0],
        hidden_dropout_prob: 0.0,
        attention_probs_dropout_prob: 0.0,
        layer_norm_eps: metadata.get("layer_norm_eps").and_then(serde_json::Value::as_f64).unwrap_or(1e-12),
        initializer_range: 0.02,
        position_embedding: match positions {
            Some(_) => PositionEmbedding::Learned,
            None => PositionEmbedding::Alibi,
        },
        feed_forward: if gated.is_some() { FeedForwardKind::Geglu } else { FeedForwardKind::Gelu },
        padding: Padding::Unpadded,
        layer_norm: LayerNormPrecision::Full,
    }
}
