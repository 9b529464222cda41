//! The output folder: whose it is, what of it is done, and what a killed process left in it.
//!
//! ```text
//! OUT/unfinished/identity.json          first: what is being ingested
//! OUT/tokenizer.json
//! OUT/shard-00000-0000.docs.parquet
//! OUT/shard-00000-0000.tokens
//! OUT/unfinished/part-00000-0000.json   last of each part: the part is complete
//! ...
//! OUT/manifest.b3                       BLAKE3 of the manifest, as `b3sum --check` reads it
//! OUT/manifest.json                     last of all: the folder is complete, OUT/unfinished is removed
//! ```
//!
//! Every file is written beside, made durable and renamed, so at any moment the folder tells exactly what is done.
//! In an object store the same names stand in the same order. A shard is written to a folder for files on their way, sent
//! as a whole once it is sealed, and noted after that; what is on its way when the process ends is made again.

use std::collections::BTreeMap;
use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};

use loader::atomic::TEMPORARY_MARK;
use loader::shard::{MANIFEST_FILE, Manifest, ShardEntry};
use serde::Serialize;
use tempfile::TempDir;

use crate::error::Error;
use crate::identity::Identity;
use crate::part::PartNote;
use crate::place::{Place, passing_folder};
use crate::task::task_folders;
use crate::tokenizer::{TOKENIZER_FILE, TokenizerFile};

/// Holds the BLAKE3 of the manifest, so that a changed manifest is noticed too.
pub const MANIFEST_HASH_FILE: &str = "manifest.b3";
/// Exists while an ingest is not finished.
const UNFINISHED_DIR: &str = "unfinished";
const IDENTITY_FILE: &str = "identity.json";
/// Beginnings of the names of files that are written here.
const OUR_NAMES: [&str; 5] = ["shard-", "part-", "manifest.", "tokenizer.", "identity."];

/// Whether a folder of this machine holds shards, finished or not.
pub(crate) fn is_shard_folder(dir: &Path) -> bool {
    dir.join(MANIFEST_HASH_FILE).exists() || dir.join(UNFINISHED_DIR).join(IDENTITY_FILE).exists()
}

/// An output folder that this process alone writes to.
pub(crate) struct OutFolder {
    place: Place,
    /// Where the notes are: `UNFINISHED_DIR` in it.
    notes: Place,
    /// Files of the folder by name, with their sizes, as they were when it was opened.
    found: BTreeMap<String, u64>,
    /// Where shards are made for a folder in a store.
    passing: Option<TempDir>,
    /// An advisory lock on the folder, let go of when the process ends in whatever way. Stores have none.
    _lock: Option<File>,
}

/// What an output folder was found to be.
pub(crate) enum State {
    /// Everything is done already.
    Finished(Box<Manifest>),
    /// Something may be done already; the notes tell what.
    Unfinished(OutFolder),
}

impl OutFolder {
    /// Opens or creates the folder for the ingest that `identity` stands for.
    pub(crate) fn open(dir: &Path, identity: &Identity, tokenizer: &TokenizerFile) -> Result<State, Error> {
        let place = Place::of(dir)?;
        place.create()?;
        let (lock, passing) = match &place {
            Place::Folder(dir) => (Some(lock(dir)?), None),
            Place::Store(_) => (None, Some(passing_folder()?)),
        };
        let found = place.files()?;
        let folder = Self { notes: place.join(UNFINISHED_DIR), place, found, passing, _lock: lock };
        let other = |state, difference| Error::OtherIngest { dir: dir.to_owned(), state, difference };
        if let Some(manifest) = folder.place.find_manifest()? {
            if let Some(difference) = identity.difference_from(&manifest) {
                return Err(other("was made", difference));
            }
            folder.clean_up()?;
            return Ok(State::Finished(Box::new(manifest)));
        }
        if let Some(noted) = folder.notes.read(IDENTITY_FILE)? {
            if noted != to_json(identity) {
                let difference = identity.difference(&folder.understand(IDENTITY_FILE, &noted)?);
                return Err(other(
                    "was begun",
                    difference.unwrap_or_else(|| "its notes are not ours".to_owned()),
                ));
            }
            folder.remove_temporaries()?;
        } else {
            folder.refuse_foreign_files()?;
            folder.notes.create()?;
            folder.notes.write(IDENTITY_FILE, &to_json(identity))?;
        }
        if folder.passing.is_none() || !folder.found.contains_key(TOKENIZER_FILE) {
            folder.place.write(TOKENIZER_FILE, tokenizer.bytes())?;
        }
        Ok(State::Unfinished(folder))
    }

    /// The folder of this machine in which shards are made.
    pub(crate) fn dir(&self) -> &Path {
        match (&self.passing, &self.place) {
            (Some(passing), _) => passing.path(),
            (None, Place::Folder(dir)) => dir,
            (None, Place::Store(_)) => unreachable!("a folder in a store has one for files on their way"),
        }
    }

    /// A folder of this machine for further notes, which is gone when the ingest is finished. They outlive a killed
    /// process where the folder itself is of this machine.
    pub(crate) fn notes(&self) -> PathBuf {
        self.dir().join(UNFINISHED_DIR)
    }

