//! Shard folders for tests, written by the loader's own writer.

use std::fs;
use std::path::Path;

use loader::shard::{
    FORMAT_VERSION, Ingest, InputFile, Manifest, ShardEntry, ShardWriter, SpecialTokens, TokenizerInfo,
    docs_file_name, tokens_file_name,
};

/// Size of the vocabulary of [`write`], and of the model for it.
pub(crate) const VOCAB: u32 = 128;

/// The first id that is no special token.
const FIRST_WORD: u32 = 5;

/// Writes a shard folder of `documents` documents, every tenth held out. Each word is the successor of the one
/// before it, so that context tells a masked word and frequency does not. `flavour` changes the tokenizer.
pub(crate) fn write(dir: &Path, documents: u32, flavour: &str) {
    fs::create_dir_all(dir).unwrap();
    let words = VOCAB - FIRST_WORD;
    let name = tokens_file_name(0, 0);
    let mut shard = ShardWriter::create(dir, &name, 2).unwrap();
    for document in 0..documents {
        let (start, length) = (document * 37 % words, 12 + document % 20);
        let tokens: Vec<u32> = (0..length).map(|i| FIRST_WORD + (start + i) % words).collect();
        match document % 10 {
            9 => shard.push_held_out(&tokens).unwrap(),
            _ => shard.push(&tokens).unwrap(),
        }
    }
    let sealed = shard.seal().unwrap();
    fs::write(dir.join("tokenizer.json"), flavour).unwrap();
    fs::write(dir.join(docs_file_name(0, 0)), b"").unwrap();
    let empty = hash(b"");
    let manifest = Manifest {
        format_version: FORMAT_VERSION,
        program: "test".to_owned(),
        tokenizer: TokenizerInfo {
            file: "tokenizer.json".to_owned(),
            blake3: hash(flavour.as_bytes()),
            vocab_size: VOCAB,
            model_vocab_size: VOCAB,
            special: SpecialTokens { pad: 0, unk: 1, cls: 2, sep: 3, mask: 4 },
        },
        token_bytes: 2,
        documents: sealed.documents,
        held_out_documents: sealed.held_out,
        tokens: sealed.tokens,
        held_out_tokens: sealed.held_out_tokens,
        text_bytes: 4 * sealed.tokens,
        shards: vec![ShardEntry {
            file: name,
            docs_file: docs_file_name(0, 0),
            bytes: sealed.bytes,
            blake3: sealed.blake3,
            docs_bytes: 0,
            docs_blake3: empty.clone(),
            documents: sealed.documents,
            held_out: sealed.held_out,
            tokens: sealed.tokens,
            held_out_tokens: sealed.held_out_tokens,
            input: 0,
            first_row: 0,
            rows: sealed.documents,
        }],
        ingest: Ingest {
            inputs: vec![InputFile {
                path: "words.json.gz".to_owned(),
                bytes: 1,
                documents: sealed.documents,
                rows: sealed.documents,
                bad_lines: Vec::new(),
                empty_documents: 0,
                filtered: Default::default(),
            }],
            options: serde_json::json!({}),
            fingerprint: empty,
        },
    };
    manifest.write(dir).unwrap();
}

fn hash(bytes: &[u8]) -> String {
    blake3::hash(bytes).to_hex().to_string()
}
