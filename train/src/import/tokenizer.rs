//! The tokenizer of an imported model: its `tokenizer.json`, or one made of its `vocab.txt`.

use std::fs;
use std::path::Path;

use ingest::TokenizerFile;
use serde_json::{Map, Value, json};

use crate::error::Error;

const JSON: &str = "tokenizer.json";
const VOCABULARY: &str = "vocab.txt";

/// The tokenizer in `given`, else in the folder `from`.
///
/// # Errors
/// [`Error::Import`] when there is none, [`Error::Ingest`] when it cannot be used.
pub(super) fn find(from: &Path, given: Option<&Path>) -> Result<TokenizerFile, Error> {
    if let Some(path) = given {
        return Ok(TokenizerFile::read(path)?);
    }
    if from.join(JSON).exists() {
        return Ok(TokenizerFile::read(&from.join(JSON))?);
    }
    let path = from.join(VOCABULARY);
    if !path.exists() {
        let reason = format!("it has neither {JSON} nor {VOCABULARY}; give one with --tokenizer FILE");
        return Err(Error::Import { path: from.to_owned(), reason });
    }
    let text = fs::read_to_string(&path).map_err(|source| Error::Read { path: path.clone(), source })?;
    let options = match fs::read(from.join("tokenizer_config.json")) {
        Ok(text) => {
            serde_json::from_slice(&text).map_err(|source| Error::Json { path: path.clone(), source })?
        }
        Err(_) => Map::new(),
    };
    let json = serde_json::to_vec_pretty(&of_vocabulary(&text, &options)).expect("strings and numbers");
    Ok(TokenizerFile::from_bytes(&path.display().to_string(), json)?)
}

/// BERT's WordPiece over the words of a `vocab.txt`, one a line, whose number is the id. `options` are those of a
/// `tokenizer_config.json`; what is not said there is as in bert-base-uncased.
fn of_vocabulary(text: &str, options: &Map<String, Value>) -> Value {
    let words: Vec<&str> = text.lines().collect();
    let id = |token: &str| words.iter().position(|word| *word == token).unwrap_or(0);
    let added: Vec<Value> = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
        .into_iter()
        .filter(|token| words.contains(token))
        .map(|token| {
            json!({ "id": id(token), "content": token, "single_word": false, "lstrip": false, "rstrip": false,
                    "normalized": false, "special": true })
        })
        .collect();
    let option = |key: &str, default: Value| options.get(key).cloned().unwrap_or(default);
    let vocabulary: Map<String, Value> =
        words.iter().enumerate().map(|(id, word)| ((*word).to_owned(), Value::from(id))).collect();
    json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": added,
        "normalizer": {
            "type": "BertNormalizer",
            "clean_text": true,
            "handle_chinese_chars": option("tokenize_chinese_chars", Value::Bool(true)),
            "strip_accents": option("strip_accents", Value::Null),
            "lowercase": option("do_lower_case", Value::Bool(true)),
        },
        "pre_tokenizer": { "type": "BertPreTokenizer" },
        "post_processor": { "type": "BertProcessing", "sep": ["[SEP]", id("[SEP]")], "cls": ["[CLS]", id("[CLS]")] },
        "decoder": { "type": "WordPiece", "prefix": "##", "cleanup": true },
        "model": {
            "type": "WordPiece",
            "unk_token": "[UNK]",
            "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 100,
            "vocab": vocabulary,
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_vocabulary_becomes_the_tokenizer_it_was_taken_from() {
        let bundled = TokenizerFile::bundled().unwrap();
        let words: Vec<String> =
            (0..bundled.info().vocab_size).map(|id| bundled.token(id).unwrap()).collect();
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(VOCABULARY), words.join("\n") + "\n").unwrap();
        let made = find(dir.path(), None).unwrap();
        assert!(made.same_vocabulary(&bundled));
        assert_eq!(made.info().special, bundled.info().special);
        let ids = |tokenizer: &TokenizerFile| {
            let mut ids = Vec::new();
            let encoder = tokenizer.encoder(ingest::EncoderChoice::Tokenizers).unwrap();
            encoder.worker().encode("Crème brûlée, 東京 [MASK] unaffable", &mut ids).unwrap();
            ids
        };
        assert_eq!(ids(&made), ids(&bundled));

        fs::write(dir.path().join("tokenizer_config.json"), r#"{"do_lower_case": false}"#).unwrap();
        assert_ne!(ids(&find(dir.path(), None).unwrap()), ids(&bundled));
    }

    #[test]
    fn a_folder_without_tokenizer_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let message = find(dir.path(), None).err().unwrap().to_string();
        assert!(message.contains("neither tokenizer.json nor vocab.txt"), "{message}");
    }
}