    /// The parts of an input that are complete, in order and without gaps.
    pub(crate) fn sealed_parts(&self, input: u32) -> Result<Vec<PartNote>, Error> {
        let mut parts: Vec<PartNote> = Vec::new();
        loop {
            let name = note_name(input, parts.len() as u32);
            // A store is not asked for what it did not list: there may be thousands of inputs.
            let listed =
                self.passing.is_none() || self.found.contains_key(&format!("{UNFINISHED_DIR}/{name}"));
            let note = if listed { self.notes.read(&name)? } else { None };
            let Some(note) = note else { return Ok(parts) };
            let part: PartNote = self.understand(&name, &note)?;
            if !part.is_among(&self.found) {
                return Ok(parts);
            }
            let last = part.last;
            parts.push(part);
            if last {
                return Ok(parts);
            }
        }
    }

    /// Notes that a part, whose files are made, is complete. To a store they are sent first.
    pub(crate) fn note_part(&self, input: u32, part: u32, note: &PartNote) -> Result<(), Error> {
        if let Some(shard) = &note.shard {
            self.send(shard)?;
        }
        self.notes.write(&note_name(input, part), &to_json(note))
    }

    /// Sends the files of a shard to the store and removes them here.
    fn send(&self, shard: &ShardEntry) -> Result<(), Error> {
        let (Some(passing), Place::Store(location)) = (&self.passing, &self.place) else { return Ok(()) };
        for name in [&shard.docs_file, &shard.file] {
            let path = passing.path().join(name);
            location.join(name).upload(&path)?;
            fs::remove_file(&path).map_err(Error::io("remove", &path))?;
        }
        Ok(())
    }

    /// Makes the folder complete.
    pub(crate) fn finish(&self, manifest: &Manifest) -> Result<(), Error> {
        self.place.write(MANIFEST_HASH_FILE, manifest_hash(manifest).as_bytes())?;
        match &self.place {
            Place::Folder(dir) => manifest.write(dir)?,
            Place::Store(_) => self.place.write(MANIFEST_FILE, manifest.to_json().as_bytes())?,
        }
        self.clean_up()
    }

    /// Removes what only an unfinished folder has.
    fn clean_up(&self) -> Result<(), Error> {
        let notes = match &self.notes {
            Place::Folder(notes) => notes,
            Place::Store(_) => {
                return self.notes.files()?.keys().try_for_each(|name| self.notes.remove(name));
            }
        };
        self.remove_temporaries()?;
        match fs::remove_dir_all(notes) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(Error::io("remove the folder", notes)(error))
            }
            _ => Ok(()),
        }
    }

    /// Removes what a killed process was writing here; to a store nothing is written but as a whole.
    fn remove_temporaries(&self) -> Result<(), Error> {
        for place in [&self.place, &self.notes] {
            if let Place::Folder(dir) = place
                && dir.exists()
            {
                remove_temporaries(dir)?;
            }
        }
        Ok(())
    }

    fn refuse_foreign_files(&self) -> Result<(), Error> {
        let dir = self.place.path();
        if let Some((task, _)) = task_folders(&self.place)?.first() {
            return Err(Error::TaskFolders { dir, count: task.count() });
        }
        let folders = self.place.folders()?.into_iter().filter(|name| name != UNFINISHED_DIR);
        let unfinished = format!("{UNFINISHED_DIR}/");
        let files = self.found.keys().filter(|name| !name.starts_with(&unfinished)).cloned();
        match files.chain(folders).next() {
            Some(found) => Err(Error::ForeignFolder { dir, found }),
            None => Ok(()),
        }
    }

    fn understand<T: serde::de::DeserializeOwned>(&self, name: &str, json: &[u8]) -> Result<T, Error> {
        serde_json::from_slice(json)
            .map_err(|error| Error::Notes { path: self.notes.path().join(name), reason: error.to_string() })
    }
}

fn note_name(input: u32, part: u32) -> String {
    format!("part-{input:05}-{part:04}.json")
}

/// The content of [`MANIFEST_HASH_FILE`].
pub(crate) fn manifest_hash(manifest: &Manifest) -> String {
    format!("{}  {MANIFEST_FILE}\n", manifest.blake3())
}

/// Two processes in one folder would remove each other's files.
pub(crate) fn lock(dir: &Path) -> Result<File, Error> {
    let file = File::open(dir).map_err(Error::io("open the folder", dir))?;
    match file.try_lock() {
        Err(TryLockError::WouldBlock) => Err(Error::Busy { dir: dir.to_owned() }),
        // Some network file systems know no locks; there it is up to the user.
        Ok(()) | Err(TryLockError::Error(_)) => Ok(file),
    }
}

/// Removes what a killed process was writing.
pub(crate) fn remove_temporaries(dir: &Path) -> Result<(), Error> {
    let entries = fs::read_dir(dir).map_err(Error::io("read the folder", dir))?;
    for entry in entries {
        let entry = entry.map_err(Error::io("read the folder", dir))?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.contains(TEMPORARY_MARK) && OUR_NAMES.iter().any(|ours| name.starts_with(ours)) {
            fs::remove_file(entry.path()).map_err(Error::io("remove", &entry.path()))?;
        }
    }
    Ok(())
}

fn to_json(value: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec_pretty(value).expect("our notes have only string keys")
}
