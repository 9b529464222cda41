//! Where the files of a shard folder lie: on this machine, or below a URL in an object store.
//!
//! Both know the same few operations, and in both a file appears as a whole or not at all: here it is written beside and
//! renamed, in a store an object is there once all of it has been sent.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use loader::atomic;
use loader::object::{Location, ObjectError, Scheme};
use loader::shard::{MANIFEST_FILE, Manifest};
use tempfile::TempDir;

use crate::error::Error;

/// What the names of folders for files on their way begin with.
const PASSING: &str = "tessera-ingest-";

/// The manifest of a finished folder, of this machine or below a URL.
///
/// # Errors
/// When there is none, or it cannot be read or is not valid.
pub fn read_manifest(dir: &Path) -> Result<Manifest, Error> {
    Place::of(dir)?.manifest()
}

/// Whether a folder is finished.
///
/// # Errors
/// [`Error::ReadOnlyStore`], or when a store does not answer.
pub(crate) fn has_manifest(dir: &Path) -> Result<bool, Error> {
    let place = Place::of(dir)?;
    if let Place::Store(_) = place {
        place.create()?;
    }
    Ok(place.size(MANIFEST_FILE)?.is_some())
}

/// A folder for shards.
#[derive(Clone, Debug)]
pub(crate) enum Place {
    /// On this machine.
    Folder(PathBuf),
    /// In an object store, where folders are beginnings of names.
    Store(Location),
}

impl Place {
    /// The folder that `dir`, a path or a URL, stands for; there may be none yet.
    ///
    /// # Errors
    /// When a URL leads nowhere.
    pub(crate) fn of(dir: &Path) -> Result<Self, Error> {
        let location = dir.to_str().map(Location::parse).transpose()?.flatten();
        Ok(location.map_or_else(|| Self::Folder(dir.to_owned()), Self::Store))
    }

    /// Its path or its URL.
    pub(crate) fn path(&self) -> PathBuf {
        match self {
            Self::Folder(dir) => dir.clone(),
            Self::Store(location) => location.to_string().into(),
        }
    }

    /// A folder in it.
    pub(crate) fn join(&self, name: &str) -> Self {
        match self {
            Self::Folder(dir) => Self::Folder(dir.join(name)),
            Self::Store(location) => Self::Store(location.join(name)),
        }
    }

    /// Makes sure that it can be written to.
    ///
    /// # Errors
    /// [`Error::ReadOnlyStore`] for a web server, or when the folder cannot be created.
    pub(crate) fn create(&self) -> Result<(), Error> {
        match self {
            Self::Folder(dir) => fs::create_dir_all(dir).map_err(Error::io("create the folder", dir)),
            Self::Store(location) if location.scheme() == Scheme::Http => {
                Err(Error::ReadOnlyStore { url: location.to_string() })
            }
            Self::Store(_) => Ok(()),
        }
    }

