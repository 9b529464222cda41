//! The folder of a run: the names in it, and the lock that keeps two processes from training in it.
//!
//! ```text
//! RUN/config.toml        the resolved configuration
//! RUN/provenance.json    program, data, machine, command
//! RUN/metrics.jsonl      one object a logged step or evaluation
//! RUN/tensorboard/               event files, one for each process that trained
//! RUN/checkpoints/step-000100/{config.toml, tokenizer.json, model.safetensors, optimizer.safetensors, state.json}
//! ```

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{FlockOperation, flock};

use crate::config::Config;
use crate::error::Error;

/// How often the lock is tried before it counts as held, and the time in between.
const LOCK_ATTEMPTS: u32 = 4;
const LOCK_PAUSE: Duration = Duration::from_millis(50);

/// A run's folder, not necessarily locked.
#[derive(Clone, Debug)]
pub struct RunFolder {
    path: PathBuf,
}

/// Proof that no other process trains in the folder. The system releases it when the process ends, however it ends.
#[derive(Debug)]
pub struct RunLock {
    _file: File,
}

impl RunFolder {
    /// Makes the folder of a new run.
    ///
    /// # Errors
    /// [`Error::RunExists`] when it holds a run already.
    pub fn create(path: &Path) -> Result<(RunFolder, RunLock), Error> {
        let folder = RunFolder { path: path.to_owned() };
        let io = |source| Error::Write { path: path.to_owned(), source };
        fs::create_dir_all(folder.checkpoints()).map_err(io)?;
        let lock = folder.lock()?;
        match folder.config().exists() {
            true => Err(Error::RunExists { path: path.to_owned() }),
            false => Ok((folder, lock)),
        }
    }

    /// An existing run.
    ///
    /// # Errors
    /// [`Error::NotARun`] when it has no `config.toml`.
    pub fn open(path: &Path) -> Result<RunFolder, Error> {
        let folder = RunFolder { path: path.to_owned() };
        match folder.config().exists() {
            true => Ok(folder),
            false => Err(Error::NotARun { path: path.to_owned(), missing: "config.toml" }),
        }
    }

    /// The folder of a run that another process has, for messages.
    pub(crate) fn of_another(path: &Path) -> RunFolder {
        RunFolder { path: path.to_owned() }
    }

    /// Takes the lock.
    ///
    /// # Errors
    /// [`Error::RunLocked`] when another process has it.
    pub fn lock(&self) -> Result<RunLock, Error> {
        let path = self.path.join("lock");
        let file = File::options()
            .create(true)
            .write(true)
            .truncate(false)
            .open(&path)
            .map_err(|source| Error::Write { path: path.clone(), source })?;
        // Somebody who looks whether it is held, holds it for an instant.
        for attempt in 1.. {
            match flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => break,
                Err(rustix::io::Errno::WOULDBLOCK) if attempt < LOCK_ATTEMPTS => {
                    std::thread::sleep(LOCK_PAUSE)
                }
                Err(rustix::io::Errno::WOULDBLOCK) => {
                    return Err(Error::RunLocked { path: self.path.clone() });
                }
                Err(error) => return Err(Error::Write { path, source: error.into() }),
            }
        }
        Ok(RunLock { _file: file })
    }

    /// Whether a process trains in the folder.
    ///
    /// # Errors
    /// [`Error::Read`] when the lock cannot be looked at.
    pub fn is_locked(&self) -> Result<bool, Error> {
        let path = self.path.join("lock");
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(false),
            Err(source) => return Err(Error::Read { path, source }),
        };
        // Dropping the file gives the lock back.
        match flock(&file, FlockOperation::NonBlockingLockShared) {
            Ok(()) => Ok(false),
            Err(rustix::io::Errno::WOULDBLOCK) => Ok(true),
            Err(error) => Err(Error::Read { path, source: error.into() }),
        }
    }

    /// The folder itself.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The last part of the path, which is what reports call the run.
    pub fn name(&self) -> String {
        let absolute = fs::canonicalize(&self.path).unwrap_or_else(|_| self.path.clone());
        absolute.file_name().unwrap_or(absolute.as_os_str()).to_string_lossy().into_owned()
    }

    /// `config.toml`.
    pub fn config(&self) -> PathBuf {
        self.path.join("config.toml")
    }

    /// `provenance.json`.
    pub fn provenance(&self) -> PathBuf {
        self.path.join("provenance.json")
    }

    /// `metrics.jsonl`.
    pub fn metrics(&self) -> PathBuf {
        self.path.join("metrics.jsonl")
    }

    /// The folder of TensorBoard's event files.
    pub fn tensorboard(&self) -> PathBuf {
        self.path.join("tensorboard")
    }

    /// The folder of checkpoints.
    pub fn checkpoints(&self) -> PathBuf {
        self.path.join("checkpoints")
    }

    /// Writes the resolved configuration.
    pub fn write_config(&self, config: &Config) -> Result<(), Error> {
        write_config(&self.config(), config)
    }

    /// Reads the resolved configuration.
    pub fn read_config(&self) -> Result<Config, Error> {
        read_config(&self.config())
    }
}

/// Writes a resolved configuration, whole or not at all.
pub(crate) fn write_config(path: &Path, config: &Config) -> Result<(), Error> {
    use std::io::Write;
    Ok(loader::atomic::write_file(path, |out| out.write_all(config.to_toml().as_bytes()))?)
}

/// Reads a resolved configuration.
pub(crate) fn read_config(path: &Path) -> Result<Config, Error> {
    let text = fs::read_to_string(path).map_err(|source| Error::Read { path: path.to_owned(), source })?;
    toml::from_str(&text)
        .map_err(|source| Error::ConfigSyntax { path: path.to_owned(), source: Box::new(source) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_locked_run_is_refused_until_the_lock_is_dropped() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("run");
        let (folder, lock) = RunFolder::create(&path).unwrap();
        // flock belongs to the open file, so a second open in the same process meets it too.
        assert!(matches!(folder.lock(), Err(Error::RunLocked { .. })));
        assert!(folder.is_locked().unwrap());
        drop(lock);
        assert!(!folder.is_locked().unwrap());
        folder.lock().unwrap();
    }

    #[test]
    fn an_existing_run_is_not_overwritten_and_another_folder_is_no_run() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("run");
        assert!(matches!(RunFolder::open(&path), Err(Error::NotARun { .. })));
        let (folder, _) = RunFolder::create(&path).unwrap();
        fs::write(folder.config(), "seed = 1").unwrap();
        let message = RunFolder::create(&path).unwrap_err().to_string();
        assert!(message.contains("train --resume"), "{message}");
        assert_eq!(RunFolder::open(&path).unwrap().name(), "run");
    }
}
