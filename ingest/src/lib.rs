//! C4 files to packed token shards.
//!
//! One call does the whole way; what it writes is described by [`loader::shard`].
//!
//! ```
//! use ingest::{EncoderChoice, Inputs, Job, Options, Progress, TokenizerFile};
//!
//! # let folder = tempfile::tempdir().unwrap();
//! # let (corpus, out) = (folder.path().join("corpus"), folder.path().join("shards"));
//! # std::fs::create_dir(&corpus).unwrap();
//! std::fs::write(corpus.join("a.jsonl"), "{\"text\": \"To be, or not to be.\"}\n").unwrap();
//! let tokenizer = TokenizerFile::bundled()?;
//! let job = Job {
//!     inputs: Inputs::find(&[corpus.to_string_lossy().into_owned()])?,
//!     out: out.clone(),
//!     options: Options::default(),
//!     encoder: tokenizer.encoder(EncoderChoice::Auto)?,
//!     tokenizer,
//!     workers: 2,
//!     skip_bad_lines: 0,
//!     task: None,
//! };
//! let outcome = ingest::run(&job, &Progress::default())?;
//! assert_eq!((outcome.manifest.documents, outcome.manifest.tokens), (1, 8));
//! assert!(ingest::verify(&out, |_| ())?.is_empty());
//! assert_eq!(ingest::find_document(&out, 0)?.text, "to be, or not to be.");
//! # Ok::<(), ingest::Error>(())
//! ```
//!
//! To read: [`source`] yields documents, [`Encoder`] turns them into ids, [`run`] (`pipeline.rs`) cuts them into
//! parts, which `sealer.rs` makes durable, `folder.rs` says what of a folder is complete, [`docs`] is the table beside each shard.

pub mod docs;
pub mod identity;
pub mod profile;
pub mod source;
pub mod statistics;
pub mod tokenizer;
pub mod wordpiece;

mod document;
mod duplicates;
mod encoder;
mod error;
mod estimate;
mod filter;
mod folder;
mod merge;
mod part;
mod pipeline;
mod place;
mod processor;
mod sealer;
mod space;
mod stamp;
mod task;
mod verify;
mod vocab;

pub use document::{FoundDocument, find_document};
pub use encoder::{Encode, Encoder, EncoderChoice};
pub use error::Error;
pub use estimate::Estimate;
pub use filter::{DEFAULT_LANGUAGE_THRESHOLD, Dedup, Filters};
pub use folder::MANIFEST_HASH_FILE;
pub use identity::Options;
pub use merge::{Merged, merge};
pub use pipeline::{Job, Outcome, Progress, run};
pub use place::read_manifest;
pub use source::Inputs;
pub use space::Space;
pub use statistics::Statistics;
pub use task::Task;
pub use tokenizer::TokenizerFile;
pub use verify::{Damage, verify};
pub use vocab::{Vocab, VocabOptions, train_vocab};

/// This program and its version, as manifests name it.
pub const PROGRAM: &str = concat!("tessera-ingest ", env!("CARGO_PKG_VERSION"));