    /// The sizes of all files in it, in a store also of those in folders below; none where there is no such folder.
    ///
    /// # Errors
    /// When it cannot be listed.
    pub(crate) fn files(&self) -> Result<BTreeMap<String, u64>, Error> {
        let dir = match self {
            Self::Folder(dir) => dir,
            Self::Store(location) => {
                let below = location.to_string().len() + 1;
                let found = location.list()?.into_iter();
                return Ok(found
                    .map(|found| (found.location.to_string().split_off(below), found.meta.bytes))
                    .collect());
            }
        };
        let entries = match fs::read_dir(dir) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(BTreeMap::new()),
            entries => entries.map_err(Error::io("read the folder", dir))?,
        };
        let mut files = BTreeMap::new();
        for entry in entries {
            let entry = entry.map_err(Error::io("read the folder", dir))?;
            // A file that another process renames meanwhile is not there.
            if let Ok(found) = fs::metadata(entry.path())
                && found.is_file()
            {
                files.insert(entry.file_name().to_string_lossy().into_owned(), found.len());
            }
        }
        Ok(files)
    }

    /// The names of the folders in it.
    ///
    /// # Errors
    /// When it cannot be listed.
    pub(crate) fn folders(&self) -> Result<Vec<String>, Error> {
        let Self::Folder(dir) = self else {
            let files = self.files()?.into_keys();
            let mut folders: Vec<_> =
                files.filter_map(|name| Some(name.split_once('/')?.0.to_owned())).collect();
            folders.dedup();
            return Ok(folders);
        };
        let entries = match fs::read_dir(dir) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.map_err(Error::io("read the folder", dir))?,
        };
        let mut folders = Vec::new();
        for entry in entries {
            let entry = entry.map_err(Error::io("read the folder", dir))?;
            if entry.path().is_dir() {
                folders.push(entry.file_name().to_string_lossy().into_owned());
            }
        }
        Ok(folders)
    }

    /// The size of a file; nothing if there is none.
    ///
    /// # Errors
    /// When it cannot be asked for.
    pub(crate) fn size(&self, name: &str) -> Result<Option<u64>, Error> {
        match self {
            Self::Folder(dir) => Ok(dir.join(name).metadata().ok().map(|found| found.len())),
            Self::Store(location) => Ok(found(location.join(name).size())?),
        }
    }

    /// What a file holds; nothing if there is none.
    ///
    /// # Errors
    /// When it cannot be read.
    pub(crate) fn read(&self, name: &str) -> Result<Option<Vec<u8>>, Error> {
        match self {
            Self::Folder(dir) => match fs::read(dir.join(name)) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
                read => read.map(Some).map_err(Error::io("read", &dir.join(name))),
            },
            Self::Store(location) => Ok(found(location.join(name).read_all())?),
        }
    }

    /// Writes a file, which appears as a whole.
    ///
    /// # Errors
    /// When the disk is full, or the store does not take it.
    pub(crate) fn write(&self, name: &str, content: &[u8]) -> Result<(), Error> {
        match self {
            Self::Folder(dir) => Ok(atomic::write_file(&dir.join(name), |file| file.write_all(content))?),
            Self::Store(location) => Ok(location.join(name).write(content.to_vec()).map(drop)?),
        }
    }

    /// Removes a file; there may be none.
    ///
    /// # Errors
    /// When it is there and cannot be removed.
    pub(crate) fn remove(&self, name: &str) -> Result<(), Error> {
        match self {
            Self::Folder(dir) => match fs::remove_file(dir.join(name)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    Err(Error::io("remove", &dir.join(name))(error))
                }
                _ => Ok(()),
            },
            Self::Store(location) => Ok(location.join(name).delete()?),
        }
    }

    /// The manifest; nothing if there is none.
    ///
    /// # Errors
    /// When it cannot be read or is not valid.
    pub(crate) fn find_manifest(&self) -> Result<Option<Manifest>, Error> {
        let Some(json) = self.read(MANIFEST_FILE)? else { return Ok(None) };
        Ok(Some(Manifest::from_json(&json, &self.path().join(MANIFEST_FILE))?))
    }

    /// The manifest.
    ///
    /// # Errors
    /// When there is none, or it cannot be read or is not valid.
    pub(crate) fn manifest(&self) -> Result<Manifest, Error> {
        let none = || loader::Error::NoManifest { dir: self.path() };
        Ok(self.find_manifest()?.ok_or_else(none)?)
    }

    /// A file as a path of this machine: where it lies, or a copy that is removed when dropped.
    ///
    /// # Errors
    /// When it cannot be fetched.
    pub(crate) fn fetch(&self, name: &str) -> Result<Fetched, Error> {
        match self {
            Self::Folder(dir) => Ok(Fetched { path: dir.join(name), _copy: None }),
            Self::Store(location) => {
                let dir = passing_folder()?;
                let path = dir.path().join(name.rsplit('/').next().unwrap_or(name));
                location.join(name).download(&path)?;
                Ok(Fetched { path, _copy: Some(dir) })
            }
        }
    }
}

/// A file that can be opened.
pub(crate) struct Fetched {
    pub(crate) path: PathBuf,
    _copy: Option<TempDir>,
}

/// A folder for files that are on their way to or from a store, removed when dropped.
///
/// # Errors
/// When the folder for temporary files cannot be written to.
pub(crate) fn passing_folder() -> Result<TempDir, Error> {
    let folder = tempfile::Builder::new().prefix(PASSING).tempdir();
    folder.map_err(Error::io("create a folder in", &std::env::temp_dir()))
}

/// Nothing in place of an object that is not there.
fn found<T>(answer: Result<T, loader::Error>) -> Result<Option<T>, loader::Error> {
    match answer {
        Err(loader::Error::Object(error)) if matches!(*error, ObjectError::NotFound { .. }) => Ok(None),
        answer => answer.map(Some),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_that_is_not_there_is_empty() {
        let dir = tempfile::tempdir().unwrap();
        let place = Place::of(&dir.path().join("none")).unwrap();
        assert!(place.files().unwrap().is_empty() && place.folders().unwrap().is_empty());
        assert_eq!((place.size("a").unwrap(), place.read("a").unwrap()), (None, None));
        assert!(place.find_manifest().unwrap().is_none());
        place.remove("a").unwrap();
        place.create().unwrap();
        place.write("a", b"text").unwrap();
        fs::create_dir(dir.path().join("none/deeper")).unwrap();
        assert_eq!(place.files().unwrap(), BTreeMap::from([("a".to_owned(), 4)]));
        assert_eq!(place.folders().unwrap(), ["deeper"]);
        assert_eq!(place.read("a").unwrap(), Some(b"text".to_vec()));
    }

    #[test]
    fn web_servers_are_not_written_to() {
        let said =
            Place::of(Path::new("https://example.org/shards")).unwrap().create().unwrap_err().to_string();
        assert!(said.contains("https://example.org/shards") && said.contains("s3://"), "{said}");
    }
}
