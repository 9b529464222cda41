//! Which files are ingested: paths, folders and patterns become one sorted list.

use std::collections::{BTreeMap, HashSet};
use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use loader::object::{Found as FoundObject, Location, Meta, ObjectError, Scheme};

use super::format::{Format, MAGIC_BYTES};
use super::object::ObjectFile;
use super::parquet::{self, Segment};
use super::{Source, location, open_part, open_stream};
use crate::error::Error;
use crate::folder::{MANIFEST_HASH_FILE, is_shard_folder};

/// The input that stands for what comes through a pipe.
pub const STANDARD_INPUT: &str = "-";
/// Names of files that are taken from a folder.
const ENDINGS: [&str; 10] = [
    ".json.gz",
    ".jsonl.gz",
    ".json.zst",
    ".jsonl.zst",
    ".json",
    ".jsonl",
    ".parquet",
    ".arrow",
    ".arrows",
    ".feather",
];
/// Bytes at the start and at the end of a file that tell it from another of the same name and size.
const SAMPLE_BYTES: u64 = 64 << 10;

/// One file to be ingested, or a segment of one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Input {
    /// Where it lies: a path, a URL, or [`STANDARD_INPUT`].
    pub path: PathBuf,
    /// Its name below the folder that all inputs share: what is recorded, so that the output does not depend on where
    /// the corpus lies.
    pub name: String,
    /// Its size.
    pub bytes: u64,
    /// What its store said of it, for an object.
    pub object: Option<Meta>,
    /// The part of the file that it is, where a file is several inputs.
    pub segment: Option<Segment>,
}

impl Input {
    /// Opens it as what its content says it is.
    ///
    /// # Errors
    /// As [`open`](super::open); [`Error::ParquetStream`] for a table through a pipe.
    pub fn open(&self, text_field: &str) -> Result<Box<dyn Source>, Error> {
        if self.is_standard_input() {
            return open_stream(io::stdin(), &self.path, text_field, |_| Err(Error::ParquetStream));
        }
        open_part(&self.path, text_field, self.object.as_ref(), self.segment.as_ref())
    }

    /// Whether it is what comes through a pipe.
    pub fn is_standard_input(&self) -> bool {
        self.path == Path::new(STANDARD_INPUT)
    }

    /// Its name without the segment.
    pub fn file(&self) -> &str {
        match self.segment {
            Some(_) => self.name.rsplit_once(" [").map_or(&*self.name, |(file, _)| file),
            None => &self.name,
        }
    }

