//! Shards of an object store on this machine: fetched once into a folder of bounded size, checked, and kept.
//!
//! ```text
//! Samples ──these shards, now──► Pool ──► fetchers ──► Folder ──► DIR/BLAKE3.tokens   a whole shard
//! Ahead ────these come next────► who holds what        room        DIR/BLAKE3.tail     its header and its end
//! ```
//!
//! Where documents lie is known from the manifests alone, so a training can begin as soon as the shards of its first batch
//! are there. [`Ahead`] follows the plan, which says what comes next, and has it fetched before it is needed.
//!
//! **Tails.** Held-out documents and the offsets of all documents stand at the end of a shard. Evaluation, and whatever
//! needs the lengths of documents only, fetches this end, a few percent of the shard. A tail is a file of the shard's size
//! with a hole in it, so it is read like a shard.
//!
//! **Several processes** may use one folder, whatever they train on: files are named by their content, one process
//! fetches a file while the others wait for it, and room is made under a lock for the files that were used longest ago.
//! A file that is removed while another process reads it stays readable there, and is fetched again when it is needed again.

mod ahead;
mod folder;
mod pool;
mod remote;
mod size;

use std::env;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

pub use size::ByteSize;

pub(crate) use ahead::Ahead;
pub(crate) use folder::Folder;
pub(crate) use pool::{Pin, Pool};
pub(crate) use remote::{Part, RemoteShard};

/// Default of [`CacheConfig::size`].
pub const DEFAULT_CACHE_SIZE: ByteSize = ByteSize(50 << 30);

/// Where shards of object stores are kept on this machine. Changes no result.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CacheConfig {
    /// The folder; absent: `tessera/shards` in `$XDG_CACHE_HOME` or `~/.cache`.
    pub dir: Option<PathBuf>,
    /// The most that its files may take. 50 GiB: shards of 27 billion tokens.
    pub size: ByteSize,
}

impl Default for CacheConfig {
    fn default() -> Self {
        Self { dir: None, size: DEFAULT_CACHE_SIZE }
    }
}

impl CacheConfig {
    /// The folder that is meant.
    pub fn folder(&self) -> PathBuf {
        let variable = |name| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        self.dir.clone().unwrap_or_else(|| {
            let caches = variable("XDG_CACHE_HOME").or_else(|| Some(variable("HOME")?.join(".cache")));
            caches.unwrap_or_else(env::temp_dir).join("tessera/shards")
        })
    }
}
