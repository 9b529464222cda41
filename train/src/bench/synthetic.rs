//! Documents of random words, for measurements that should not depend on anyone's text.

use std::fs;
use std::path::Path;

use loader::shard::{
    FORMAT_VERSION, Ingest, InputFile, Manifest, ShardEntry, ShardWriter, SpecialTokens, TokenizerInfo,
    docs_file_name, tokens_file_name,
};
use serde::Serialize;

use crate::error::Error;

/// The ids of bert-base-uncased.
const SPECIAL: SpecialTokens = SpecialTokens { pad: 0, unk: 100, cls: 101, sep: 102, mask: 103 };
/// The first id above them.
const FIRST_WORD: u32 = 104;
/// Vocabularies below this have no room for words.
const SMALLEST_VOCABULARY: u32 = 2 * FIRST_WORD;

/// How long synthetic samples are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Lengths {
    /// All of them as long as a sample may be.
    Full,
    /// Uniform from a quarter of that to all of it.
    Ragged,
}

/// Writes a shard folder of `samples` documents that become one sample of up to `seq_len` tokens each, for a model with
/// `vocab_size` ids. The same arguments give the same folder.
///
/// # Errors
/// [`Error::ConfigRange`] for a vocabulary without room for words; [`Error::Loader`] or [`Error::Write`] when the folder
/// cannot be written.
pub(super) fn write(
    dir: &Path,
    samples: u64,
    seq_len: usize,
    lengths: Lengths,
    vocab_size: u32,
) -> Result<(), Error> {
    if vocab_size < SMALLEST_VOCABULARY {
        return Err(Error::ConfigRange {
            key: "model.vocab_size",
            found: vocab_size.to_string(),
            expected: format!("at least {SMALLEST_VOCABULARY} for synthetic documents"),
        });
    }
    let name = tokens_file_name(0, 0);
    let mut shard = ShardWriter::create(dir, &name, if vocab_size > 1 << 16 { 4 } else { 2 })?;
    // BLAKE3's output of any length: the same random numbers everywhere.
    let mut random = blake3::Hasher::new().finalize_xof();
    let mut draw = |below: u32| {
        let mut bytes = [0; 8];
        random.fill(&mut bytes);
        (u64::from_le_bytes(bytes) % u64::from(below)) as u32
    };
    let longest = seq_len - 2; // between [CLS] and [SEP]
    let shortest = (seq_len / 4).saturating_sub(2).max(1);
    for _ in 0..samples {
        let length = match lengths {
            Lengths::Full => longest,
            Lengths::Ragged => shortest + draw((longest - shortest + 1) as u32) as usize,
        };
        let tokens: Vec<u32> = (0..length).map(|_| FIRST_WORD + draw(vocab_size - FIRST_WORD)).collect();
        shard.push(&tokens)?;
    }
    let sealed = shard.seal()?;
    let (tokenizer, docs) = ("tokenizer.json", docs_file_name(0, 0));
    for (file, content) in [(tokenizer, "{}"), (&docs, "")] {
        let path = dir.join(file);
        fs::write(&path, content).map_err(|source| Error::Write { path, source })?;
    }
    let hash = |text: &str| blake3::hash(text.as_bytes()).to_hex().to_string();
    let manifest = Manifest {
        format_version: FORMAT_VERSION,
        program: crate::host::PROGRAM.to_owned(),
        tokenizer: TokenizerInfo {
            file: tokenizer.to_owned(),
            blake3: hash("{}"),
            vocab_size,
            model_vocab_size: vocab_size,
            special: SPECIAL,
        },
        token_bytes: if vocab_size > 1 << 16 { 4 } else { 2 },
        documents: sealed.documents,
        held_out_documents: 0,
        tokens: sealed.tokens,
        held_out_tokens: 0,
        text_bytes: 0,
        shards: vec![ShardEntry {
            file: name,
            docs_file: docs,
            bytes: sealed.bytes,
            blake3: sealed.blake3,
            docs_bytes: 0,
            docs_blake3: hash(""),
            documents: sealed.documents,
            held_out: 0,
            tokens: sealed.tokens,
            held_out_tokens: 0,
            input: 0,
            first_row: 0,
            rows: samples,
        }],
        ingest: Ingest {
            inputs: vec![InputFile {
                path: "synthetic".to_owned(),
                bytes: 0,
                documents: samples,
                rows: samples,
                bad_lines: Vec::new(),
                empty_documents: 0,
                filtered: Default::default(),
            }],
            options: serde_json::json!({ "samples": samples, "seq_len": seq_len, "lengths": lengths }),
            fingerprint: hash("synthetic"),
        },
    };
    Ok(manifest.write(dir)?)
}