    /// What tells its content from another of the same name and size: of a file the BLAKE3 of its first and last
    /// 64 KiB in hexadecimal digits, of an object its tag.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn sample(&self) -> Result<String, Error> {
        if self.is_standard_input() {
            return Ok("standard input".to_owned());
        }
        if let Some(location) = location(&self.path)? {
            return Ok(location.head()?.tag());
        }
        let mut hasher = blake3::Hasher::new();
        let mut read = || {
            let mut file = File::open(&self.path)?;
            let bytes = file.metadata()?.len();
            for start in [0, bytes.saturating_sub(SAMPLE_BYTES)] {
                file.seek(SeekFrom::Start(start))?;
                hasher.update_reader((&mut file).take(SAMPLE_BYTES))?;
            }
            Ok(())
        };
        read().map_err(Error::io("read", &self.path))?;
        Ok(hasher.finalize().to_hex().to_string())
    }

    /// The inputs that a file is: its segments where it has several, else itself.
    fn divide(self) -> Result<Vec<Self>, Error> {
        let segments = match (&self.object, location(&self.path)?) {
            (Some(meta), Some(location)) if self.name.ends_with(".parquet") => {
                parquet::segments(&ObjectFile::new(location, meta.clone()), &self.path)?
            }
            (None, None) if !self.is_standard_input() && self.path.is_file() => {
                let mut file = File::open(&self.path).map_err(Error::io("open", &self.path))?;
                let mut start = Vec::new();
                (&mut file)
                    .take(MAGIC_BYTES as u64)
                    .read_to_end(&mut start)
                    .map_err(Error::io("read", &self.path))?;
                match Format::recognise(&start, &self.path) {
                    // One that is too damaged to be divided is reported when its turn comes.
                    Ok(Format::Parquet) => parquet::segments(&file, &self.path).unwrap_or_default(),
                    _ => Vec::new(),
                }
            }
            _ => Vec::new(),
        };
        if segments.len() < 2 {
            return Ok(vec![self]);
        }
        let part = |segment: Segment| Self {
            name: format!("{} [rows {} to {}]", self.name, segment.rows.start, segment.rows.end - 1),
            bytes: segment.bytes,
            segment: Some(segment),
            ..self.clone()
        };
        Ok(segments.into_iter().map(part).collect())
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
    /// (`*`, `?`, `[...]`), on this machine or in an object store, or [`STANDARD_INPUT`] alone.
    ///
    /// # Errors
    /// When one of them names nothing, a pattern is wrong, or a folder cannot be read.
    pub fn find(given: &[String]) -> Result<Self, Error> {
        let mut found = Found::default();
        if given.iter().any(|input| input == STANDARD_INPUT) {
            return match given {
                [_] => Ok(Self::standard_input()),
                _ => Err(Error::StandardInputAmongOthers),
            };
        }
        for input in given {
            if input.contains("://") && found.add_objects(input)? {
                continue;
            }
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

    fn standard_input() -> Self {
        let input =
            Input { path: STANDARD_INPUT.into(), name: STANDARD_INPUT.to_owned(), ..Input::default() };
        Self { files: vec![input], ignored: Vec::new() }
    }

    /// Bytes of all files.
    pub fn bytes(&self) -> u64 {
        self.files.iter().map(|file| file.bytes).sum()
    }
}

#[derive(Default)]
struct Found {
    files: Vec<PathBuf>,
    /// By their URLs, sorted.
    objects: BTreeMap<PathBuf, Meta>,
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

    /// Takes an object, what a folder of objects holds, or what a pattern matches; false for what is no URL.
    fn add_objects(&mut self, given: &str) -> Result<bool, Error> {
        let is_pattern = given.contains(['*', '[']) || (given.contains('?') && !given.starts_with("http"));
        let nothing = || Err(Error::NothingMatches { input: given.to_owned() });
        if is_pattern {
            let pattern = glob::Pattern::new(given)
                .map_err(|source| Error::Pattern { input: given.to_owned(), source })?;
            let fixed = given.split(['*', '?', '[']).next().unwrap_or_default();
            let folder = fixed.rsplit_once('/').map_or(fixed, |(folder, _)| folder);
            let Some(folder) = Location::parse(folder)? else { return Ok(false) };
            let options =
                glob::MatchOptions { require_literal_separator: true, ..glob::MatchOptions::default() };
            let matching: Vec<_> = folder
                .list()?
                .into_iter()
                .filter(|found| pattern.matches_with(&found.location.to_string(), options))
                .collect();
            if matching.is_empty() {
                return nothing();
            }
            self.objects.extend(matching.into_iter().map(object_entry));
            return Ok(true);
        }
        let Some(location) = Location::parse(given)? else { return Ok(false) };
        let is_web = location.scheme() == Scheme::Http;
        let below = if is_web { Vec::new() } else { location.list()? };
        if below.is_empty() {
            return match location.head() {
                Ok(meta) => {
                    self.objects.extend([object_entry(FoundObject { location, meta })]);
                    Ok(true)
                }
                Err(loader::Error::Object(error))
                    if !is_web && matches!(*error, ObjectError::NotFound { .. }) =>
                {
                    nothing()
                }
                Err(error) => Err(error.into()),
            };
        }
        let before = self.objects.len();
        let shards = shard_folders(&below);
        for found in below {
            let url = found.location.to_string();
            let name = found.location.name().to_lowercase();
            if name.starts_with('.') || shards.iter().any(|folder| url.starts_with(folder.as_str())) {
                continue;
            }
            if ENDINGS.iter().any(|ending| name.ends_with(ending)) {
                self.objects.extend([object_entry(found)]);
            } else {
                self.ignored.push(url.into());
            }
        }
        if self.objects.len() == before {
            return Err(Error::NoInputIn { dir: given.into(), endings: ENDINGS.join(", *") });
        }
        Ok(true)
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
        let urls = self.objects.keys();
        let shared =
            shared_folder(unique.iter().map(|(absolute, _)| &**absolute).chain(urls.map(|url| &**url)));
        let name = |absolute: &Path| {
            absolute.strip_prefix(&shared).unwrap_or(absolute).to_string_lossy().into_owned()
        };
        let mut files = Vec::new();
        for (absolute, path) in unique {
            let bytes = fs::metadata(&path).map_err(Error::io("open", &path))?.len();
            files.extend(Input { path, name: name(&absolute), bytes, ..Input::default() }.divide()?);
        }
        for (url, meta) in &self.objects {
            let (name, bytes, object) = (name(url), meta.bytes, Some(meta.clone()));
            files.extend(Input { path: url.clone(), name, bytes, object, segment: None }.divide()?);
        }
        let mut ignored = self.ignored;
        ignored.sort();
        Ok(Inputs { files, ignored })
    }
}

fn object_entry(found: FoundObject) -> (PathBuf, Meta) {
    (found.location.to_string().into(), found.meta)
}

/// The URLs of the folders, with a slash at their ends, that hold shards.
fn shard_folders(objects: &[FoundObject]) -> Vec<String> {
    let urls = objects.iter().map(|found| found.location.to_string());
    urls.filter_map(|url| url.strip_suffix(MANIFEST_HASH_FILE).map(str::to_owned)).collect()
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
            "c/1.orc",
            "c/.hidden.json",
            "other.txt",
        ]);
        let inputs = find(dir.path(), &["c/*.gz", "c", "c/1.json.gz"]).unwrap();
        assert_eq!(names(&inputs), ["1.json.gz", "2.json.gz", "deep/3.jsonl"]);
        assert_eq!(inputs.ignored, [dir.path().join("c/1.orc")]);
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
