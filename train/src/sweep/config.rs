//! The file of a sweep: what all runs share, and what each one changes.

use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::budget::Budget;
use crate::error::Error;
use crate::finetune::FinetuneError;
use crate::glue::tasks::Task;
use crate::layers::resolve;

/// A sweep as its file says it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SweepConfig {
    /// Shard folders of every run; relative ones begin at the file's folder.
    #[serde(default)]
    pub shards: Vec<PathBuf>,
    /// Preset of the runs that name none.
    pub preset: String,
    /// How long each run trains, where its settings do not say it: `1h`, `2000steps`.
    pub budget: Option<Budget>,
    /// Settings of every run, `key.path=value`.
    #[serde(default)]
    pub set: Vec<String>,
    /// Dollars an hour of the machine, for the page.
    pub price_per_hour: Option<f64>,
    /// GLUE of the runs' checkpoints.
    pub glue: Option<SweepGlue>,
    /// The runs, in the order in which they are trained.
    pub run: Vec<SweepRun>,
}

/// How checkpoints are evaluated.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SweepGlue {
    /// GLUE's folder; relative ones begin at the file's folder. Nothing is evaluated without one.
    pub data: Option<PathBuf>,
    /// The recipe.
    pub recipe: String,
    /// The tasks; all there are where none is named.
    pub tasks: Vec<Task>,
    /// Seeds for every task.
    pub seeds: usize,
    /// Fine-tunings side by side.
    pub jobs: usize,
    /// Checkpoints of each run, evenly spaced, the last among them.
    pub checkpoints: usize,
}

/// One run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SweepRun {
    /// Its name, also its folder's.
    pub name: String,
    /// Its preset, where it is another.
    pub preset: Option<String>,
    /// Its budget, where it is another.
    pub budget: Option<Budget>,
    /// What it changes, `key.path=value`, after what all runs share.
    #[serde(default)]
    pub set: Vec<String>,
}

impl Default for SweepGlue {
    fn default() -> SweepGlue {
        SweepGlue {
            data: None,
            recipe: "quick".to_owned(),
            tasks: Vec::new(),
            seeds: 1,
            jobs: 1,
            checkpoints: 1,
        }
    }
}

impl SweepConfig {
    /// Reads a sweep's file. Every run's settings are resolved, so that a mistake in the last one is found before the first
    /// one trains.
    ///
    /// # Errors
    /// [`FinetuneError::Sweep`] for the file, the settings' own errors for a run.
    pub fn read(path: &Path) -> Result<SweepConfig, Error> {
        let text =
            fs::read_to_string(path).map_err(|source| Error::Read { path: path.to_owned(), source })?;
        let mut config: SweepConfig = toml::from_str(&text)
            .map_err(|source| Error::ConfigSyntax { path: path.to_owned(), source: Box::new(source) })?;
        let folder = path.parent().unwrap_or(Path::new(""));
        // An absolute path stays as it is, and so does a URL.
        for shards in &mut config.shards {
            if !shards.to_string_lossy().contains("://") {
                *shards = folder.join(&*shards);
            }
        }
        if let Some(data) = config.glue.as_mut().and_then(|glue| glue.data.as_mut()) {
            *data = folder.join(&*data);
        }
        config.check(path)?;
        Ok(config)
    }

    fn check(&self, path: &Path) -> Result<(), Error> {
        let refuse =
            |reason: String| Err(Error::Finetune(FinetuneError::Sweep { path: path.to_owned(), reason }));
        if self.run.is_empty() {
            return refuse("it has no [[run]]".to_owned());
        }
        for (number, run) in self.run.iter().enumerate() {
            let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
            if run.name.is_empty() || run.name.starts_with('.') || !run.name.chars().all(plain) {
                let expected = "letters, digits, `-`, `_` and `.`: it becomes a folder";
                return refuse(format!("run {} is called {:?}, expected {expected}", number + 1, run.name));
            }
            if self.run[..number].iter().any(|other| other.name == run.name) {
                return refuse(format!("two runs are called {:?}", run.name));
            }
            resolve(self.preset_of(run), None, &self.settings_of(run))?;
        }
        Ok(())
    }

    /// The preset of a run.
    pub fn preset_of<'a>(&'a self, run: &'a SweepRun) -> &'a str {
        run.preset.as_deref().unwrap_or(&self.preset)
    }

    /// All settings of a run, as `--set` takes them.
    pub fn settings_of(&self, run: &SweepRun) -> Vec<String> {
        let budget = run.budget.or(self.budget).map(|budget| format!("train.budget={budget}"));
        budget.into_iter().chain(self.set.iter().cloned()).chain(run.set.iter().cloned()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<SweepConfig, String> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("sweep.toml");
        fs::write(&path, text).unwrap();
        SweepConfig::read(&path).map_err(|error| format!("{:#}", anyhow::Error::from(error)))
    }

    #[test]
    fn the_example_is_valid() {
        let config = read(include_str!("../../sweeps/mosaic-ablation.toml")).unwrap();
        assert_eq!(config.run.len(), 8);
        let bert = config.run.last().unwrap();
        assert_eq!(
            (config.preset_of(bert), config.settings_of(bert)[0].as_str()),
            ("bert-base", "train.budget=1h")
        );
    }

    #[test]
    fn mistakes_are_found_in_every_run() {
        let head = "preset = \"tiny\"\nshards = [\"s\"]\n";
        let config = read(&format!("{head}[[run]]\nname = \"a\"\n")).unwrap();
        assert!(config.shards[0].is_absolute() && config.shards[0].ends_with("s"));
        let stored = head.replace("\"s\"", "\"s3://bucket/s\"");
        let config = read(&format!("{stored}[[run]]\nname = \"a\"\n")).unwrap();
        assert_eq!(config.shards[0].to_str(), Some("s3://bucket/s"));
        for (runs, expected) in [
            ("run = []\n", "it has no [[run]]"),
            ("[[run]]\nname = \"a/b\"\n", "run 1 is called \"a/b\""),
            ("[[run]]\nname = \"a\"\n[[run]]\nname = \"a\"\n", "two runs are called \"a\""),
            (
                "[[run]]\nname = \"a\"\n[[run]]\nname = \"b\"\nset = [\"train.step=3\"]\n",
                "did you mean `train.steps`",
            ),
            ("[[run]]\nname = \"a\"\npreset = \"huge\"\n", "no preset \"huge\""),
            ("[[run]]\nname = \"a\"\nbudget = \"1 week\"\n", "is not a budget"),
            ("[[run]]\nname = \"a\"\nsets = []\n", "unknown field `sets`"),
        ] {
            let message = read(&format!("{head}{runs}")).unwrap_err();
            assert!(message.contains(expected), "{expected:?} is not in {message}");
        }
    }
}
