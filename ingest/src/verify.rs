//! Reads every byte of a shard folder again and compares it with its checksums.

use std::error;
use std::fs::File;
use std::io;
use std::path::Path;

use loader::shard::{MANIFEST_FILE, Shard, ShardEntry};

use crate::error::Error;
use crate::folder::MANIFEST_HASH_FILE;
use crate::place::Place;

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

/// Compares a finished folder, of this machine or below a URL, with its checksums; nothing found means that every byte is as it was written.
/// `each_file` hears the name of each file before it is read.
///
/// # Errors
/// When there is no manifest that can be read. Whatever else is wrong is in the list.
pub fn verify(dir: &Path, mut each_file: impl FnMut(&str)) -> Result<Vec<Damage>, Error> {
    each_file(MANIFEST_FILE);
    let place = Place::of(dir)?;
    let manifest = place.manifest()?;
    let mut damages = Vec::new();
    damages.extend(verify_manifest(&place));
    // What cannot even be fetched is damage like any other.
    let mut fetched = |name: &str, verify: &dyn Fn(&Path) -> Option<Damage>| {
        each_file(name);
        match place.fetch(name) {
            Ok(file) => damages.extend(verify(&file.path)),
            Err(error) => damages.push(Damage {
                file: name.to_owned(),
                offset: 0,
                what: format!("cannot be read: {}", with_causes(&error)),
            }),
        }
    };
    let tokenizer = &manifest.tokenizer;
    fetched(&tokenizer.file, &|path| verify_file(path, &tokenizer.file, None, &tokenizer.blake3));
    for shard in &manifest.shards {
        fetched(&shard.file, &|path| verify_shard(path, shard));
        let (name, bytes) = (&shard.docs_file, Some(shard.docs_bytes));
        fetched(name, &|path| verify_file(path, name, bytes, &shard.docs_blake3));
    }
    Ok(damages)
}

/// The manifest against the hash beside it.
fn verify_manifest(place: &Place) -> Option<Damage> {
    let damage = |what| Some(Damage { file: MANIFEST_FILE.to_owned(), offset: 0, what });
    let hash = match place.read(MANIFEST_FILE) {
        Ok(bytes) => blake3::hash(&bytes.unwrap_or_default()),
        Err(error) => return damage(format!("cannot be read: {}", with_causes(&error))),
    };
    let expected = format!("{hash}  {MANIFEST_FILE}\n");
    let unread =
        |why: String| damage(format!("{MANIFEST_HASH_FILE}, which holds its BLAKE3, cannot be read: {why}"));
    match place.read(MANIFEST_HASH_FILE) {
        Ok(Some(found)) if found == expected.as_bytes() => None,
        Ok(Some(found)) => damage(format!(
            "its BLAKE3 is {hash}, but {MANIFEST_HASH_FILE} says {:?}",
            String::from_utf8_lossy(&found)
        )),
        Ok(None) => unread("it is missing".to_owned()),
        Err(error) => unread(with_causes(&error)),
    }
}

/// A shard against its own checksums, which tell the place, and then against the manifest.
fn verify_shard(path: &Path, entry: &ShardEntry) -> Option<Damage> {
    let damage = |offset, what| Some(Damage { file: entry.file.clone(), offset, what });
    match Shard::open(path).and_then(|shard| shard.verify()) {
        Ok(()) => verify_file(path, &entry.file, Some(entry.bytes), &entry.blake3),
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
fn verify_file(path: &Path, name: &str, bytes: Option<u64>, blake3: &str) -> Option<Damage> {
    let damage = |offset, what| Some(Damage { file: name.to_owned(), offset, what });
    let read = || -> io::Result<(u64, String)> {
        let file = File::open(path)?;
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

/// An error with what caused it.
fn with_causes(error: &dyn error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes.fold(error.to_string(), |said, cause| format!("{said}: {cause}"))
}
