//! One document of a shard folder, with where it came from.

use std::path::Path;

use loader::shard::Shard;
use serde::Serialize;

use crate::docs;
use crate::error::Error;
use crate::place::Place;
use crate::tokenizer::TokenizerFile;

/// A document as the shards have it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct FoundDocument {
    /// Its number in the folder: shard by shard in the manifest's order, held-out documents last in each.
    pub document: u64,
    /// The shard it is in.
    pub shard: String,
    /// Its number in that shard.
    pub document_in_shard: u64,
    /// Whether it is kept from training.
    pub held_out: bool,
    /// Where it was found on the web.
    pub url: Option<String>,
    /// When it was found.
    pub timestamp: Option<String>,
    /// The input file.
    pub source: String,
    /// Its row in that file, counted from 0.
    pub row: u64,
    /// UTF-8 bytes of its text, before it was encoded.
    pub bytes: u32,
    /// The XXH3 of its text, of 128 bits, in hexadecimal digits.
    pub xxh3_128: String,
    /// Its tokens.
    pub ids: Vec<u32>,
    /// The text that the tokens stand for.
    pub text: String,
}

/// Finds document `document` of a finished folder, of this machine or below a URL.
///
/// # Errors
/// [`Error::NoDocument`] when there are not as many, or an error of reading.
pub fn find_document(dir: &Path, document: u64) -> Result<FoundDocument, Error> {
    let place = Place::of(dir)?;
    let manifest = place.manifest()?;
    let mut index = document;
    for entry in &manifest.shards {
        if index >= entry.documents {
            index -= entry.documents;
            continue;
        }
        let shard = place.fetch(&entry.file)?;
        let ids = Shard::open(&shard.path)?.tokens(index)?.to_vec();
        let text = TokenizerFile::read(&place.fetch(&manifest.tokenizer.file)?.path)?.decode(&ids)?;
        return docs::read_record(&place.fetch(&entry.docs_file)?.path, index, |record| FoundDocument {
            document,
            shard: entry.file.clone(),
            document_in_shard: index,
            held_out: record.held_out,
            url: record.url.map(str::to_owned),
            timestamp: record.timestamp.map(str::to_owned),
            source: record.source.to_owned(),
            row: record.row,
            bytes: record.bytes,
            xxh3_128: format!("{:032x}", u128::from_be_bytes(record.xxh3_128)),
            ids,
            text,
        });
    }
    Err(Error::NoDocument { dir: dir.to_owned(), index: document, count: manifest.documents })
}
