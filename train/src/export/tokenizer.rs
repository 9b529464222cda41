//! The files beside `tokenizer.json` that Hugging Face's tokenizers look for.

use ingest::TokenizerFile;
use model::ModelConfig;
use serde_json::{Value, json};

use crate::error::Error;

/// Names and contents: `tokenizer.json` as it is, `tokenizer_config.json`, `special_tokens_map.json` and, for WordPiece,
/// `vocab.txt`.
pub(super) fn files(tokenizer: &TokenizerFile, config: &ModelConfig) -> Result<Vec<(String, String)>, Error> {
    let text = String::from_utf8_lossy(tokenizer.bytes()).into_owned();
    let definition: Value = serde_json::from_str(&text)
        .map_err(|source| Error::Json { path: tokenizer.name().into(), source })?;
    let (model, normalizer) = (&definition["model"], &definition["normalizer"]);
    // The oldest files do not name their model.
    let word_piece = model["type"] == "WordPiece" || model["continuing_subword_prefix"].is_string();
    let is_bert = word_piece && normalizer["type"] == "BertNormalizer";
    let special = json!({
        "unk_token": "[UNK]", "sep_token": "[SEP]", "pad_token": "[PAD]", "cls_token": "[CLS]", "mask_token": "[MASK]",
    });
    let mut options = special.clone();
    options["model_max_length"] = json!(config.max_position_embeddings);
    options["clean_up_tokenization_spaces"] = json!(true);
    options["model_input_names"] = json!(["input_ids", "token_type_ids", "attention_mask"]);
    if is_bert {
        options["tokenizer_class"] = json!("BertTokenizer");
        options["do_lower_case"] = normalizer["lowercase"].clone();
        options["strip_accents"] = normalizer["strip_accents"].clone();
        options["tokenize_chinese_chars"] = normalizer["handle_chinese_chars"].clone();
    } else {
        options["tokenizer_class"] = json!("PreTrainedTokenizerFast");
    }
    let pretty = |value: &Value| serde_json::to_string_pretty(value).expect("strings and numbers") + "\n";
    let mut files = vec![
        ("tokenizer.json".to_owned(), text),
        ("tokenizer_config.json".to_owned(), pretty(&options)),
        ("special_tokens_map.json".to_owned(), pretty(&special)),
    ];
    if word_piece {
        let words = (0..tokenizer.info().vocab_size).map(|id| tokenizer.token(id).unwrap_or_default() + "\n");
        files.push(("vocab.txt".to_owned(), words.collect()));
    }
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bundled_tokenizer_gives_berts_files() {
        let tokenizer = TokenizerFile::bundled().unwrap();
        let files = files(&tokenizer, &ModelConfig::mosaic_bert_base()).unwrap();
        let names: Vec<&str> = files.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(
            names,
            ["tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.txt"]
        );
        assert_eq!(files[0].1.as_bytes(), tokenizer.bytes());
        let options: Value = serde_json::from_str(&files[1].1).unwrap();
        assert_eq!(
            (&options["tokenizer_class"], &options["do_lower_case"]),
            (&json!("BertTokenizer"), &json!(true))
        );
        let words: Vec<&str> = files[3].1.lines().collect();
        assert_eq!((words.len(), words[0], words[103]), (30522, "[PAD]", "[MASK]"));
    }
}
