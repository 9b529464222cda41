//! Small shard folders whose tokens follow from a formula.

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;

use loader::shard::{
    FORMAT_VERSION, Ingest, InputFile, Manifest, ShardEntry, ShardWriter, SpecialTokens, TokenizerInfo,
    docs_file_name, tokens_file_name,
};
use loader::{Corpus, LoaderConfig};
use tempfile::TempDir;

pub(crate) const VOCAB: u32 = 1000;
pub(crate) const SPECIAL: SpecialTokens = SpecialTokens { pad: 0, unk: 100, cls: 101, sep: 102, mask: 103 };
const TOKENIZER: &[u8] = b"{\"a tokenizer\": true}";

/// A WordPiece tokenizer of [`VOCAB`] ids, of which those from 600 on continue words.
pub(crate) fn word_piece() -> Vec<u8> {
    let vocabulary: serde_json::Map<String, serde_json::Value> =
        (0..VOCAB).map(|id| (format!("{}t{id}", if id < 600 { "" } else { "##" }), id.into())).collect();
    let model = serde_json::json!({
        "type": "WordPiece", "continuing_subword_prefix": "##", "unk_token": "t100", "vocab": vocabulary
    });
    serde_json::to_vec(&serde_json::json!({ "version": "1.0", "model": model })).unwrap()
}

/// Documents of a shard: those to train on, those held out.
#[derive(Clone, Default)]
pub(crate) struct Documents {
    pub(crate) train: Vec<Vec<u32>>,
    pub(crate) held_out: Vec<Vec<u32>>,
}

/// The document of a number: 1 to `longest` tokens, of which one in fifty is special.
pub(crate) fn document(number: u64, longest: u64) -> Vec<u32> {
    let mut state = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x5555;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        state >> 33
    };
    let len = 1 + next() % longest;
    (0..len)
        .map(|_| match next() % 50 {
            0 => SPECIAL.ids()[next() as usize % 5],
            _ => 104 + (next() % u64::from(VOCAB - 104)) as u32,
        })
        .collect()
}

/// `shards` shards of `documents` documents each, one in ten of them held out, of up to `longest` tokens.
pub(crate) fn some_documents(shards: u64, documents: u64, longest: u64) -> Vec<Documents> {
    (0..shards)
        .map(|shard| {
            let mut of_shard = Documents::default();
            for number in 0..documents {
                let tokens = document(shard * documents + number, longest);
                let side = if number % 10 == 3 { &mut of_shard.held_out } else { &mut of_shard.train };
                side.push(tokens);
            }
            of_shard
        })
        .collect()
}

/// Writes a finished shard folder and returns its manifest.
pub(crate) fn write_folder(dir: &Path, token_bytes: u8, shards: &[Documents]) -> Manifest {
    write_folder_of(dir, TOKENIZER, token_bytes, shards)
}

/// As [`write_folder`], with a tokenizer of one's own.
pub(crate) fn write_folder_of(
    dir: &Path,
    tokenizer: &[u8],
    token_bytes: u8,
    shards: &[Documents],
) -> Manifest {
    std::fs::write(dir.join("tokenizer.json"), tokenizer).unwrap();
    let mut entries = Vec::new();
    for (index, documents) in (0..).zip(shards) {
        let file = tokens_file_name(index, 0);
        let mut writer = ShardWriter::create(dir, &file, token_bytes).unwrap();
        documents.train.iter().for_each(|tokens| writer.push(tokens).unwrap());
        documents.held_out.iter().for_each(|tokens| writer.push_held_out(tokens).unwrap());
        let sealed = writer.seal().unwrap();
        let docs_file = docs_file_name(index, 0);
        std::fs::write(dir.join(&docs_file), b"").unwrap();
        entries.push(ShardEntry {
            file,
            docs_file,
            bytes: sealed.bytes,
            blake3: sealed.blake3,
            docs_bytes: 0,
            docs_blake3: blake3::hash(b"").to_hex().to_string(),
            documents: sealed.documents,
            held_out: sealed.held_out,
            tokens: sealed.tokens,
            held_out_tokens: sealed.held_out_tokens,
            input: index,
            first_row: 0,
            rows: sealed.documents,
        });
    }
    let inputs = (0..shards.len())
        .map(|input| InputFile {
            path: format!("input-{input}.json.gz"),
            bytes: 1,
            documents: entries[input].documents,
            rows: entries[input].rows,
            bad_lines: Vec::new(),
            empty_documents: 0,
            filtered: Default::default(),
        })
        .collect();
    let manifest = Manifest {
        format_version: FORMAT_VERSION,
        program: "fixture".into(),
        tokenizer: TokenizerInfo {
            file: "tokenizer.json".into(),
            blake3: blake3::hash(tokenizer).to_hex().to_string(),
            vocab_size: VOCAB,
            model_vocab_size: TokenizerInfo::model_vocab_size(VOCAB),
            special: SPECIAL,
        },
        token_bytes,
        documents: entries.iter().map(|entry| entry.documents).sum(),
        held_out_documents: entries.iter().map(|entry| entry.held_out).sum(),
        tokens: entries.iter().map(|entry| entry.tokens).sum(),
        held_out_tokens: entries.iter().map(|entry| entry.held_out_tokens).sum(),
        text_bytes: 0,
        shards: entries,
        ingest: Ingest { inputs, options: serde_json::json!({ "b": 1, "a": 2 }), fingerprint: "f".into() },
    };
    manifest.write(dir).unwrap();
    manifest
}

