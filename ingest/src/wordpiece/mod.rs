//! A fast encoder for BERT's pipeline: BertNormalizer, BertPreTokenizer, WordPiece.
//!
//! Its ids equal those of `tokenizers::Tokenizer::encode(text, false)` for every text; definitions it cannot promise
//! that for are refused with the reason ([`Unsupported`]).
//!
//! ```text
//!         split             gather: in front, most
//! text ────────────► chunks ──────────────────────────► ids
//!   at ASCII white      │                                ▲
//!   space               ▼  emit: in the cache            │
//!                       ├────────────────────────────────┤
//!                       ▼  plain: words and marks        │
//!                       ├────────────────────────────────┤
//!                       ▼                                │
//!             definition::find_added ──► pieces: normalise, cut, longest match in the trie
//! ```
//!
//! Web text repeats itself: 33 million chunks of English hold 0.8 million distinct ones, and the 16,384 most frequent
//! are 91 % of them. So the encoder is a hash table around a pipeline. Each file explains its part and why it changes
//! no id: `split` (where text may be cut), `encoder` (what shares a cache entry, and the way of a window), `batch` (keys of many chunks), `gather` and
//! `cache` (the two tables), `ids` (how ids lie in them and between), `plain` and `pieces` (chunks that are not known),
//! `normalize` and `classes` (Unicode), `trie` (WordPiece), `definition` (what is supported).
//!
//! The idea of caching whole raw chunks keyed by their bytes is nanotoken's and gigatoken's.

mod batch;
mod cache;
mod classes;
mod definition;
mod encoder;
mod gather;
mod ids;
mod normalize;
mod pieces;
mod plain;
mod split;
mod trie;

pub use definition::Unsupported;
pub use encoder::FastEncoder;
