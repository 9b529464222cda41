//! Which files are ingested: paths, folders and patterns become one sorted list.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use crate::error::Error;
use crate::folder::is_shard_folder;

/// Names of files that are taken from a folder.
const ENDINGS: [&str; 4] = [".json.gz", ".jsonl.gz", ".json", ".jsonl"];
/// Bytes at the start and at the end of a file that tell it from another of the same name and size.
const SAMPLE_BYTES: u64 = 64 << 10;

/// One file to be ingested.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Input {
    /// Where it lies.
    pub path: PathBuf,
    /// Its name below the folder that all inputs share: what is recorded, so that the output does not depend on where
    /// the corpus lies.
    pub name: String,
    /// Its size.
    pub bytes: u64,
}

impl Input {
    /// BLAKE3 of the file's first and last 64 KiB, in hexadecimal digits.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn sample(&self) -> Result<String, Error> {
        let mut hasher = blake3::Hasher::new();
        let mut read = || {
            let mut file = File::open(&self.path)?;
            for start in [0, self.bytes.saturating_sub(SAMPLE_BYTES)] {
                file.seek(SeekFrom::Start(start))?;
                hasher.update_reader((&mut file).take(SAMPLE_BYTES))?;
            }
            Ok(())
        };
        read().map_err(Error::io("read", &self.path))?;
        Ok(hasher.finalize().to_hex().to_string())
    }
}

/// The files to be ingested.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inputs {
    /// The files, each once, sorted by path.
    pub files: Vec<Input>,
    /// Files in the given folders that are of no format that can be read, by their names.
    pub ignored: Vec<PathBuf>,
}

impl Inputs {
    /// Finds the files that `given` names: files, folders (with all folders in them but shard folders) and patterns
    /// (`*`, `?`, `[...]`).
    ///
    /// # Errors
    /// When one of them names nothing, a pattern is wrong, or a folder cannot be read.
    pub fn find(given: &[String]) -> Result<Self, Error> {
        let mut found = Found::default();
        for input in given {
            let path = Path::new(input);
            if path.exists() {
                found.add(path)?;
                continue;
            }
            let matches =
                glob::glob(input).map_err(|source| Error::Pattern { input: input.clone(), source })?;
            let mut any = false;
            for path in matches {
                let path = path.map_err(|error| {
                    let path = error.path().to_owned();
                    Error::Io { action: "read", path, source: error.into() }
                })?;
                any = true;
                found.add(&path)?;
            }
            if !any {
                return Err(Error::NothingMatches { input: input.clone() });
            }
        }
        found.finish()
    }

    /// Bytes of all files.
    pub fn bytes(&self) -> u64 {
        self.files.iter().map(|file| file.bytes).sum()
    }
}

#[derive(Default)]
struct Found {
    files: Vec<PathBuf>,
    ignored: Vec<PathBuf>,
}

impl Found {
    /// Takes a file whatever its name, or what a folder holds.
    fn add(&mut self, path: &Path) -> Result<(), Error> {
        if !path.is_dir() {
            self.files.push(path.to_owned());
            return Ok(());
        }
        let before = self.files.len();
        self.add_folder(path)?;
        if self.files.len() == before {
            return Err(Error::NoInputIn { dir: path.to_owned(), endings: ENDINGS.join(", *") });
        }
        Ok(())
    }

    fn add_folder(&mut self, dir: &Path) -> Result<(), Error> {
        let entries = fs::read_dir(dir).map_err(Error::io("read the folder", dir))?;
        for entry in entries {
            let entry = entry.map_err(Error::io("read the folder", dir))?;
            let (path, name) = (entry.path(), entry.file_name().to_string_lossy().to_lowercase());
            if name.starts_with('.') {
                continue;
            }
            // Links to folders are not followed: they may lead round in a circle.
            if entry.file_type().map_err(Error::io("read", &path))?.is_dir() {
                if !is_shard_folder(&path) {
                    self.add_folder(&path)?;
                }
            } else if ENDINGS.iter().any(|ending| name.ends_with(ending)) {
                self.files.push(path);
            } else {
                self.ignored.push(path);
            }
        }
        Ok(())
    }

    /// Sorts, drops what was named twice, and names the rest.
    fn finish(self) -> Result<Inputs, Error> {
        let mut paths = Vec::new();
        for path in self.files {
            let absolute = std::path::absolute(&path).map_err(Error::io("resolve", &path))?;
            paths.push((absolute, path));
        }
        paths.sort();
        let mut seen = HashSet::new();
        let mut unique = Vec::new();
        for (absolute, path) in paths {
            let real = fs::canonicalize(&path).map_err(Error::io("open", &path))?;
            if seen.insert(real) {
                unique.push((absolute, path));
            }
        }
        let shared = shared_folder(unique.iter().map(|(absolute, _)| &**absolute));
        let files = unique.into_iter().map(|(absolute, path)| {
            let name = absolute.strip_prefix(&shared).unwrap_or(&absolute).to_string_lossy().into_owned();
            let bytes = fs::metadata(&path).map_err(Error::io("open", &path))?.len();
            Ok(Input { path, name, bytes })
        });
        let mut ignored = self.ignored;
        ignored.sort();
        Ok(Inputs { files: files.collect::<Result<_, Error>>()?, ignored })
    }
}

