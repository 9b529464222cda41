//! The way from files to shards: each worker takes a whole input at a time through read, unpack, parse, encode, write.
//!
//! ```text
//! inputs ──► worker: source ─► encoder ─► part, part, ...     cut by (input, document) alone
//!        ──► worker: source ─► encoder ─► part, part, ...     so the bytes do not depend on the workers
//!                                           └─► sealer ─► manifest
//! ```

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use loader::shard::{FORMAT_VERSION, Ingest, InputFile, Manifest};

use crate::duplicates::Duplicates;
use crate::encoder::{Encode, Encoder, Ids};
use crate::error::Error;
use crate::filter::{Counts, Sieve};
use crate::folder::{OutFolder, State, is_shard_folder};
use crate::identity::{Identity, Options};
use crate::part::{FullPart, PartNote, PartWriter, Place};
use crate::place::has_manifest;
use crate::profile::{self, Stage, Stages};
use crate::sealer::{Outbox, Sealed, hatch, panicked};
use crate::source::{BadRow, Input, Inputs, Row, Source};
use crate::stamp::Stamp;
use crate::task::{Task, merged_before};
use crate::tokenizer::TokenizerFile;

/// What is to be ingested, where to and how.
pub struct Job {
    /// The files.
    pub inputs: Inputs,
    /// The shard folder: a path, or a URL of an object store.
    pub out: PathBuf,
    /// What decides the bytes of the shards.
    pub options: Options,
    /// What turns text into tokens.
    pub tokenizer: TokenizerFile,
    /// How it does that; made from `tokenizer`.
    pub encoder: Encoder,
    /// Threads, at least 1; more than there are inputs are of no use.
    pub workers: usize,
    /// Rows, of all inputs together, that may be left out because something is wrong with them.
    pub skip_bad_lines: u64,
    /// The share of the inputs to ingest, into a folder of its own below `out`; nothing for all of them.
    pub task: Option<Task>,
}

impl Job {
    /// The folder that is written: `out`, or the task's below it.
    pub fn folder(&self) -> PathBuf {
        self.task.map_or_else(|| self.out.clone(), |task| self.out.join(task.folder_name()))
    }

    /// Whether there is nothing left to do, as far as the manifests that are there tell.
    ///
    /// # Errors
    /// When an object store does not answer.
    pub fn has_manifest(&self) -> Result<bool, Error> {
        Ok(has_manifest(&self.out)? || self.task.is_some() && has_manifest(&self.folder())?)
    }

    /// The inputs that are read: all, or the task's.
    pub fn share(&self) -> impl Iterator<Item = &Input> {
        let owned = |index| self.task.is_none_or(|task| task.owns(index));
        self.inputs.files.iter().zip(0..).filter(move |(_, index)| owned(*index)).map(|(input, _)| input)
    }
}

/// How far a run has come; only what this run did itself.
#[derive(Debug, Default)]
pub struct Progress {
    /// Bytes of the inputs that are done, those of earlier runs included.
    pub input_bytes: AtomicU64,
    /// Documents encoded.
    pub documents: AtomicU64,
    /// Tokens they have.
    pub tokens: AtomicU64,
    /// UTF-8 bytes of their text.
    pub text_bytes: AtomicU64,
    /// Parts sealed.
    pub parts: AtomicU64,
    /// Where the time goes; see [`Progress::profiling`].
    pub stages: Stages,
}

impl Progress {
    /// One that also measures where the workers' time goes.
    pub fn profiling() -> Self {
        Self { stages: Stages::measured(), ..Self::default() }
    }
}

/// What a run came to.
pub struct Outcome {
    /// The finished folder's manifest.
    pub manifest: Manifest,
    /// Parts that an earlier run had sealed; all, when there was nothing left to do.
    pub found_parts: usize,
    /// Whether the folder was finished before.
    pub was_finished: bool,
}

