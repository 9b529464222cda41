//! Copies a finished shard folder to an object store, so that it appears there complete or not at all.
//!
//! ```text
//! URL/unfinished.b3        first: which corpus is on its way
//! URL/tokenizer.json, URL/shard-...
//! URL/manifest.b3
//! URL/manifest.json        last of all: the folder is complete, unfinished.b3 is removed
//! ```

use std::collections::HashMap;
use std::path::Path;

use loader::object::Location;
use loader::shard::{MANIFEST_FILE, Manifest};

use crate::error::Error;
use crate::folder::MANIFEST_HASH_FILE;

/// Says which corpus is being copied, so that an interrupted copy is continued and no other is mixed with it.
const UNFINISHED_FILE: &str = "unfinished.b3";

/// What a copy came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Published {
    /// Objects written.
    pub written: u64,
    /// Bytes they have.
    pub bytes: u64,
    /// Objects that were there already.
    pub found: u64,
}

/// Copies the finished folder `dir` to `to`. Interrupted and started again, it continues after the objects that are
/// there already.
///
/// # Errors
/// [`Error::OtherCorpus`] when something else lies there, or an error of the store.
pub fn publish(dir: &Path, to: &Location) -> Result<Published, Error> {
    let manifest = Manifest::read(dir)?;
    let there: HashMap<String, u64> = to
        .list()?
        .into_iter()
        .filter_map(|found| Some((found.location.key().strip_prefix(to.key())?.trim_start_matches('/').to_owned(), found.meta.bytes)))
        .collect();
    let hash = manifest.blake3();
    let is_same = |name: &str| -> Result<bool, Error> {
        Ok(match there.contains_key(name) {
            true => blake3::hash(&to.join(name).read_all()?).to_hex().as_str() == hash,
            false => false,
        })
    };
    let is_complete = is_same(MANIFEST_FILE)?;
    let is_begun = match there.contains_key(UNFINISHED_FILE) {
        true => to.join(UNFINISHED_FILE).read_all()? == hash.as_bytes(),
        false => false,
    };
    if !there.is_empty() && !is_complete && !is_begun {
        return Err(Error::OtherCorpus { url: to.to_string() });
    }
    let mut published = Published::default();
    if !is_complete && !is_begun {
        to.join(UNFINISHED_FILE).write(hash.into_bytes())?;
    }
    let shards = manifest.shards.iter().flat_map(|shard| [&*shard.file, &*shard.docs_file]);
    let names = [&*manifest.tokenizer.file].into_iter().chain(shards).chain([MANIFEST_HASH_FILE, MANIFEST_FILE]);
    for name in names {
        let path = dir.join(name);
        let bytes = path.metadata().map_err(Error::io("read", &path))?.len();
        if there.get(name) == Some(&bytes) {
            published.found += 1;
            continue;
        }
        to.join(name).upload(&path)?;
        published.written += 1;
        published.bytes += bytes;
    }
    if is_begun || !is_complete {
        to.join(UNFINISHED_FILE).delete()?;
    }
    Ok(published)
}
