//! `manifest.json`: what a shard folder holds and where it came from.

use std::collections::{BTreeMap, HashSet};
use std::fs;
use std::io::{self, Write};
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::FORMAT_VERSION;
use crate::atomic;
use crate::error::Error;

/// Name of the manifest in its folder.
pub const MANIFEST_FILE: &str = "manifest.json";

/// Vocabularies are padded to a multiple of this for the model: tensor cores like it.
const VOCAB_MULTIPLE: u32 = 64;

/// A shard folder's table of contents. Written last: a folder that has one is complete.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// Version of the format of the manifest and of its shards: [`FORMAT_VERSION`].
    pub format_version: u32,
    /// The program that wrote the folder, with its version.
    pub program: String,
    /// The tokenizer whose ids the shards hold.
    pub tokenizer: TokenizerInfo,
    /// Bytes a token in every shard: 2 or 4.
    pub token_bytes: u8,
    /// Documents in all shards, held-out ones included.
    pub documents: u64,
    /// Documents held out from training.
    pub held_out_documents: u64,
    /// Tokens in all shards, those of held-out documents included.
    pub tokens: u64,
    /// Tokens of the held-out documents.
    pub held_out_tokens: u64,
    /// UTF-8 bytes of the text that became these tokens.
    pub text_bytes: u64,
    /// The shards, in the order of their documents.
    pub shards: Vec<ShardEntry>,
    /// Where the documents came from.
    pub ingest: Ingest,
}

/// The tokenizer of a shard folder.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TokenizerInfo {
    /// Name of its copy in the folder.
    pub file: String,
    /// BLAKE3 of that copy, in lower-case hexadecimal digits.
    pub blake3: String,
    /// Number of ids it has, such as 30522.
    pub vocab_size: u32,
    /// Number of ids the model must have: the next multiple of 64.
    pub model_vocab_size: u32,
    /// The ids with a meaning of their own.
    pub special: SpecialTokens,
}

impl TokenizerInfo {
    /// The vocabulary size of a model for a tokenizer with `vocab_size` ids: the next multiple of 64.
    pub fn model_vocab_size(vocab_size: u32) -> u32 {
        vocab_size.next_multiple_of(VOCAB_MULTIPLE)
    }
}

/// The ids that are no text: masking never chooses them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SpecialTokens {
    /// Fills a batch up.
    pub pad: u32,
    /// Stands for text that has no token.
    pub unk: u32,
    /// Begins a sample.
    pub cls: u32,
    /// Ends a sample.
    pub sep: u32,
    /// Stands for a token to be predicted.
    pub mask: u32,
}

impl SpecialTokens {
    /// All of them: pad, unk, cls, sep, mask.
    pub fn ids(&self) -> [u32; 5] {
        [self.pad, self.unk, self.cls, self.sep, self.mask]
    }
}

/// One shard and its table of documents.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ShardEntry {
    /// Name of the shard in the folder.
    pub file: String,
    /// Name of its table of documents in the folder.
    pub docs_file: String,
    /// Size of the shard in bytes.
    pub bytes: u64,
    /// BLAKE3 of the shard, in lower-case hexadecimal digits.
    pub blake3: String,
    /// Size of the table in bytes.
    pub docs_bytes: u64,
    /// BLAKE3 of the table, in lower-case hexadecimal digits.
    pub docs_blake3: String,
    /// Documents, held-out ones included.
    pub documents: u64,
    /// Documents held out from training.
    pub held_out: u64,
    /// Tokens, those of held-out documents included.
    pub tokens: u64,
    /// Tokens of the held-out documents.
    pub held_out_tokens: u64,
    /// Index of the file it came from, in [`Ingest::inputs`].
    pub input: u32,
    /// The first row of that file that belongs to it, counted from 0.
    pub first_row: u64,
    /// Number of rows of that file that belong to it, also those that gave no document.
    pub rows: u64,
}

/// Where the documents of a folder came from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ingest {
    /// The files, in the order of their shards.
    pub inputs: Vec<InputFile>,
    /// The options that decide what the shards hold, and no others.
    pub options: serde_json::Value,
    /// BLAKE3 over program version, options, tokenizer, and the names and sizes of the inputs.
    pub fingerprint: String,
}

/// One file that was ingested.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InputFile {
    /// Its path, relative to the deepest folder that all inputs share.
    pub path: String,
    /// Its size in bytes.
    pub bytes: u64,
    /// Documents taken from it.
    pub documents: u64,
    /// Rows it has.
    pub rows: u64,
    /// Rows that were skipped because they could not be read.
    pub bad_lines: Vec<BadLine>,
    /// Rows that gave no token.
    pub empty_documents: u64,
    /// Documents that filters left out, by reason.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub filtered: BTreeMap<String, u64>,
}

/// One row that was skipped.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BadLine {
    /// Its number, counted from 1.
    pub line: u64,
    /// What is wrong with it.
    pub reason: String,
}

/// What any version of a manifest is asked first.
#[derive(Deserialize)]
struct Version {
    format_version: u64,
}

impl Manifest {
    /// Reads and checks the manifest of a folder.
    ///
    /// # Errors
    /// [`Error::NoManifest`] when there is none, [`Error::FormatVersion`] when another version wrote it,
    /// [`Error::Manifest`] when it is not valid, [`Error::Io`] when it cannot be read.
    pub fn read(dir: &Path) -> Result<Self, Error> {
        let path = dir.join(MANIFEST_FILE);
        let text = match fs::read(&path) {
            Ok(text) => text,
            Err(source) if source.kind() == io::ErrorKind::NotFound => {
                return Err(Error::NoManifest { dir: dir.to_owned() });
            }
            Err(source) => return Err(Error::Io { action: "read", path, source }),
        };
        Self::from_json(&text, &path)
    }

