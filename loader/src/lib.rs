//! Packed token shards to deterministic masked batches.
//!
//! ```text
//! shard folder ──Corpus──► documents ──Samples──► [CLS] … [SEP] ──Plan──► batch of step n ──Masker──► MicroBatch
//! mmap, checked            numbered    policy,                  arithmetic, no state       80/10/10    unpadded
//!                          as one      seq_len
//! ```
//!
//! - [`shard`] owns the bytes on disk: FORMAT.md draws them. [`atomic`] is how every file is written.
//! - [`Corpus`] opens folders and checks them, [`Samples`] cuts documents into samples. Folders may lie in an object store;
//!   their shards are fetched when they are needed and kept as [`CacheConfig`] says.
//! - [`Plan`] says which samples make up the batch of a step, [`Masker`] what the model must predict. Both are pure
//!   functions of the seed, so a batch is the same for any number of ranks and workers, and any step can be the first.
//! - [`Loader`] runs them on threads, which fill the slots of a ring in memory of your choice ([`Region`]) and take turns
//!   without locks; [`held_out_batches`] gives the evaluation set. [`measure`] tells how fast batches come.
//!
//! # From a folder to a batch
//!
//! ```
//! use loader::{Corpus, Loader, LoaderConfig};
//! # use loader::shard::*;
//! # let folder = tempfile::tempdir().unwrap();
//! # let dir = folder.path();
//! # std::fs::write(dir.join("tokenizer.json"), b"{}").unwrap();
//! # let mut writer = ShardWriter::create(dir, &tokens_file_name(0, 0), 2)?;
//! # (0..50u32).try_for_each(|i| writer.push(&vec![200 + i; 20]))?;
//! # let sealed = writer.seal()?;
//! # let hash = blake3::hash(b"{}").to_hex().to_string();
//! # let special = SpecialTokens { pad: 0, unk: 100, cls: 101, sep: 102, mask: 103 };
//! # let tokenizer = TokenizerInfo { file: "tokenizer.json".into(), blake3: hash, vocab_size: 1000, model_vocab_size: 1024, special };
//! # let input = InputFile { path: "a.json.gz".into(), bytes: 1, documents: 50, rows: 50, bad_lines: vec![], empty_documents: 0,
//! #     filtered: Default::default() };
//! # let entry = ShardEntry { file: tokens_file_name(0, 0), docs_file: docs_file_name(0, 0), bytes: sealed.bytes,
//! #     blake3: sealed.blake3.clone(), docs_bytes: 0, docs_blake3: sealed.blake3, documents: 50, held_out: 0,
//! #     tokens: 1000, held_out_tokens: 0, input: 0, first_row: 0, rows: 50 };
//! # let ingest = Ingest { inputs: vec![input], options: serde_json::Value::Null, fingerprint: String::new() };
//! # Manifest { format_version: FORMAT_VERSION, program: "an example".into(), tokenizer, token_bytes: 2, documents: 50,
//! #     held_out_documents: 0, tokens: 1000, held_out_tokens: 0, text_bytes: 0, shards: vec![entry], ingest }.write(dir)?;
//! let corpus = Corpus::open(&[dir])?;
//! let config = LoaderConfig { seq_len: 16, batch_size: 8, micro_batch_tokens: 64, ..LoaderConfig::default() };
//! let (rank, world_size) = (0, 1);
//! for batch in Loader::start(corpus, &config, rank, world_size, 0, 3)? {
//!     let batch = batch?;
//!     assert_eq!((batch.samples, batch.tokens), (8, 8 * 16));
//!     for micro_batch in &batch.micro_batches {
//!         assert_eq!(micro_batch.cu_seqlens, [0, 16, 32, 48, 64]);
//!     }
//! }
//! # Ok::<(), loader::Error>(())
//! ```

pub mod atomic;
pub mod object;
pub mod shard;

mod batch;
mod batch_size;
mod cache;
mod config;
mod corpus;
mod cut;
mod error;
mod folder;
mod hand;
mod held_out;
mod loader;
mod mask;
mod mixture;
mod permutation;
mod philox;
mod plan;
mod ring;
mod samples;
mod shuffle;
mod slot;
mod sync;
mod throughput;
mod unigram;
mod workers;

pub use batch::{MicroBatch, StepBatch};
pub use cache::{ByteSize, CacheConfig, DEFAULT_CACHE_SIZE};
pub use config::*;
pub use corpus::{Corpus, Split, Stored};
pub use error::Error;
pub use folder::{ShardFolder, absolute};
pub use held_out::{HeldOutBatches, held_out_batches};
pub use loader::{Loader, LoaderBuilder, ReadyBatch};
pub use mask::{Continuations, Draw, Instructions, Masked, Masker, Room};
pub use plan::{Part, Plan, SampleId};
pub use samples::Samples;
pub use slot::{Buffer, Number, Region};
pub use throughput::{Throughput, measure};
pub use unigram::{TokenCounts, unigram_entropy};
