#![doc = include_str!("../../FORMAT.md")]

mod hash;
mod header;
mod manifest;
mod offsets;
mod reader;
mod writer;

pub(crate) use header::{HEADER_BYTES, shard_tail};
pub use manifest::{
    BadLine, Ingest, InputFile, MANIFEST_FILE, Manifest, ShardEntry, SpecialTokens, TokenizerInfo,
};
pub use reader::{Shard, Tokens};
pub use writer::{ShardSummary, ShardWriter};

/// The version of the format that this program writes, and the only one that it reads.
pub const FORMAT_VERSION: u32 = 1;

/// The first eight bytes of every shard.
pub const MAGIC: [u8; 8] = *b"TESSERA\0";

/// Bytes that one checksum covers.
pub const BLOCK_BYTES: u32 = 1 << 20;

/// Name of the shard made of part `part` of input file `input`, both counted from 0.
pub fn tokens_file_name(input: u32, part: u32) -> String {
    format!("shard-{input:05}-{part:04}.tokens")
}

/// Name of the table that says where the documents of a shard come from; its partner is [`tokens_file_name`].
pub fn docs_file_name(input: u32, part: u32) -> String {
    format!("shard-{input:05}-{part:04}.docs.parquet")
}