    /// Understands and checks a manifest; `path` is what messages call it.
    ///
    /// # Errors
    /// [`Error::FormatVersion`] when another version wrote it, [`Error::Manifest`] when it is not valid.
    pub fn from_json(text: &[u8], path: &Path) -> Result<Self, Error> {
        let invalid = |reason: String| Error::Manifest { path: path.to_owned(), reason };
        let version: Version = serde_json::from_slice(text).map_err(|error| invalid(error.to_string()))?;
        if version.format_version != u64::from(FORMAT_VERSION) {
            return Err(Error::FormatVersion {
                path: path.to_owned(),
                found: version.format_version,
                expected: FORMAT_VERSION,
            });
        }
        let manifest: Self = serde_json::from_slice(text).map_err(|error| invalid(error.to_string()))?;
        manifest.check().map_err(invalid)?;
        Ok(manifest)
    }

    /// Writes the manifest into a folder, as the last of its files.
    ///
    /// # Errors
    /// [`Error::Manifest`] when it contradicts itself, [`Error::Io`] or [`Error::DiskFull`] when it cannot be written.
    pub fn write(&self, dir: &Path) -> Result<(), Error> {
        let path = dir.join(MANIFEST_FILE);
        self.check().map_err(|reason| Error::Manifest { path: path.clone(), reason })?;
        let text = self.to_json();
        atomic::write_file(&path, |file| file.write_all(text.as_bytes()))
    }

    /// BLAKE3 of the manifest as it is written, in lower-case hexadecimal digits. It covers the checksums of all
    /// shards, so it names the corpus.
    pub fn blake3(&self) -> String {
        blake3::hash(self.to_json().as_bytes()).to_hex().to_string()
    }

    /// The manifest as it is written.
    pub fn to_json(&self) -> String {
        let mut text = serde_json::to_string_pretty(self).expect("a manifest has only string keys");
        text.push('\n');
        text
    }

    /// What is wrong with it, in a few words.
    fn check(&self) -> Result<(), String> {
        let tokenizer = &self.tokenizer;
        require(self.format_version == FORMAT_VERSION, || {
            format!("format_version is {}, expected {FORMAT_VERSION}", self.format_version)
        })?;
        require(matches!(self.token_bytes, 2 | 4), || {
            format!("token_bytes is {}, expected 2 or 4", self.token_bytes)
        })?;
        let (found, most) = (tokenizer.vocab_size, i32::MAX as u32 - VOCAB_MULTIPLE);
        require((1..=most).contains(&found), || format!("vocab_size is {found}, expected 1 to {most}"))?;
        require(self.token_bytes == 4 || found <= 1 << 16, || {
            format!("vocab_size is {found}, more than 2 bytes a token can tell apart")
        })?;
        let expected = TokenizerInfo::model_vocab_size(found);
        require(tokenizer.model_vocab_size == expected, || {
            format!("model_vocab_size is {}, expected {expected}", tokenizer.model_vocab_size)
        })?;
        if let Some(id) = tokenizer.special.ids().into_iter().find(|id| *id >= found) {
            return Err(format!("special id {id} is outside the vocabulary of {found} ids"));
        }
        check_name(&tokenizer.file)?;
        check_hash(&tokenizer.blake3)?;
        self.check_shards()
    }

    fn check_shards(&self) -> Result<(), String> {
        let mut names = HashSet::new();
        for shard in &self.shards {
            for name in [&shard.file, &shard.docs_file] {
                check_name(name)?;
                require(names.insert(name), || format!("{name} is listed twice"))?;
            }
            check_hash(&shard.blake3)?;
            check_hash(&shard.docs_blake3)?;
            require((shard.input as usize) < self.ingest.inputs.len(), || {
                format!("{} came from input {} of {}", shard.file, shard.input, self.ingest.inputs.len())
            })?;
        }
        let sum =
            |count: fn(&ShardEntry) -> u64| self.shards.iter().map(count).try_fold(0u64, u64::checked_add);
        for (name, total, sum) in [
            ("documents", self.documents, sum(|shard| shard.documents)),
            ("held_out_documents", self.held_out_documents, sum(|shard| shard.held_out)),
            ("tokens", self.tokens, sum(|shard| shard.tokens)),
            ("held_out_tokens", self.held_out_tokens, sum(|shard| shard.held_out_tokens)),
        ] {
            require(sum == Some(total), || {
                let sum = sum.map_or("more than 64 bits hold".to_owned(), |sum| sum.to_string());
                format!("{name} is {total}, but its shards hold {sum}")
            })?;
        }
        Ok(())
    }
}

fn require(holds: bool, reason: impl FnOnce() -> String) -> Result<(), String> {
    if holds { Ok(()) } else { Err(reason()) }
}

/// A manifest names files of its own folder only, whoever wrote it.
fn check_name(name: &str) -> Result<(), String> {
    let plain = !name.is_empty() && name != "." && name != ".." && !name.contains(['/', '\\', '\0']);
    require(plain, || format!("{name:?} is not the name of a file in the folder"))
}

fn check_hash(hash: &str) -> Result<(), String> {
    let valid = hash.len() == 64 && hash.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    require(valid, || format!("{hash:?} is not a BLAKE3 of 64 lower-case hexadecimal digits"))
}
