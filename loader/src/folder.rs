//! A shard folder as it is named on a command line: a path or a URL, and a weight where several folders are mixed.

use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::{fmt, fs, io};

use crate::config::invalid;
use crate::error::Error;
use crate::object::{Location, ObjectError};
use crate::shard::{MANIFEST_FILE, Manifest};

/// A shard folder and its share of every batch.
///
/// Reads `PATH` or `PATH=WEIGHT`, where a path may also be a URL such as `s3://bucket/shards`. A path may contain `=`: what exists as a whole is a path, else what stands behind the last
/// `=` is the weight, if it is a number.
///
/// ```
/// use loader::ShardFolder;
///
/// let folder: ShardFolder = "shards/lang=en=0.7".parse()?;
/// assert_eq!((folder.path.to_str(), folder.weight), (Some("shards/lang=en"), Some(0.7)));
/// let folder: ShardFolder = "shards/lang=en".parse()?;
/// assert_eq!((folder.path.to_str(), folder.weight), (Some("shards/lang=en"), None));
/// # Ok::<(), loader::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct ShardFolder {
    /// The folder, or the URL of one.
    pub path: PathBuf,
    /// Its share of the samples of a batch, in proportion to the weights of the other folders. Without weights all folders
    /// are one corpus, of which every document is as likely as every other.
    pub weight: Option<f64>,
}

impl From<PathBuf> for ShardFolder {
    fn from(path: PathBuf) -> Self {
        Self { path, weight: None }
    }
}

impl FromStr for ShardFolder {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let whole = || Ok(Self::from(PathBuf::from(text)));
        let Some((path, weight)) = text.rsplit_once('=') else { return whole() };
        match weight.parse::<f64>() {
            _ if path.is_empty() || Path::new(text).exists() => whole(),
            Ok(weight) if weight.is_finite() && weight > 0.0 => {
                Ok(Self { path: path.into(), weight: Some(weight) })
            }
            Ok(_) => Err(invalid(
                "a weight of --shards",
                weight,
                "a number above 0; leave out a folder that gets none",
            )),
            // A misspelt weight is told from a path by the folder that it would belong to.
            Err(_) if Path::new(path).exists() => {
                Err(invalid("a weight of --shards", format!("`{weight}`"), "a number above 0, as in DIR=0.7"))
            }
            Err(_) => whole(),
        }
    }
}

impl fmt::Display for ShardFolder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.weight {
            Some(weight) => write!(f, "{}={weight}", self.path.display()),
            None => write!(f, "{}", self.path.display()),
        }
    }
}

/// The weights of folders: one for each, or none at all.
///
/// # Errors
/// [`Error::Config`] when only some have one.
pub(crate) fn weights(folders: &[ShardFolder]) -> Result<Option<Vec<f64>>, Error> {
    let weights: Vec<f64> = folders.iter().filter_map(|folder| folder.weight).collect();
    match folders.iter().find(|folder| folder.weight.is_none()) {
        _ if weights.is_empty() => Ok(None),
        None => Ok(Some(weights)),
        Some(without) => Err(invalid(
            "--shards",
            format!("{} without a weight", without.path.display()),
            "a weight for every folder, as in DIR=0.7, or for none",
        )),
    }
}

/// The path of a folder from the root of the file system; a URL without a slash at its end.
///
/// # Errors
/// When there is no such folder, or the URL leads nowhere.
pub fn absolute(path: &Path) -> Result<PathBuf, Error> {
    match Place::of(path)? {
        Place::Folder(path) => fs::canonicalize(&path).map_err(Error::io("find", &path)),
        Place::Store(location) => Ok(location.to_string().into()),
    }
}

/// Where the files of a shard folder lie.
#[derive(Clone, Debug)]
pub(crate) enum Place {
    /// On this machine.
    Folder(PathBuf),
    /// In an object store.
    Store(Location),
}

impl Place {
    /// The folder that a path or a URL stands for.
    ///
    /// # Errors
    /// When a URL leads nowhere.
    pub(crate) fn of(dir: &Path) -> Result<Self, Error> {
        let location = dir.to_str().map(Location::parse).transpose()?.flatten();
        Ok(location.map_or_else(|| Self::Folder(dir.to_owned()), Self::Store))
    }

