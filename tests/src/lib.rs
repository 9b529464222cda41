//! Fixtures of the end-to-end tests: C4 files made on the spot, and the two programs as a user starts them.

pub mod azure;
pub mod s3;

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use flate2::{Compression, write::GzEncoder};
use serde_json::json;
use tempfile::TempDir;

/// The command for one of the workspace's programs, `ingest` or `train`.
///
/// # Panics
/// When it has not been built: `cargo build --release` comes before these tests.
pub fn program(name: &str) -> Command {
    let test = std::env::current_exe().expect("a test binary knows its own path");
    // target/release/deps/e2e-<hash> -> target/release/<name>
    let path =
        test.parent().and_then(Path::parent).expect("a test binary lies in target/PROFILE/deps").join(name);
    assert!(path.exists(), "{} is missing; run `make build` before the end-to-end tests", path.display());
    let mut command = Command::new(path);
    // Tests run side by side: threads that spin while they wait would take the processors from one another.
    command.env("OMP_WAIT_POLICY", "passive");
    command
}

/// What a finished command printed, standard output and standard error together.
pub fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// Runs a command that must succeed and returns what it printed.
///
/// # Panics
/// With everything the command printed, when it fails.
pub fn succeed(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|e| panic!("cannot start {command:?}: {e}"));
    assert!(output.status.success(), "{command:?} failed with {}:\n{}", output.status, text(&output));
    text(&output)
}

/// Runs a command that must fail without a panic and returns what it printed.
///
/// # Panics
/// When the command succeeds, or fails by a panic or a signal.
pub fn fail(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|e| panic!("cannot start {command:?}: {e}"));
    let said = text(&output);
    assert!(!output.status.success(), "{command:?} succeeded:\n{said}");
    assert!(output.status.code().is_some(), "{command:?} was ended by a signal ({}):\n{said}", output.status);
    assert!(!said.contains("panicked at"), "{command:?} panicked:\n{said}");
    said
}

/// A folder of small C4 files in a temporary place, removed when dropped.
pub struct Corpus {
    folder: TempDir,
}

impl Corpus {
    /// `files` gzip files of `documents` documents each, in sentences whose words predict one another:
    /// every subject has its own verb, object and place, so that a model can learn to fill a gap from context.
    pub fn sentences(files: usize, documents: usize) -> Corpus {
        const SUBJECTS: [[&str; 4]; 8] = [
            ["The farmer", "harvests", "the golden wheat", "in the open field"],
            ["A sailor", "repairs", "the broken mast", "on the stormy sea"],
            ["The doctor", "examines", "a patient", "at the city hospital"],
            ["A teacher", "explains", "the lesson", "in the crowded school"],
            ["The baker", "kneads", "fresh bread", "before the sun rises"],
            ["A judge", "reads", "the verdict", "in the silent court"],
            ["The miner", "digs", "black coal", "deep under the mountain"],
            ["A painter", "mixes", "bright colours", "beside the tall window"],
        ];
        let corpus = Corpus { folder: tempfile::tempdir().expect("a temporary folder") };
        for file in 0..files {
            let texts = (0..documents).map(|document| {
                // A fixed congruence, so that every run of the tests sees the same text.
                let mut state = (file * documents + document) as u64;
                let mut text = String::new();
                for _ in 0..6 {
                    state =
                        state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                    let [who, does, what, place] = SUBJECTS[(state >> 33) as usize % SUBJECTS.len()];
                    text += &format!("{who} {does} {what} {place}. ");
                }
                format!("{text}Page {document} of book {file}.")
            });
            let name = format!("c4-train.{file:05}-of-{files:05}.json.gz");
            write_c4(&corpus.path().join(name), texts);
        }
        corpus
    }

    /// The folder the files lie in.
    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Ingests the corpus into a folder `name` beside the files and returns that folder.
    pub fn ingest(&self, name: &str, options: &[&str]) -> PathBuf {
        let shards = self.path().join(name);
        succeed(&mut self.ingesting(&shards, options));
        shards
    }

    /// The command that ingests the corpus to `out`, a folder or a URL.
    pub fn ingesting(&self, out: &Path, options: &[&str]) -> Command {
        let mut command = program("ingest");
        command.arg("c4").arg(self.path().join("*.json.gz")).arg("--out").arg(out).args(options);
        command
    }
}

/// Writes documents as one C4-schema .json.gz file.
///
/// # Panics
/// When the file cannot be written.
pub fn write_c4(path: &Path, texts: impl Iterator<Item = String>) {
    let mut file = GzEncoder::new(fs::File::create(path).expect("a writable folder"), Compression::fast());
    for (row, text) in texts.enumerate() {
        let document = json!({
            "text": text,
            "timestamp": "2019-04-25T12:57:54Z",
            "url": format!("https://example.org/{row}"),
        });
        writeln!(file, "{document}").expect("a writable file");
    }
    file.finish().expect("a writable file");
}
