//! Corpora made on the spot, and the program started on them.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{SystemTime, UNIX_EPOCH};

use assert_cmd::cargo::cargo_bin;
use flate2::{Compression, write::GzEncoder};
use serde_json::{Value, json};
use tempfile::TempDir;

/// A folder of input files, removed when dropped.
pub(crate) struct Corpus(TempDir);

impl Corpus {
    /// A folder without files.
    pub(crate) fn empty() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    /// `files` packed files of `documents` short documents each.
    pub(crate) fn of(files: usize, documents: usize) -> Self {
        let corpus = Self::empty();
        for file in 0..files {
            let rows = (0..documents).map(|row| {
                let words = 5 + (row * 7 + file * 3) % 40;
                let text = format!("Page {row} of book {file}. {}", "The quick brown fox. ".repeat(words));
                let url = format!("https://example.org/{file}/{row}");
                json!({ "text": text, "timestamp": "2019-04-25T12:57:54Z", "url": url }).to_string()
            });
            corpus.pack(&format!("c4.{file:05}.json.gz"), &(rows.collect::<Vec<_>>().join("\n") + "\n"));
        }
        corpus
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Writes a file as it is.
    pub(crate) fn write(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        fs::write(&path, content).unwrap();
        path
    }

    /// Writes a file packed with gzip.
    pub(crate) fn pack(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        let mut packed = GzEncoder::new(File::create(&path).unwrap(), Compression::default());
        packed.write_all(content.as_ref()).unwrap();
        packed.finish().unwrap();
        path
    }

    /// The command that ingests all packed files of the corpus into its folder `out`.
    pub(crate) fn ingest(&self, out: &str, options: &[&str]) -> Command {
        let mut command = program(&["c4"]);
        command.arg(self.path("*.json.gz")).arg("--out").arg(self.path(out)).args(options);
        command
    }

    /// Ingests what lies under `input` and returns the folder.
    pub(crate) fn shards_of(&self, input: &str, out: &str) -> PathBuf {
        succeed(program(&["c4"]).arg(self.path(input)).arg("--out").arg(self.path(out)));
        self.path(out)
    }

    /// Ingests and returns the folder.
    pub(crate) fn shards(&self, out: &str, options: &[&str]) -> PathBuf {
        succeed(&mut self.ingest(out, options));
        self.path(out)
    }
}

/// The program, as it was built for these tests.
pub(crate) fn program(arguments: &[&str]) -> Command {
    let mut command = Command::new(cargo_bin!("ingest"));
    command.args(arguments);
    command
}

fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// Runs a command that must succeed and returns all it printed.
pub(crate) fn succeed(command: &mut Command) -> String {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?} ended with {}:\n{}", output.status, said(&output));
    said(&output)
}

/// Runs a command that must exit with 1 and returns all it printed.
pub(crate) fn fail(command: &mut Command) -> String {
    let output = command.output().unwrap();
    let said = said(&output);
    assert_eq!(output.status.code(), Some(1), "{command:?}:\n{said}");
    assert!(!said.contains("panicked"), "{command:?}:\n{said}");
    said
}

/// Path below the folder -> content, of everything in it.
pub(crate) fn content(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut files = BTreeMap::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if path.is_dir() {
            files.extend(content(&path).into_iter().map(|(inner, bytes)| (format!("{name}/{inner}"), bytes)));
        } else {
            files.insert(name, fs::read(path).unwrap());
        }
    }
    files
}

/// Paths of all files below the folder, whatever comes and goes in it meanwhile.
pub(crate) fn names(dir: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(dir) else { return Vec::new() };
    let paths = entries.flatten().map(|entry| entry.path());
    paths.flat_map(|path| if path.is_dir() { names(&path) } else { vec![path] }).collect()
}

/// Fails with the names of what differs, not with its bytes.
pub(crate) fn assert_same_content(a: &Path, b: &Path) {
    let (a, b) = (content(a), content(b));
    assert_eq!(a.keys().collect::<Vec<_>>(), b.keys().collect::<Vec<_>>());
    let differ: Vec<_> = a.iter().filter(|(name, bytes)| b[*name] != **bytes).map(|(name, _)| name).collect();
    assert!(differ.is_empty(), "these differ: {differ:?}");
}

pub(crate) fn manifest(dir: &Path) -> Value {
    serde_json::from_slice(&fs::read(dir.join("manifest.json")).unwrap()).unwrap()
}

/// A number that is another in every run: for moments to kill at, never for what is expected.
pub(crate) fn noise() -> u64 {
    let nanos = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().subsec_nanos();
    // The low digits of a clock are not spread evenly on every machine.
    u64::from(nanos).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32
}
