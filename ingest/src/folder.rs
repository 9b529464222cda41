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

use std::fs::{self, File, TryLockError};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use loader::atomic::{self, TEMPORARY_MARK};
use loader::shard::{MANIFEST_FILE, Manifest};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::Error;
use crate::identity::Identity;
use crate::part::PartNote;
use crate::task::task_folders;
use crate::tokenizer::{TOKENIZER_FILE, TokenizerFile};

/// Holds the BLAKE3 of the manifest, so that a changed manifest is noticed too.
pub const MANIFEST_HASH_FILE: &str = "manifest.b3";
/// Exists while an ingest is not finished.
const UNFINISHED_DIR: &str = "unfinished";
const IDENTITY_FILE: &str = "identity.json";
/// Beginnings of the names of files that are written here.
const OUR_NAMES: [&str; 5] = ["shard-", "part-", "manifest.", "tokenizer.", "identity."];

/// Whether a folder holds shards, finished or not.
pub(crate) fn is_shard_folder(dir: &Path) -> bool {
    dir.join(MANIFEST_HASH_FILE).exists() || dir.join(UNFINISHED_DIR).join(IDENTITY_FILE).exists()
}

/// An output folder that this process alone writes to.
pub(crate) struct OutFolder {
    dir: PathBuf,
    notes: PathBuf,
    /// An advisory lock on the folder, let go of when the process ends in whatever way.
    _lock: File,
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
        fs::create_dir_all(dir).map_err(Error::io("create the folder", dir))?;
        let folder = Self { dir: dir.to_owned(), notes: dir.join(UNFINISHED_DIR), _lock: lock(dir)? };
        let other = |state, difference| Error::OtherIngest { dir: dir.to_owned(), state, difference };
        if dir.join(MANIFEST_FILE).exists() {
            let manifest = Manifest::read(dir)?;
            if let Some(difference) = identity.difference_from(&manifest) {
                return Err(other("was made", difference));
            }
            folder.clean_up()?;
            return Ok(State::Finished(Box::new(manifest)));
        }
        let identity_file = folder.notes.join(IDENTITY_FILE);
        if identity_file.exists() {
            let noted = fs::read(&identity_file).map_err(Error::io("read", &identity_file))?;
            if noted != to_json(identity) {
                let difference = identity.difference(&read_json(&identity_file)?);
                return Err(other(
                    "was begun",
                    difference.unwrap_or_else(|| "its notes are not ours".to_owned()),
                ));
            }
            remove_temporaries(&folder.dir)?;
            remove_temporaries(&folder.notes)?;
        } else {
            folder.refuse_foreign_files()?;
            fs::create_dir_all(&folder.notes).map_err(Error::io("create the folder", &folder.notes))?;
            write_json(&identity_file, identity)?;
        }
        atomic::write_file(&dir.join(TOKENIZER_FILE), |file| file.write_all(tokenizer.bytes()))?;
        Ok(State::Unfinished(folder))
    }

    /// The folder.
    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// The folder of the notes, which is gone when the ingest is finished.
    pub(crate) fn notes(&self) -> &Path {
        &self.notes
    }

    /// The parts of an input that are complete, in order and without gaps.
    pub(crate) fn sealed_parts(&self, input: u32) -> Result<Vec<PartNote>, Error> {
        let mut parts: Vec<PartNote> = Vec::new();
        loop {
            let path = self.note_path(input, parts.len() as u32);
            if !path.exists() {
                return Ok(parts);
            }
            let part: PartNote = read_json(&path)?;
            if !part.is_in(&self.dir) {
                return Ok(parts);
            }
            let last = part.last;
            parts.push(part);
            if last {
                return Ok(parts);
            }
        }
    }

    /// Notes that a part, whose files are in place, is complete.
    pub(crate) fn note_part(&self, input: u32, part: u32, note: &PartNote) -> Result<(), Error> {
        write_json(&self.note_path(input, part), note)
    }

    /// Makes the folder complete.
    pub(crate) fn finish(&self, manifest: &Manifest) -> Result<(), Error> {
        let hash = manifest_hash(manifest);
        atomic::write_file(&self.dir.join(MANIFEST_HASH_FILE), |file| file.write_all(hash.as_bytes()))?;
        manifest.write(&self.dir)?;
        self.clean_up()
    }

    /// Removes what only an unfinished folder has.
    fn clean_up(&self) -> Result<(), Error> {
        remove_temporaries(&self.dir)?;
        match fs::remove_dir_all(&self.notes) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(Error::io("remove the folder", &self.notes)(error))
            }
            _ => Ok(()),
        }
    }

    fn refuse_foreign_files(&self) -> Result<(), Error> {
        if let Some((task, _)) = task_folders(&self.dir)?.first() {
            return Err(Error::TaskFolders { dir: self.dir.clone(), count: task.count() });
        }
        let entries = fs::read_dir(&self.dir).map_err(Error::io("read the folder", &self.dir))?;
        for entry in entries {
            let entry = entry.map_err(Error::io("read the folder", &self.dir))?;
            if entry.file_name() != UNFINISHED_DIR {
                let found = entry.file_name().to_string_lossy().into_owned();
                return Err(Error::ForeignFolder { dir: self.dir.clone(), found });
            }
        }
        Ok(())
    }

    fn note_path(&self, input: u32, part: u32) -> PathBuf {
        self.notes.join(format!("part-{input:05}-{part:04}.json"))
    }
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

fn write_json(path: &Path, value: &impl Serialize) -> Result<(), Error> {
    Ok(atomic::write_file(path, |file| file.write_all(&to_json(value)))?)
}

fn to_json(value: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec_pretty(value).expect("our notes have only string keys")
}

fn read_json<T: DeserializeOwned>(path: &Path) -> Result<T, Error> {
    let json = fs::read(path).map_err(Error::io("read", path))?;
    serde_json::from_slice(&json)
        .map_err(|error| Error::Notes { path: path.to_owned(), reason: error.to_string() })
}
