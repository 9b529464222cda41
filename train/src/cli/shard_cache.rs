//! Options of commands that may read shards from an object store.

use std::path::PathBuf;

use clap::Args;
use loader::ByteSize;

/// Where shards of an object store are kept on this machine.
#[derive(Debug, Args)]
pub(crate) struct ShardCache {
    /// Folder that keeps shards fetched from an object store [default: ~/.cache/tessera/shards]; the same as --set
    /// loader.shard_cache=...
    #[arg(long, value_name = "DIR")]
    pub(crate) shard_cache: Option<PathBuf>,
    /// The most that this folder may hold, such as 200GiB [default: 50GiB]; the same as --set loader.shard_cache_size=...
    #[arg(long, value_name = "SIZE")]
    pub(crate) shard_cache_size: Option<ByteSize>,
}

impl ShardCache {
    /// As `--set` takes them.
    pub(crate) fn sets(&self) -> Vec<String> {
        let dir = self.shard_cache.iter().map(|dir| {
            // From here on it is read by processes that may stand elsewhere.
            let dir = std::path::absolute(dir).unwrap_or_else(|_| dir.clone());
            format!("loader.shard_cache={}", dir.display())
        });
        let size = self.shard_cache_size.iter().map(|size| format!("loader.shard_cache_size={size}"));
        dir.chain(size).collect()
    }
}
