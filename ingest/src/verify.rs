//! Reads every byte of a shard folder again and compares it with its checksums.

use std::fs::{self, File};
use std::io;
use std::path::Path;

use loader::shard::{MANIFEST_FILE, Manifest, Shard, ShardEntry};

use crate::error::Error;
use crate::folder::MANIFEST_HASH_FILE;

/// Something in a folder that is not as it was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    /// The file.
    pub file: String,
    /// The byte offset of what is wrong, as near as the checksums tell: the beginning of what they cover.
    pub offset: u64,
    /// What is wrong.
    pub what: String,
}

/// Compares a finished folder with its checksums; nothing found means that every byte is as it was written.
/// `each_file` hears the name of each file before it is read.
///
/// # Errors
/// When there is no manifest that can be read. Whatever else is wrong is in the list.
pub fn verify(dir: &Path, mut each_file: impl FnMut(&str)) -> Result<Vec<Damage>, Error> {
    each_file(MANIFEST_FILE);
    let manifest = Manifest::read(dir)?;
    let mut damages = Vec::new();
    damages.extend(verify_manifest(dir));
    each_file(&manifest.tokenizer.file);
    damages.extend(verify_file(dir, &manifest.tokenizer.file, None, &manifest.tokenizer.blake3));
    for shard in &manifest.shards {
        each_file(&shard.file);
        damages.extend(verify_shard(dir, shard));
        each_file(&shard.docs_file);
        damages.extend(verify_file(dir, &shard.docs_file, Some(shard.docs_bytes), &shard.docs_blake3));
    }
    Ok(damages)
}

/// The manifest against the hash beside it.
fn verify_manifest(dir: &Path) -> Option<Damage> {
    let damage = |what| Some(Damage { file: MANIFEST_FILE.to_owned(), offset: 0, what });
    let hash = match fs::read(dir.join(MANIFEST_FILE)) {
        Ok(bytes) => blake3::hash(&bytes),
        Err(error) => return damage(format!("cannot be read: {error}")),
    };
    let expected = format!("{hash}  {MANIFEST_FILE}\n");
    match fs::read(dir.join(MANIFEST_HASH_FILE)) {
        Ok(found) if found == expected.as_bytes() => None,
        Ok(found) => damage(format!(
            "its BLAKE3 is {hash}, but {MANIFEST_HASH_FILE} says {:?}",
            String::from_utf8_lossy(&found)
        )),
        Err(error) => {
            damage(format!("{MANIFEST_HASH_FILE}, which holds its BLAKE3, cannot be read: {error}"))
        }
    }
}

/// A shard against its own checksums, which tell the place, and then against the manifest.
fn verify_shard(dir: &Path, entry: &ShardEntry) -> Option<Damage> {
    let damage = |offset, what| Some(Damage { file: entry.file.clone(), offset, what });
    match Shard::open(&dir.join(&entry.file)).and_then(|shard| shard.verify()) {
        Ok(()) => verify_file(dir, &entry.file, Some(entry.bytes), &entry.blake3),
        Err(loader::Error::Corrupt { offset, found, expected, .. }) => {
            damage(offset, format!("found {found}, expected {expected}"))
        }
        Err(loader::Error::NotAShard { found, expected, .. }) => {
            damage(0, format!("found {found:02x?}, expected {expected:02x?}"))
        }
        Err(loader::Error::FormatVersion { found, expected, .. }) => {
            damage(8, format!("found format version {found}, expected {expected}"))
        }
        Err(loader::Error::Io { source, .. }) => damage(0, format!("cannot be read: {source}")),
        Err(other) => damage(0, other.to_string()),
    }
}

/// A file against its size and BLAKE3.
fn verify_file(dir: &Path, name: &str, bytes: Option<u64>, blake3: &str) -> Option<Damage> {
    let damage = |offset, what| Some(Damage { file: name.to_owned(), offset, what });
    let read = || -> io::Result<(u64, String)> {
        let file = File::open(dir.join(name))?;
        let mut hasher = blake3::Hasher::new();
        hasher.update_reader(&file)?;
        Ok((hasher.count(), hasher.finalize().to_hex().to_string()))
    };
    match read() {
        Err(error) => damage(0, format!("cannot be read: {error}")),
        Ok((found, _)) if bytes.is_some_and(|bytes| found != bytes) => {
            let bytes = bytes.unwrap_or_default();
            damage(found.min(bytes), format!("the file has {found} bytes, expected {bytes}"))
        }
        Ok((found, hash)) if hash != blake3 => {
            damage(0, format!("the BLAKE3 of the {found} bytes from there is {hash}, expected {blake3}"))
        }
        Ok(_) => None,
    }
}