    /// Path or URL of a file in it.
    pub(crate) fn path_of(&self, name: &str) -> PathBuf {
        match self {
            Self::Folder(dir) => dir.join(name),
            Self::Store(location) => location.join(name).to_string().into(),
        }
    }

    /// What a file in it holds.
    ///
    /// # Errors
    /// [`Error::MissingFile`] when there is none; when it cannot be read.
    pub(crate) fn read(&self, name: &str) -> Result<Vec<u8>, Error> {
        match self {
            Self::Folder(dir) => fs::read(dir.join(name)).map_err(Error::read(&dir.join(name))),
            Self::Store(location) => location.join(name).read_all(),
        }
    }

    /// Its manifest.
    ///
    /// # Errors
    /// [`Error::NoManifest`] when there is none; when it cannot be read or is not valid.
    pub(crate) fn manifest(&self) -> Result<Manifest, Error> {
        let none = |dir: PathBuf| Err(Error::NoManifest { dir });
        match (self, self.read(MANIFEST_FILE)) {
            (_, Ok(json)) => Manifest::from_json(&json, &self.path_of(MANIFEST_FILE)),
            (Self::Folder(dir), Err(error)) => match dir.metadata() {
                Ok(found) if !found.is_dir() => {
                    Err(Error::NotAFolder { path: dir.clone(), found: "no folder" })
                }
                Err(reason) if reason.kind() == io::ErrorKind::NotFound => {
                    Err(Error::NotAFolder { path: dir.clone(), found: "not there" })
                }
                _ if matches!(error, Error::MissingFile { .. }) => none(dir.clone()),
                _ => Err(error),
            },
            (Self::Store(location), Err(Error::Object(error)))
                if matches!(*error, ObjectError::NotFound { .. }) =>
            {
                none(location.to_string().into())
            }
            (_, Err(error)) => Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_whose_name_looks_like_a_weight_is_a_folder() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("run=0.5");
        std::fs::create_dir(&path).unwrap();
        let parse = |text: String| text.parse::<ShardFolder>();
        let folder = parse(path.display().to_string()).unwrap();
        assert_eq!((folder.path.clone(), folder.weight), (path.clone(), None));
        let folder = parse(format!("{}=2", path.display())).unwrap();
        assert_eq!((folder.path.clone(), folder.weight), (path.clone(), Some(2.0)));
        assert_eq!(parse(folder.to_string()).unwrap(), folder);
        // No such folder, so the last part is a weight, as in a list of folders that does not exist yet.
        let folder = parse(format!("{}/none=0.5", dir.path().display())).unwrap();
        assert_eq!((folder.path, folder.weight), (dir.path().join("none"), Some(0.5)));
    }

    #[test]
    fn a_url_is_a_folder_too() {
        let parse = |text: &str| text.parse::<ShardFolder>().unwrap();
        let folder = parse("s3://bucket/lang=en=0.7");
        assert_eq!((folder.path.to_str(), folder.weight), (Some("s3://bucket/lang=en"), Some(0.7)));
        let folder = parse("s3://bucket/lang=en/");
        assert_eq!((folder.path.to_str(), folder.weight), (Some("s3://bucket/lang=en/"), None));
        assert_eq!(absolute(&folder.path).unwrap(), Path::new("s3://bucket/lang=en"));
        assert!(absolute(Path::new("no/such/folder")).is_err());
    }

    #[test]
    fn weights_that_make_no_sense_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        for weight in ["0", "-1", "NaN", "inf", "0,7", ""] {
            let message = format!("{}={weight}", dir.path().display()).parse::<ShardFolder>().unwrap_err();
            assert!(message.to_string().contains("expected a number above 0"), "{message}");
        }
        let folders = ["a=1", "b"].map(|text| text.parse::<ShardFolder>().unwrap());
        let message = weights(&folders).unwrap_err().to_string();
        assert_eq!(
            message,
            "--shards is b without a weight, expected a weight for every folder, as in DIR=0.7, or for none"
        );
        assert_eq!(weights(&folders[..1]).unwrap(), Some(vec![1.0]));
        assert_eq!(weights(&folders[1..]).unwrap(), None);
    }
}
