//! One part of an input: a shard, its table of documents, and the note that says the part is complete.
//!
//! A worker fills it ([`PartWriter`]); what it then is ([`FullPart`]) can be sealed by another thread.

use std::collections::BTreeMap;
use std::path::Path;

use loader::shard::{BadLine, ShardEntry, ShardWriter, Tokens, docs_file_name, tokens_file_name};
use serde::{Deserialize, Serialize};

use crate::docs::{DocRecord, DocsWriter, content_hash};
use crate::error::Error;
use crate::filter::{self, Counts, Sieve};
use crate::identity::Options;
use crate::source::{BadRow, Document};

/// What a sealed part says of itself, so that nothing has to be read again after an interruption.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct PartNote {
    /// The first row of the input that belongs to it.
    pub(crate) first_row: u64,
    /// Rows that belong to it, also those that gave no document.
    pub(crate) rows: u64,
    /// Whether the input ends with it.
    pub(crate) last: bool,
    /// UTF-8 bytes of the text of its documents.
    pub(crate) text_bytes: u64,
    /// Rows without a token.
    pub(crate) empty_documents: u64,
    /// Rows that were skipped.
    pub(crate) bad_lines: Vec<BadLine>,
    /// Documents left out by filters, by reason.
    #[serde(default, skip_serializing_if = "Counts::is_empty")]
    pub(crate) filtered: Counts,
    /// The shard; a part without documents has none.
    pub(crate) shard: Option<ShardEntry>,
}

/// A part under construction. Its files appear when it is sealed; dropping it before leaves nothing.
pub(crate) struct PartWriter<'a> {
    place: &'a Place<'a>,
    part: u32,
    /// Created with the first document.
    files: Option<(ShardWriter, DocsWriter)>,
    note: PartNote,
}

/// Where the parts of one input go.
pub(crate) struct Place<'a> {
    /// The shard folder.
    pub(crate) dir: &'a Path,
    /// Index of the input.
    pub(crate) input: u32,
    /// The input's name in the manifest.
    pub(crate) source: &'a str,
    /// Bytes a token.
    pub(crate) token_bytes: u8,
    pub(crate) options: &'a Options,
    /// What is left out.
    pub(crate) sieve: Sieve,
}

impl<'a> PartWriter<'a> {
    /// Starts part `part` of an input with the row `first_row`.
    pub(crate) fn new(place: &'a Place<'a>, part: u32, first_row: u64) -> Self {
        let note = PartNote {
            first_row,
            rows: 0,
            last: false,
            text_bytes: 0,
            empty_documents: 0,
            bad_lines: Vec::new(),
            filtered: Counts::new(),
            shard: None,
        };
        Self { place, part, files: None, note }
    }

    /// Appends a document with its tokens, of which there may be none.
    pub(crate) fn push(&mut self, document: &Document<'_>, tokens: Tokens<'_>) -> Result<(), Error> {
        if tokens.is_empty() {
            self.note.empty_documents += 1;
            return Ok(());
        }
        if let Some(reason) = self.place.sieve.judge_tokens(tokens.len()) {
            filter::count(&mut self.note.filtered, reason);
            return Ok(());
        }
        let hash = content_hash(&document.text);
        let held_out = self.place.options.holds_out(hash);
        let record = DocRecord {
            url: document.url.as_deref(),
            timestamp: document.timestamp.as_deref(),
            source: self.place.source,
            row: document.row,
            // A source's rows are far shorter than 4 GiB.
            bytes: document.text.len() as u32,
            tokens: tokens.len() as u32,
            held_out,
            xxh3_128: hash.to_be_bytes(),
        };
        let (shard, docs) = match &mut self.files {
            Some(files) => files,
            none => none.insert(Self::create(self.place, self.part)?),
        };
        shard.append(tokens, held_out)?;
        docs.push(&record)?;
        self.note.text_bytes += document.text.len() as u64;
        Ok(())
    }

    fn create(place: &Place<'_>, part: u32) -> Result<(ShardWriter, DocsWriter), Error> {
        let shard = ShardWriter::create(place.dir, &tokens_file_name(place.input, part), place.token_bytes)?;
        let docs = DocsWriter::create(&place.dir.join(docs_file_name(place.input, part)))?;
        Ok((shard, docs))
    }

    /// Whether a document is left out, and notes that.
    pub(crate) fn leaves_out(&mut self, document: &Document<'_>) -> bool {
        let reason = self.place.sieve.judge(document);
        reason.inspect(|reason| filter::count(&mut self.note.filtered, *reason)).is_some()
    }

    /// Notes a row that gives no document.
    pub(crate) fn skip(&mut self, bad: &BadRow) {
        self.note.bad_lines.push(BadLine { line: bad.row + 1, reason: bad.reason.clone() });
    }

    /// Whether it holds as many tokens as a shard may.
    pub(crate) fn is_full(&self) -> bool {
        self.files.as_ref().is_some_and(|(shard, _)| shard.tokens() >= self.place.options.shard_tokens)
    }

    /// Ends it before the row `end_row`, which the input may not have.
    pub(crate) fn end(mut self, end_row: u64, last: bool) -> FullPart {
        self.note.rows = end_row - self.note.first_row;
        self.note.last = last;
        FullPart { input: self.place.input, part: self.part, files: self.files, note: self.note }
    }
}

/// A part that has all its documents but is not durable. Dropping it leaves nothing.
pub(crate) struct FullPart {
    /// Index of the input.
    pub(crate) input: u32,
    /// Its number in the input.
    pub(crate) part: u32,
    files: Option<(ShardWriter, DocsWriter)>,
    note: PartNote,
}

impl FullPart {
    /// Whether the input ended without a single row.
    pub(crate) fn is_empty_input(&self) -> bool {
        self.note.last && self.note.end_row() == 0
    }

    /// Completes the files, makes them durable and gives them their names.
    pub(crate) fn seal(mut self) -> Result<PartNote, Error> {
        let Some((shard, docs)) = self.files else { return Ok(self.note) };
        let (synced, docs) = std::thread::scope(|scope| {
            // The disk is at work while the table is packed; where no thread can be had, when the shard is sealed.
            let syncing = std::thread::Builder::new().spawn_scoped(scope, || shard.sync());
            let docs = docs.finish();
            (syncing.map_or(Ok(()), |thread| thread.join().expect("nothing there panics")), docs)
        });
        synced?;
        let (docs_bytes, docs_blake3) = docs?;
        let summary = shard.seal()?;
        self.note.shard = Some(ShardEntry {
            file: tokens_file_name(self.input, self.part),
            docs_file: docs_file_name(self.input, self.part),
            bytes: summary.bytes,
            blake3: summary.blake3,
            docs_bytes,
            docs_blake3,
            documents: summary.documents,
            held_out: summary.held_out,
            tokens: summary.tokens,
            held_out_tokens: summary.held_out_tokens,
            input: self.input,
            first_row: self.note.first_row,
            rows: self.note.rows,
        });
        Ok(self.note)
    }
}

impl PartNote {
    /// The row after its last.
    pub(crate) fn end_row(&self) -> u64 {
        self.first_row + self.rows
    }

    /// Whether its files are among those of a folder, with the sizes they were sealed with.
    pub(crate) fn is_among(&self, files: &BTreeMap<String, u64>) -> bool {
        let has = |file: &String, bytes: u64| files.get(file) == Some(&bytes);
        self.shard
            .as_ref()
            .is_none_or(|shard| has(&shard.file, shard.bytes) && has(&shard.docs_file, shard.docs_bytes))
    }
}
