//! Folders as Hugging Face lays them out, made of the golden tensors.

use std::fs;
use std::path::{Path, PathBuf};

use model::tensor_file::{self, TensorFile};
use serde_json::{Value, json};
use tch::{Kind, Tensor};

/// Tensors that another implementation computed, in float64.
pub(crate) struct Golden {
    tensors: Vec<(String, Tensor)>,
    config: Value,
}

impl Golden {
    pub(crate) fn read(name: &str) -> Golden {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../model/tests/golden").join(name);
        let file = TensorFile::read(&path).unwrap();
        Golden { config: serde_json::from_str(&file.metadata["config"]).unwrap(), tensors: file.tensors }
    }

    pub(crate) fn get(&self, name: &str) -> &Tensor {
        &self.tensors.iter().find(|(have, _)| have == name).unwrap().1
    }

    /// The parameters in float32, by the names of their checkpoint.
    pub(crate) fn parameters(&self) -> Vec<(String, Tensor)> {
        self.tensors
            .iter()
            .filter_map(|(name, t)| Some((name.strip_prefix("param.")?.to_owned(), t.to_kind(Kind::Float))))
            .collect()
    }

    /// `config.json`, with some keys set.
    pub(crate) fn config(&self, set: &[(&str, Value)]) -> Value {
        let keys = [
            "vocab_size",
            "hidden_size",
            "num_hidden_layers",
            "num_attention_heads",
            "intermediate_size",
            "max_position_embeddings",
        ];
        let mut config = json!({ "model_type": "bert", "hidden_act": "gelu" });
        for key in keys {
            if let Some(value) = self.config.get(key) {
                config[key] = value.clone();
            }
        }
        for (key, value) in set {
            config[*key] = value.clone();
        }
        config
    }
}

/// A folder with these tensors and a vocabulary of `words` words.
pub(crate) fn folder(dir: &Path, config: &Value, tensors: &[(String, Tensor)], words: usize) -> PathBuf {
    fs::create_dir_all(dir).unwrap();
    fs::write(dir.join("config.json"), config.to_string()).unwrap();
    fs::write(dir.join("vocab.txt"), vocabulary(words).join("\n") + "\n").unwrap();
    let entries = tensors.iter().map(|(name, tensor)| (name.as_str(), tensor));
    tensor_file::write(&dir.join("model.safetensors"), entries).unwrap();
    dir.to_owned()
}

/// The special tokens, then `w5`, `w6` and so on: a word's number is its id.
pub(crate) fn vocabulary(words: usize) -> Vec<String> {
    let special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"].map(str::to_owned);
    special.into_iter().chain((5..words).map(|id| format!("w{id}"))).collect()
}

/// A `tokenizer.json` over [`vocabulary`].
pub(crate) fn tokenizer_json(words: usize) -> String {
    let vocabulary: serde_json::Map<String, Value> =
        vocabulary(words).into_iter().enumerate().map(|(id, word)| (word, json!(id))).collect();
    let added: Vec<Value> = (0..5)
        .map(|id| {
            json!({ "id": id, "content": super::hugging_face::vocabulary(5)[id], "single_word": false, "lstrip": false,
                    "rstrip": false, "normalized": false, "special": true })
        })
        .collect();
    json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": added,
        "normalizer": { "type": "BertNormalizer", "clean_text": true, "handle_chinese_chars": true,
                        "strip_accents": null, "lowercase": true },
        "pre_tokenizer": { "type": "BertPreTokenizer" },
        "post_processor": { "type": "BertProcessing", "sep": ["[SEP]", 3], "cls": ["[CLS]", 2] },
        "decoder": { "type": "WordPiece", "prefix": "##", "cleanup": true },
        "model": { "type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##",
                   "max_input_chars_per_word": 100, "vocab": vocabulary },
    })
    .to_string()
}
