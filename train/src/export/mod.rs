//! A trained model as a Hugging Face folder: tensors, `config.json`, tokenizer files and a model card.
//!
//! A BERT becomes what transformers itself calls `bert`. A MosaicBERT, which transformers does not know, brings its Python
//! with it (`configuration_mosaic_bert.py`, `modeling_mosaic_bert.py`), loaded with `trust_remote_code=True`; or it takes
//! the layout of JinaBERT, which computes the same and which serving programs know.

mod card;
mod layout;
mod tokenizer;

use std::io::Write;
use std::path::Path;

use model::ModelConfig;
use model::config::{FeedForwardKind, PositionEmbedding};
use model::tensor_file;
use serde_json::{Map, Value, json};
use tch::Tensor;

use crate::error::Error;
use crate::finetune::Target;
use crate::finetune::saved::SavedTask;
use crate::host;
use crate::model_folder::{ModelFolder, has_masked_lm_head, num_labels, write_folder};

const CONFIGURATION: &str = "configuration_mosaic_bert.py";
const MODELING: &str = "modeling_mosaic_bert.py";
/// The Python that goes with a MosaicBERT.
const PYTHON: [(&str, &str); 2] = [
    (CONFIGURATION, include_str!("configuration_mosaic_bert.py")),
    (MODELING, include_str!("modeling_mosaic_bert.py")),
];
/// Where JinaBERT's own Python lies on the Hugging Face hub; serving programs know the model by this name.
const JINA: &str = "jinaai/jina-bert-implementation";

/// What a folder is written for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// transformers: natively for a BERT, with Python of its own for a MosaicBERT.
    HuggingFace,
    /// JinaBERT: ALiBi and GeGLU behind three maps to queries, keys and values.
    JinaBert,
}

/// The computation that a folder says it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Architecture {
    /// transformers' `bert`.
    Bert,
    /// `mosaic_bert`, with its Python beside it.
    MosaicBert,
    /// `bert` as JinaBERT's Python understands it.
    JinaBert,
}

/// Which heads a model has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Heads {
    pub(crate) masked_lm: bool,
    pub(crate) num_labels: Option<i64>,
    pub(crate) pooler: bool,
}

/// Writes the model to the folder `out`, and says as what.
///
/// # Errors
/// [`Error::Export`] where the format does not fit the model, [`Error::OutExists`], or whatever kept a file from being
/// written. `out` is there whole or not at all.
pub fn export(folder: &ModelFolder, out: &Path, format: Format) -> Result<Architecture, Error> {
    let config = &folder.config;
    let architecture = architecture(folder, format)?;
    let tensors = folder.tensors()?;
    let heads = Heads {
        masked_lm: has_masked_lm_head(&tensors),
        num_labels: num_labels(&tensors),
        pooler: tensors.iter().any(|(name, _)| name.starts_with("bert.pooler.")),
    };
    let tensors: Vec<(String, Tensor)> = match architecture {
        Architecture::Bert => tensors,
        Architecture::MosaicBert => layout::mosaic_bert(tensors),
        Architecture::JinaBert => layout::jina_bert(tensors),
    };
    let mut json = match architecture {
        Architecture::Bert => bert(config, heads),
        Architecture::MosaicBert => mosaic_bert(config, heads),
        Architecture::JinaBert => jina_bert(config, heads),
    };
    if let Some(count) = heads.num_labels {
        json.append(&mut labels(count, SavedTask::read(&folder.path)?.map(|task| task.target)));
    }
    write_folder(out, |dir| {
        let write = |name: &str, text: &str| {
            loader::atomic::write_file(&dir.join(name), |out| out.write_all(text.as_bytes()))
        };
        write("config.json", &pretty(&json))?;
        tensor_file::write(
            &dir.join("model.safetensors"),
            tensors.iter().map(|(name, t)| (name.as_str(), t)),
        )?;
        for (name, text) in tokenizer::files(&folder.tokenizer, config)? {
            write(&name, &text)?;
        }
        if architecture == Architecture::MosaicBert {
            for (name, text) in PYTHON {
                write(name, text)?;
            }
        }
        Ok(write("README.md", &card::text(folder, architecture, heads))?)
    })?;
    Ok(architecture)
}

/// What the model is in `format`.
fn architecture(folder: &ModelFolder, format: Format) -> Result<Architecture, Error> {
    use {FeedForwardKind::*, PositionEmbedding::*};
    match (format, folder.config.position_embedding, folder.config.feed_forward) {
        (Format::HuggingFace, Learned, Gelu) => Ok(Architecture::Bert),
        (Format::HuggingFace, ..) => Ok(Architecture::MosaicBert),
        (Format::JinaBert, Alibi, Geglu) => Ok(Architecture::JinaBert),
        (Format::JinaBert, ..) => Err(Error::Export {
            path: folder.path.clone(),
            format: "jina-bert",
            reason: "JinaBERT has ALiBi and GeGLU, and this model has not both; use --format hf".to_owned(),
        }),
    }
}

