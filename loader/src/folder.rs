//! A shard folder as it is named on a command line: a path, and a weight where several folders are mixed.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use crate::config::invalid;
use crate::error::Error;

/// A shard folder and its share of every batch.
///
/// Reads `PATH` or `PATH=WEIGHT`. A path may contain `=`: what exists as a whole is a path, else what stands behind the last
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
    /// The folder.
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
