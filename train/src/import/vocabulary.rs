//! Rows of the word embedding up to a multiple of 64, as shards ask for them.
//!
//! BERT's 30,522 words become 30,528 rows. The new rows are zeros, and their bias in the masked-LM head is -100: their
//! probability is zero in every type, so that those of the words are what they were. No text contains them.

use std::path::Path;

use ingest::TokenizerFile;
use loader::shard::TokenizerInfo;
use model::ModelConfig;
use tch::{Kind, Tensor};

use super::tokens_of;
use crate::error::Error;

const WORDS: &str = "bert.embeddings.word_embeddings.weight";
const BIASES: [&str; 2] = ["cls.predictions.bias", "cls.predictions.decoder.bias"];
/// The bias of rows that are no words.
const NO_WORD: f64 = -100.0;

/// Fills embedding and bias up, and sets `config.vocab_size` to the number of rows.
///
/// # Errors
/// [`Error::Import`] when `config.json`, tensors and tokenizer disagree about the vocabulary.
pub(super) fn fill_up(
    from: &Path,
    config: &mut ModelConfig,
    tokenizer: &TokenizerFile,
    tensors: &mut [(String, Tensor)],
    notes: &mut Vec<String>,
) -> Result<(), Error> {
    let refuse = |reason: String| Err(Error::Import { path: from.to_owned(), reason });
    let rows = |tensors: &[(String, Tensor)], name: &str| {
        tensors.iter().find(|(have, _)| have == name).map(|(_, tensor)| tensor.size()[0])
    };
    let (words, tokens) = (rows(tensors, WORDS).unwrap_or(0), tokens_of(tokenizer));
    if words != config.vocab_size {
        return refuse(format!(
            "{WORDS} has {words} rows, vocab_size in config.json is {}; they must be equal",
            config.vocab_size
        ));
    }
    if words < tokens {
        return refuse(format!(
            "{WORDS} has {words} rows, its tokenizer {tokens} tokens; give the tokenizer it was trained with as --tokenizer FILE"
        ));
    }
    let wanted = match u32::try_from(words) {
        Ok(words) => i64::from(TokenizerInfo::model_vocab_size(words)),
        Err(_) => return refuse(format!("{WORDS} has {words} rows")),
    };
    if wanted == words {
        return Ok(());
    }
    for (name, tensor) in tensors.iter_mut() {
        let is_bias = BIASES.contains(&name.as_str());
        if !(is_bias || name == WORDS) || tensor.size()[0] != words {
            continue;
        }
        let mut shape = tensor.size();
        shape[0] = wanted - words;
        let value = if is_bias { NO_WORD } else { 0.0 };
        let filling = Tensor::full(shape, value, (Kind::Float, tensor.device())); // [added, ..]
        *tensor = Tensor::cat(&[&tensor.to_kind(Kind::Float), &filling], 0); // [V, ..]
    }
    config.vocab_size = wanted;
    notes.push(format!(
        "The word embedding has {words} rows and was filled up with zeros to {wanted}, a multiple of 64; the bias of the \
         new rows is {NO_WORD}, so that they are never predicted."
    ));
    Ok(())
}