/// Ingests, or continues to, or finds that there is nothing left to do.
///
/// Killed at any moment and run again, it ends with the same bytes.
///
/// # Errors
/// The first of any kind; parts that were sealed before stay, and the same call continues after them.
pub fn run(job: &Job, progress: &Progress) -> Result<Outcome, Error> {
    job.options.validate()?;
    if job.inputs.files.iter().any(Input::is_standard_input) && is_shard_folder(&job.out) {
        return Err(Error::StandardInputAgain { dir: job.out.clone() });
    }
    let identity = Identity::of(&job.inputs, &job.options, &job.tokenizer.info().blake3)?;
    if let Some(task) = job.task
        && let Some(manifest) = merged_before(&job.out, task, &identity)?
    {
        return Ok(Outcome { found_parts: manifest.shards.len(), manifest, was_finished: true });
    }
    let folder = match OutFolder::open(&job.folder(), &identity, &job.tokenizer)? {
        State::Finished(manifest) => {
            let found_parts = manifest.shards.len();
            return Ok(Outcome { manifest: *manifest, found_parts, was_finished: true });
        }
        State::Unfinished(folder) => folder,
    };
    let sealed = (0..job.inputs.files.len() as u32).map(|input| folder.sealed_parts(input));
    let sealed: Vec<Vec<PartNote>> = sealed.collect::<Result<_, _>>()?;
    let found_parts = sealed.iter().flatten().count();
    let bad_lines = sealed.iter().flatten().map(|part| part.bad_lines.len() as u64).sum();

    let (options, workers) = (&job.options, job.workers);
    let duplicates =
        Duplicates::find(&job.inputs, &options.text_field, &options.filters, workers, &folder.notes())?;
    let run = Run {
        job,
        progress,
        identity: &identity,
        folder: &folder,
        duplicates: &duplicates,
        bad_lines: AtomicU64::new(bad_lines),
        stop: AtomicBool::new(false),
    };
    let parts = run.all_inputs(sealed)?;
    let mut manifest = manifest(job, &identity, parts);
    if let Some(task) = job.task {
        task.note(&mut manifest);
    }
    folder.finish(&manifest)?;
    Ok(Outcome { manifest, found_parts, was_finished: false })
}

/// Bytes of text or of input after which a worker tells how far it is.
const TELL_BYTES: u64 = 256 << 10;

/// What the workers share.
struct Run<'a> {
    job: &'a Job,
    progress: &'a Progress,
    identity: &'a Identity,
    folder: &'a OutFolder,
    duplicates: &'a Duplicates,
    /// Rows left out so far, in all inputs.
    bad_lines: AtomicU64,
    /// Set by the first error: the others stop at the next row.
    stop: AtomicBool,
}

/// What a worker came to with the inputs it took, and its sealer with their parts.
type Done = (Vec<(usize, Error)>, Vec<Sealed>);

