//! `config.json`, as Hugging Face writes it, becomes a [`ModelConfig`].

use std::fs;
use std::path::Path;

use model::ModelConfig;
use model::config::{FeedForwardKind, LayerNormPrecision, Padding, PositionEmbedding};
use serde_json::{Map, Value};

use super::names::Layout;
use crate::error::Error;

/// Model types whose computation is one of ours. JinaBERT and MosaicBERT say `bert` too.
const MODEL_TYPES: [&str; 2] = ["bert", "mosaic_bert"];

/// Reads `config.json`.
pub(super) fn read(from: &Path) -> Result<Map<String, Value>, Error> {
    let path = from.join("config.json");
    let text = fs::read(&path).map_err(|source| Error::Read { path: path.clone(), source })?;
    match serde_json::from_slice(&text).map_err(|source| Error::Json { path: path.clone(), source })? {
        Value::Object(map) => Ok(map),
        _ => Err(Error::Import { path: from.to_owned(), reason: "config.json is not an object".to_owned() }),
    }
}

/// The architecture that `json` describes and the tensors have the layout of.
///
/// # Errors
/// [`Error::Import`] naming the first key whose value means another computation than ours, or is missing.
pub(super) fn of(from: &Path, json: &Map<String, Value>, layout: Layout) -> Result<ModelConfig, Error> {
    let refuse = |key: &str, found: &Value, expected: &str| Error::Import {
        path: from.to_owned(),
        reason: format!("in config.json {key} is {found}, expected {expected}"),
    };
    let expect = |key: &str, expected: &[Value]| match json.get(key) {
        Some(found) if !expected.contains(found) => {
            let expected: Vec<String> = expected.iter().map(Value::to_string).collect();
            Err(refuse(key, found, &expected.join(" or ")))
        }
        _ => Ok(()),
    };
    expect("model_type", &MODEL_TYPES.map(Value::from))?;
    // Only the exact GELU is computed.
    expect("hidden_act", &[Value::from("gelu")])?;
    let positions = match layout {
        Layout::Bert => [Value::from("absolute")].as_slice().to_vec(),
        Layout::JinaBert => vec![Value::from("alibi")],
        // MosaicML's configuration says `absolute` and means nothing by it.
        Layout::MosaicBert { .. } => vec![Value::from("absolute"), Value::from("alibi")],
    };
    expect("position_embedding_type", &positions)?;
    expect("feed_forward_type", &[Value::from("geglu")])?;
    for key in ["is_decoder", "add_cross_attention", "use_qk_norm"] {
        expect(key, &[Value::from(false)])?;
    }

    let size = |key: &str, default: Option<i64>| match (json.get(key), default) {
        (Some(value), _) => value.as_i64().ok_or_else(|| refuse(key, value, "a whole number")),
        (None, Some(default)) => Ok(default),
        (None, None) => Err(refuse(key, &Value::Null, "a whole number")),
    };
    let number = |key: &str, default: f64| match json.get(key) {
        Some(value) => value.as_f64().ok_or_else(|| refuse(key, value, "a number")),
        None => Ok(default),
    };
    let base = ModelConfig::bert_base();
    let (position_embedding, feed_forward) = match layout {
        Layout::Bert => (PositionEmbedding::Learned, FeedForwardKind::Gelu),
        Layout::JinaBert => (PositionEmbedding::Alibi, FeedForwardKind::Geglu),
        Layout::MosaicBert { learned, gated } => (
            if learned { PositionEmbedding::Learned } else { PositionEmbedding::Alibi },
            if gated { FeedForwardKind::Geglu } else { FeedForwardKind::Gelu },
        ),
    };
    let config = ModelConfig {
        vocab_size: size("vocab_size", None)?,
        hidden_size: size("hidden_size", None)?,
        num_hidden_layers: size("num_hidden_layers", None)?,
        num_attention_heads: size("num_attention_heads", None)?,
        intermediate_size: size("intermediate_size", None)?,
        max_position_embeddings: size("max_position_embeddings", Some(base.max_position_embeddings))?,
        type_vocab_size: size("type_vocab_size", Some(base.type_vocab_size))?,
        hidden_dropout_prob: number("hidden_dropout_prob", base.hidden_dropout_prob)?,
        attention_probs_dropout_prob: number(
            "attention_probs_dropout_prob",
            base.attention_probs_dropout_prob,
        )?,
        layer_norm_eps: number("layer_norm_eps", base.layer_norm_eps)?,
        initializer_range: number("initializer_range", base.initializer_range)?,
        position_embedding,
        feed_forward,
        // The results are the same, and nothing is computed on padding.
        padding: Padding::Unpadded,
        layer_norm: match layout {
            Layout::Bert => LayerNormPrecision::Full,
            Layout::JinaBert | Layout::MosaicBert { .. } => LayerNormPrecision::Low,
        },
    };
    config.validate()?;
    Ok(config)
}