/// Writes a folder of shards of 100 MB each: files that are all holes but for their headers, written as FORMAT.md draws
/// them. Gives the number of training documents.
pub(crate) fn write_sparse_folder(dir: &Path, shards: u64) -> u64 {
    let mut manifest = write_folder(dir, 2, &some_documents(1, 1, 5));
    let (documents, held_out, tokens) = (100_000u64, 500u64, 50_000_000u64);
    let offsets_at = 128 + 2 * tokens;
    let checksums_at = offsets_at + 8 * (documents + 1);
    let file_bytes = checksums_at + 4 * (checksums_at - 128).div_ceil(1 << 20);
    let mut header = b"TESSERA\0".to_vec();
    header.extend([1u32, 2].map(u32::to_le_bytes).as_flattened());
    let counts = [documents, held_out, tokens, 1_000, 128, offsets_at, checksums_at, file_bytes];
    header.extend(counts.map(u64::to_le_bytes).as_flattened());
    header.extend([1u32 << 20, 0].map(u32::to_le_bytes).as_flattened());
    header.resize(124, 0);
    header.extend(crc32c::crc32c(&header).to_le_bytes());

    let model = manifest.shards[0].clone();
    manifest.shards = (0..shards)
        .map(|number| {
            let file = tokens_file_name(0, number as u32);
            let mut shard = File::create(dir.join(&file)).unwrap();
            shard.write_all(&header).unwrap();
            shard.set_len(file_bytes).unwrap();
            let docs_file = docs_file_name(0, number as u32);
            let counts = ShardEntry { documents, held_out, tokens, held_out_tokens: 1_000, ..model.clone() };
            ShardEntry {
                file,
                docs_file,
                bytes: file_bytes,
                first_row: number * documents,
                rows: documents,
                ..counts
            }
        })
        .collect();
    manifest.documents = shards * documents;
    manifest.held_out_documents = shards * held_out;
    manifest.tokens = shards * tokens;
    manifest.held_out_tokens = shards * 1_000;
    manifest.ingest.inputs[0].documents = manifest.documents;
    manifest.ingest.inputs[0].rows = manifest.documents;
    manifest.write(dir).unwrap();
    shards * (documents - held_out)
}

/// An open corpus of [`some_documents`], with the folder that must outlive it.
pub(crate) fn corpus(shards: u64, documents: u64, longest: u64) -> (TempDir, Arc<Corpus>) {
    let dir = tempfile::tempdir().unwrap();
    write_folder(dir.path(), 2, &some_documents(shards, documents, longest));
    let corpus = Corpus::open(&[dir.path()]).unwrap();
    (dir, corpus)
}

/// Settings that fit a small corpus: several blocks and windows, several micro-batches a step.
pub(crate) fn config() -> LoaderConfig {
    LoaderConfig {
        seq_len: 16,
        batch_size: 12,
        micro_batch_tokens: 50,
        seed: 5,
        workers: 2,
        slots: 4,
        shuffle_block: 7,
        shuffle_window: 3,
        ..LoaderConfig::default()
    }
}