impl Run<'_> {
    /// All parts of all inputs, in order, of which `parts` are sealed already.
    fn all_inputs(&self, mut parts: Vec<Vec<PartNote>>) -> Result<Vec<Vec<PartNote>>, Error> {
        let next = AtomicUsize::new(0);
        let workers = self.job.workers.clamp(1, self.job.inputs.files.len().max(1));
        let done: Vec<Done> = std::thread::scope(|scope| {
            let (sealed, next) = (&parts, &next);
            let worker = move || {
                let (outbox, inbox) = hatch();
                let sealer = scope.spawn(move || inbox.seal_all(self.folder, self.progress, &self.stop));
                let errors = self.some_inputs(sealed, next, &outbox);
                // The sealer ends when nothing more can come.
                drop(outbox);
                (errors, sealer.join().expect("a sealer catches its panics"))
            };
            let threads: Vec<_> = (0..workers).map(|_| scope.spawn(worker)).collect();
            threads.into_iter().map(|thread| thread.join().expect("a worker catches its panics")).collect()
        });
        let mut errors: Vec<(usize, Error)> = Vec::new();
        for (failed, sealed) in done {
            for (input, note) in sealed {
                match note {
                    Ok(note) => parts[input].push(note),
                    Err(error) => errors.push((input, error)),
                }
            }
            errors.extend(failed);
        }
        // The error of the first input is reported, whichever worker was faster.
        errors.into_iter().min_by_key(|(input, _)| *input).map_or(Ok(parts), |(_, error)| Err(error))
    }

    /// Takes inputs as long as there are any; the errors of those that failed.
    fn some_inputs<'a>(
        &'a self,
        sealed: &[Vec<PartNote>],
        next: &AtomicUsize,
        outbox: &Outbox<'a>,
    ) -> Vec<(usize, Error)> {
        let mut errors = Vec::new();
        let mut encoder = self.job.encoder.worker();
        let mut ids = Ids::new(self.job.tokenizer.token_bytes());
        loop {
            let index = next.fetch_add(1, Ordering::Relaxed);
            let (Some(input), Some(parts)) = (self.job.inputs.files.get(index), sealed.get(index)) else {
                return errors;
            };
            let result = catch_unwind(AssertUnwindSafe(|| {
                profile::measure(&self.progress.stages, || {
                    self.one_input(index as u32, input, parts, &mut *encoder, &mut ids, outbox)
                })
            }));
            if let Err(error) = result.unwrap_or_else(|panic| Err(panicked(&*panic))) {
                self.stop.store(true, Ordering::Relaxed);
                errors.push((index, error));
            }
        }
    }

    /// Fills the parts of one input but for the first, which are `sealed`; or those until the run was stopped by an error
    /// elsewhere.
    fn one_input<'a>(
        &'a self,
        index: u32,
        input: &'a Input,
        sealed: &[PartNote],
        encoder: &mut dyn Encode,
        ids: &mut Ids,
        outbox: &Outbox<'a>,
    ) -> Result<(), Error> {
        if self.job.task.is_some_and(|task| !task.owns(index)) {
            return Ok(());
        }
        let mut tally = Tally::new(self.progress);
        if sealed.last().is_some_and(|part| part.last) {
            tally.position(input.bytes);
            return Ok(());
        }
        let stamp = Stamp::of(input);
        self.identity.check_content(index, input)?;
        let mut source = input.open(&self.job.options.text_field)?;
        source.skip_rows(sealed.last().map_or(0, PartNote::end_row))?;
        let place = Place {
            dir: self.folder.dir(),
            input: index,
            source: input.file(),
            token_bytes: self.job.tokenizer.token_bytes(),
            options: &self.job.options,
            sieve: Sieve::new(&self.job.options.filters, self.duplicates.rows(index)?)?,
        };
        for part in sealed.len() as u32.. {
            let writer = PartWriter::new(&place, part, source.rows());
            let Some((part, last)) =
                self.one_part(&mut *source, writer, &input.path, encoder, ids, &mut tally)?
            else {
                return Ok(());
            };
            if part.is_empty_input() {
                return Err(Error::EmptyInput { path: input.path.clone(), found: "it unpacks to nothing" });
            }
            profile::within(Stage::Write, || outbox.put(part, stamp));
            if last {
                break;
            }
        }
        Ok(())
    }

    /// Fills one part from the source's next rows; whether the input ends with it. Nothing when the run was stopped.
    fn one_part(
        &self,
        source: &mut dyn Source,
        mut part: PartWriter<'_>,
        path: &Path,
        encoder: &mut dyn Encode,
        ids: &mut Ids,
        tally: &mut Tally<'_>,
    ) -> Result<Option<(FullPart, bool)>, Error> {
        loop {
            if self.stop.load(Ordering::Relaxed) {
                return Ok(None);
            }
            match profile::within(Stage::Parse, || source.next_row())? {
                None => {
                    tally.position(source.position());
                    return Ok(Some((part.end(source.rows(), true), true)));
                }
                Some(Row::Bad(bad)) => {
                    self.allow(&bad, path)?;
                    part.skip(&bad);
                }
                Some(Row::Document(document)) if part.leaves_out(&document) => {}
                Some(Row::Document(document)) => {
                    let encoded = profile::within(Stage::Encode, || ids.encode(encoder, &document.text));
                    encoded.map_err(|reason| {
                        let line = document.row + 1;
                        Error::Encode { path: path.to_owned(), line, reason }
                    })?;
                    profile::within(Stage::Write, || part.push(&document, ids.tokens()))?;
                    tally.document(ids.tokens().len(), document.text.len());
                }
            }
            tally.position(source.position());
            if part.is_full() {
                return Ok(Some((part.end(source.rows(), false), false)));
            }
        }
    }

    /// Counts a bad row; an error when there are more than allowed.
    fn allow(&self, bad: &BadRow, path: &Path) -> Result<(), Error> {
        let allowed = self.job.skip_bad_lines;
        if self.bad_lines.fetch_add(1, Ordering::Relaxed) < allowed {
            return Ok(());
        }
        Err(Error::BadLine { path: path.to_owned(), line: bad.row + 1, reason: bad.reason.clone(), allowed })
    }
}

