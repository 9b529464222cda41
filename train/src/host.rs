//! Where a run came from: program, data, machine and command, written to `RUN/provenance.json`.

use std::fs;
use std::path::{Path, PathBuf};

use loader::ShardFolder;
use serde::{Deserialize, Serialize};

use crate::error::Error;
use crate::model_folder::ModelIdentity;

/// Name and version of this program, as checkpoints and reports carry it.
pub const PROGRAM: &str = concat!("tessera-train ", env!("CARGO_PKG_VERSION"));

/// Version of libtorch this program is built against.
pub const TORCH: &str = "2.11.0";

/// Everything needed to say what produced a run, beside its configuration.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Provenance {
    /// Program and version.
    pub program: String,
    /// Commit of the source tree the program was built from, when there was one.
    pub commit: Option<String>,
    /// Version of libtorch.
    pub torch: String,
    /// When the run started, RFC 3339.
    pub started: String,
    /// The command line, program first.
    pub command: Vec<String>,
    /// The machine.
    pub host: Host,
    /// The device trained on: `cpu` or `cuda`.
    pub device: String,
    /// Threads torch computes with on the CPU.
    pub threads: usize,
    /// The data.
    pub data: Data,
    /// Number of trained parameters.
    pub parameters: u64,
    /// The checkpoint of another run that this one goes on from.
    #[serde(default)]
    pub branched_from: Option<PathBuf>,
    /// The model whose weights it began with, where it did not begin fresh.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub init_from: Option<ModelIdentity>,
    /// Later starts of the same run with `--resume`.
    pub resumptions: Vec<Resumption>,
}

/// A machine.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Host {
    /// The processor's own name.
    pub cpu: String,
    /// Processors this process may use.
    pub cores: usize,
    /// Main memory in bytes.
    pub memory_bytes: u64,
    /// Names of the NVIDIA cards.
    pub gpus: Vec<String>,
    /// Operating system and kernel.
    pub system: String,
}

/// The corpus of a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Data {
    /// The shard folders, absolute.
    pub shards: Vec<PathBuf>,
    /// The share of each folder in a batch, as given; empty when the folders were read as one corpus.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub weights: Vec<f64>,
    /// BLAKE3 of the folder's manifest, which in turn carries the checksum of every shard; of several folders, of
    /// their manifests' sums and their weights.
    pub manifest_blake3: String,
    /// BLAKE3 of the tokenizer.
    pub tokenizer_blake3: String,
    /// Entries of the vocabulary.
    pub vocab_size: u32,
    /// Documents in all.
    pub documents: u64,
    /// Documents held out for evaluation.
    pub held_out_documents: u64,
    /// Tokens in all.
    pub tokens: u64,
    /// Bytes of text the tokens were made from.
    pub text_bytes: u64,
    /// Names of the ingested files.
    pub inputs: Vec<String>,
}

/// One `--resume`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Resumption {
    /// Steps that were done.
    pub step: u64,
    /// When, RFC 3339.
    pub at: String,
    /// Program and version that continued.
    pub program: String,
}

impl Data {
    /// The shard folders with their weights.
    pub fn folders(&self) -> Vec<ShardFolder> {
        let weights = self.weights.iter().copied().map(Some).chain(std::iter::repeat(None));
        self.shards.iter().cloned().zip(weights).map(|(path, weight)| ShardFolder { path, weight }).collect()
    }
}

impl Provenance {
    /// Reads a `provenance.json`.
    pub fn read(path: &Path) -> Result<Provenance, Error> {
        let text = fs::read(path).map_err(|source| Error::Read { path: path.to_owned(), source })?;
        serde_json::from_slice(&text).map_err(|source| Error::Json { path: path.to_owned(), source })
    }

    /// Writes a `provenance.json`, whole or not at all.
    pub fn write(&self, path: &Path) -> Result<(), Error> {
        Ok(loader::atomic::write_file(path, |out| Ok(serde_json::to_writer_pretty(out, self)?))?)
    }
}

/// The source commit this program was built from, if its source was under git.
pub fn commit() -> Option<String> {
    option_env!("TESSERA_COMMIT").map(str::to_owned)
}

/// The present time, RFC 3339 in UTC, whole seconds.
pub fn now() -> String {
    let now = jiff::Timestamp::now();
    jiff::Timestamp::from_second(now.as_second()).unwrap_or(now).to_string()
}

/// Seconds since 1970, with fractions.
pub fn unix_time() -> f64 {
    std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0.0, |since| since.as_secs_f64())
}

impl Host {
    /// Describes this machine from what Linux publishes under `/proc`; what is missing there is left blank.
    pub fn detect() -> Host {
        let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let meminfo = fs::read_to_string("/proc/meminfo").unwrap_or_default();
        let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        let os = fs::read_to_string("/etc/os-release").unwrap_or_default();
        let os =
            os.lines().find_map(|line| line.strip_prefix("PRETTY_NAME=")).unwrap_or("").trim_matches('"');
        Host {
            cpu: field(&cpuinfo, "model name").unwrap_or("unknown").to_owned(),
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            memory_bytes: field(&meminfo, "MemTotal")
                .and_then(|text| text.strip_suffix("kB")?.trim().parse::<u64>().ok())
                .map_or(0, |kib| kib * 1024),
            gpus: gpus(),
            system: format!("{os}, Linux {}", kernel.trim()).trim_start_matches(", ").to_owned(),
        }
    }
}

/// Names of the NVIDIA cards, from the driver's own listing.
fn gpus() -> Vec<String> {
    let Ok(cards) = fs::read_dir("/proc/driver/nvidia/gpus") else { return Vec::new() };
    let mut names: Vec<String> = cards
        .flatten()
        .filter_map(|card| fs::read_to_string(card.path().join("information")).ok())
        .filter_map(|text| field(&text, "Model").map(str::to_owned))
        .collect();
    names.sort();
    names
}

/// The value of the first line `name : value`.
fn field<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.lines().find_map(|line| {
        let (key, value) = line.split_once(':')?;
        (key.trim() == name).then(|| value.trim())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_found_by_their_whole_name() {
        let text = "model\t\t: 85\nmodel name\t: Some CPU @ 2.0GHz\n";
        assert_eq!(field(text, "model name"), Some("Some CPU @ 2.0GHz"));
        assert_eq!(field(text, "name"), None);
    }

    #[test]
    fn this_machine_has_a_processor_and_memory() {
        let host = Host::detect();
        assert!(host.cores >= 1 && host.memory_bytes > 1 << 20, "{host:?}");
    }
}