/// The deepest folder that all files lie in.
fn shared_folder<'a>(mut files: impl Iterator<Item = &'a Path>) -> PathBuf {
    let first = files.next().and_then(Path::parent).unwrap_or(Path::new(""));
    files.filter_map(Path::parent).fold(first.to_owned(), |shared, folder| {
        let same = shared.components().zip(folder.components()).take_while(|(a, b)| a == b);
        same.map(|(component, _)| component).collect()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(files: &[&str]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for file in files {
            let path = dir.path().join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, file).unwrap();
        }
        dir
    }

    fn find(dir: &Path, given: &[&str]) -> Result<Inputs, String> {
        let given: Vec<_> = given.iter().map(|name| dir.join(name).to_string_lossy().into_owned()).collect();
        Inputs::find(&given).map_err(|error| error.to_string().replace(&*dir.to_string_lossy(), "DIR"))
    }

    fn names(inputs: &Inputs) -> Vec<&str> {
        inputs.files.iter().map(|file| &*file.name).collect()
    }

    #[test]
    fn files_folders_and_patterns_make_one_sorted_list() {
        let dir = folder(&[
            "c/2.json.gz",
            "c/1.json.gz",
            "c/deep/3.jsonl",
            "c/1.parquet",
            "c/.hidden.json",
            "other.txt",
        ]);
        let inputs = find(dir.path(), &["c/*.gz", "c", "c/1.json.gz"]).unwrap();
        assert_eq!(names(&inputs), ["1.json.gz", "2.json.gz", "deep/3.jsonl"]);
        assert_eq!(inputs.ignored, [dir.path().join("c/1.parquet")]);
        assert_eq!(inputs.bytes(), 11 + 11 + 14);
        let inputs = find(dir.path(), &["other.txt", "c/deep"]).unwrap();
        assert_eq!(names(&inputs), ["c/deep/3.jsonl", "other.txt"]);
        assert_eq!(names(&find(dir.path(), &["c/2.json.gz"]).unwrap()), ["2.json.gz"]);
    }

    #[test]
    fn shard_folders_among_the_inputs_are_passed_over() {
        let dir =
            folder(&["a.json", "shards/manifest.b3", "shards/manifest.json", "new/unfinished/identity.json"]);
        assert_eq!(names(&find(dir.path(), &["."]).unwrap()), ["a.json"]);
    }

    #[cfg(unix)]
    #[test]
    fn links_that_lead_round_are_not_followed() {
        let dir = folder(&["c/a.json"]);
        std::os::unix::fs::symlink(dir.path(), dir.path().join("c/round")).unwrap();
        assert_eq!(names(&find(dir.path(), &["c"]).unwrap()), ["a.json"]);
    }

    #[cfg(unix)]
    #[test]
    fn a_file_under_two_names_is_taken_once() {
        let dir = folder(&["b.json"]);
        std::os::unix::fs::symlink(dir.path().join("b.json"), dir.path().join("a.json")).unwrap();
        assert_eq!(names(&find(dir.path(), &["."]).unwrap()), ["a.json"]);
    }

    #[test]
    fn what_names_nothing_is_an_error() {
        let dir = folder(&["empty/readme.txt"]);
        let said = find(dir.path(), &["no/*.gz"]).unwrap_err();
        assert!(said.starts_with("no file matches DIR/no/*.gz; check the path"), "{said}");
        let said = find(dir.path(), &["empty"]).unwrap_err();
        assert!(said.starts_with("the folder DIR/empty holds no file named *.json.gz, *.jsonl.gz"), "{said}");
        let said = find(dir.path(), &["a***"]).unwrap_err();
        assert!(said.contains("is not a valid pattern"), "{said}");
    }

    #[test]
    fn a_sample_tells_files_of_one_size_apart() {
        let dir = folder(&["a.json"]);
        let sample = |bytes: &[u8]| {
            fs::write(dir.path().join("a.json"), bytes).unwrap();
            find(dir.path(), &["a.json"]).unwrap().files[0].sample().unwrap()
        };
        let mut bytes = vec![b'x'; 300_000];
        let before = sample(&bytes);
        assert_eq!(sample(&bytes), before);
        *bytes.last_mut().unwrap() = b'y';
        assert_ne!(sample(&bytes), before);
    }
}