/// Keys that all three have. `vocab_size` counts the rows, some of which at the end may belong to no token.
fn sizes(config: &ModelConfig) -> Map<String, Value> {
    let json = json!({
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size,
        "num_hidden_layers": config.num_hidden_layers,
        "num_attention_heads": config.num_attention_heads,
        "intermediate_size": config.intermediate_size,
        "max_position_embeddings": config.max_position_embeddings,
        "type_vocab_size": config.type_vocab_size,
        "hidden_dropout_prob": config.hidden_dropout_prob,
        "attention_probs_dropout_prob": config.attention_probs_dropout_prob,
        "layer_norm_eps": config.layer_norm_eps,
        "initializer_range": config.initializer_range,
        "pad_token_id": 0,
        "tie_word_embeddings": true,
        "torch_dtype": "float32",
        "tessera_version": host::PROGRAM,
    });
    let Value::Object(map) = json else { unreachable!("it is written as an object") };
    map
}

/// What a classifier's outputs are: the classes by the names that the data had for them, where that is known, or a number.
fn labels(count: i64, target: Option<Target>) -> Map<String, Value> {
    let regression = target == Some(Target::Number);
    let names = match target {
        Some(Target::Classes(names)) if names.len() as i64 == count => names,
        _ => (0..count).map(|label| format!("LABEL_{label}")).collect(),
    };
    let mut map = Map::new();
    // Hugging Face counts the entries of this map.
    let by_id = names.iter().enumerate().map(|(id, name)| (id.to_string(), json!(name))).collect();
    let by_name = names.iter().enumerate().map(|(id, name)| (name.clone(), json!(id))).collect();
    map.insert("id2label".to_owned(), Value::Object(by_id));
    map.insert("label2id".to_owned(), Value::Object(by_name));
    let problem = if regression { "regression" } else { "single_label_classification" };
    map.insert("problem_type".to_owned(), json!(problem));
    map
}

/// `config.json` of transformers' own BERT.
fn bert(config: &ModelConfig, heads: Heads) -> Map<String, Value> {
    let mut map = Map::new();
    map.insert("architectures".to_owned(), json!([class("Bert", heads)]));
    map.insert("model_type".to_owned(), json!("bert"));
    map.append(&mut sizes(config));
    map.insert("hidden_act".to_owned(), json!("gelu"));
    map.insert("position_embedding_type".to_owned(), json!("absolute"));
    map
}

/// `config.json` of a model whose Python lies beside it.
fn mosaic_bert(config: &ModelConfig, heads: Heads) -> Map<String, Value> {
    let module = |name: &str| name.trim_end_matches(".py").to_owned();
    let (configuration, modeling) = (module(CONFIGURATION), module(MODELING));
    let mut map = Map::new();
    map.insert("architectures".to_owned(), json!([class("MosaicBert", heads)]));
    map.insert("model_type".to_owned(), json!("mosaic_bert"));
    map.insert(
        "auto_map".to_owned(),
        json!({
            "AutoConfig": format!("{configuration}.MosaicBertConfig"),
            "AutoModel": format!("{modeling}.MosaicBertModel"),
            "AutoModelForMaskedLM": format!("{modeling}.MosaicBertForMaskedLM"),
            "AutoModelForSequenceClassification": format!("{modeling}.MosaicBertForSequenceClassification"),
        }),
    );
    map.append(&mut sizes(config));
    map.insert("position_embedding".to_owned(), json!(config.position_embedding));
    map.insert("feed_forward".to_owned(), json!(config.feed_forward));
    map.insert("add_pooling_layer".to_owned(), json!(heads.pooler));
    map
}

/// `config.json` of a JinaBERT. The Python is named, not contained: it is not ours.
fn jina_bert(config: &ModelConfig, heads: Heads) -> Map<String, Value> {
    let mut map = Map::new();
    // Serving programs tell it from a BERT by this key.
    map.insert("_name_or_path".to_owned(), json!(JINA));
    map.insert("architectures".to_owned(), json!([class("JinaBert", heads)]));
    map.insert("model_type".to_owned(), json!("bert"));
    map.insert(
        "auto_map".to_owned(),
        json!({
            "AutoConfig": format!("{JINA}--configuration_bert.JinaBertConfig"),
            "AutoModel": format!("{JINA}--modeling_bert.JinaBertModel"),
            "AutoModelForMaskedLM": format!("{JINA}--modeling_bert.JinaBertForMaskedLM"),
            "AutoModelForSequenceClassification": format!("{JINA}--modeling_bert.JinaBertForSequenceClassification"),
        }),
    );
    map.append(&mut sizes(config));
    map.insert("hidden_act".to_owned(), json!("gelu"));
    map.insert("position_embedding_type".to_owned(), json!("alibi"));
    map.insert("feed_forward_type".to_owned(), json!("geglu"));
    map.insert("emb_pooler".to_owned(), json!("mean"));
    map
}

/// The class that holds all the heads of a model.
fn class(family: &str, heads: Heads) -> String {
    match heads {
        Heads { num_labels: Some(_), .. } => format!("{family}ForSequenceClassification"),
        Heads { masked_lm: true, .. } => format!("{family}ForMaskedLM"),
        _ => format!("{family}Model"),
    }
}

fn pretty(map: &Map<String, Value>) -> String {
    serde_json::to_string_pretty(map).expect("strings, numbers and maps") + "\n"
}