/// What a worker has done of an input and not yet told the others, which waits for all that the worker has written.
struct Tally<'a> {
    progress: &'a Progress,
    /// The position in the input, and that last told.
    position: u64,
    told: u64,
    documents: u64,
    tokens: u64,
    text_bytes: u64,
}

impl<'a> Tally<'a> {
    fn new(progress: &'a Progress) -> Self {
        Self { progress, position: 0, told: 0, documents: 0, tokens: 0, text_bytes: 0 }
    }

    fn document(&mut self, tokens: usize, text_bytes: usize) {
        self.documents += 1;
        self.tokens += tokens as u64;
        self.text_bytes += text_bytes as u64;
    }

    /// Notes how far the input is read; after each row, whatever became of it.
    fn position(&mut self, position: u64) {
        self.position = position;
        if self.text_bytes.max(position - self.told) >= TELL_BYTES {
            self.tell();
        }
    }

    fn tell(&mut self) {
        let Self { progress, position, told, documents, tokens, text_bytes } = self;
        progress.input_bytes.fetch_add(*position - *told, Ordering::Relaxed);
        *told = *position;
        for (count, all) in
            [(documents, &progress.documents), (tokens, &progress.tokens), (text_bytes, &progress.text_bytes)]
        {
            all.fetch_add(std::mem::take(count), Ordering::Relaxed);
        }
    }
}

impl Drop for Tally<'_> {
    fn drop(&mut self) {
        self.tell();
    }
}

/// The manifest of a folder whose parts are all sealed.
fn manifest(job: &Job, identity: &Identity, parts: Vec<Vec<PartNote>>) -> Manifest {
    let inputs = job.inputs.files.iter().zip(&parts).map(|(input, parts)| InputFile {
        path: input.name.clone(),
        bytes: input.bytes,
        documents: parts.iter().filter_map(|part| part.shard.as_ref()).map(|shard| shard.documents).sum(),
        rows: parts.iter().map(|part| part.rows).sum(),
        bad_lines: parts.iter().flat_map(|part| part.bad_lines.iter().cloned()).collect(),
        empty_documents: parts.iter().map(|part| part.empty_documents).sum(),
        filtered: parts.iter().flat_map(|part| &part.filtered).fold(
            Counts::new(),
            |mut sum, (reason, count)| {
                *sum.entry(reason.clone()).or_default() += count;
                sum
            },
        ),
    });
    let ingest = Ingest {
        inputs: inputs.collect(),
        options: serde_json::to_value(&job.options).expect("options have only string keys"),
        fingerprint: identity.fingerprint(),
    };
    let text_bytes = parts.iter().flatten().map(|part| part.text_bytes).sum();
    let shards: Vec<_> = parts.into_iter().flatten().filter_map(|part| part.shard).collect();
    Manifest {
        format_version: FORMAT_VERSION,
        program: crate::PROGRAM.to_owned(),
        tokenizer: job.tokenizer.info().clone(),
        token_bytes: job.tokenizer.token_bytes(),
        documents: shards.iter().map(|shard| shard.documents).sum(),
        held_out_documents: shards.iter().map(|shard| shard.held_out).sum(),
        tokens: shards.iter().map(|shard| shard.tokens).sum(),
        held_out_tokens: shards.iter().map(|shard| shard.held_out_tokens).sum(),
        text_bytes,
        shards,
        ingest,
    }
}
