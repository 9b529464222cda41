//! TensorBoard event files in `RUN/tensorboard`: the numbers of `metrics.jsonl` as scalars, the configuration as text.
//!
//! Every process that trains in a run begins a file of its own, whose name sorts behind the others'. Its first events say
//! from which step on it counts, and TensorBoard drops what earlier files hold beyond: steps that were repeated after a
//! kill appear once.

mod event;
mod frame;

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use crate::host::unix_time;
use crate::metrics::{EvalRecord, Record, TrainRecord};

/// Every event file has this in its name, then the time it was begun, machine and process.
const PREFIX: &str = "events.out.tfevents.";

/// The event file of this process. It is made with the first record.
#[derive(Debug)]
pub(crate) struct EventFile {
    dir: PathBuf,
    /// The first step that it may hold.
    first: u64,
    /// Title and Markdown.
    texts: Vec<(&'static str, String)>,
    file: Option<File>,
}

impl EventFile {
    /// One in the folder `dir` for a process that has `done` steps behind it, with `texts` about the run.
    pub(crate) fn new(dir: PathBuf, done: u64, texts: Vec<(&'static str, String)>) -> EventFile {
        EventFile { dir, first: done + 1, texts, file: None }
    }

    /// Appends a record, in one piece.
    pub(crate) fn write(&mut self, record: &Record) -> io::Result<()> {
        let mut bytes = Vec::new();
        if self.file.is_none() {
            let now = unix_time();
            frame::append(&mut bytes, &event::version(now));
            frame::append(&mut bytes, &event::start(now, self.first));
            for (title, text) in &self.texts {
                // TensorBoard's own writers end the tags of texts so.
                let tag = format!("{title}/text_summary");
                frame::append(&mut bytes, &event::text(now, self.first, &tag, text));
            }
        }
        let (time, step, numbers) = match record {
            Record::Train(record) => (record.time, record.step, train(record)),
            Record::Eval(record) => (record.time, record.step, eval(record).to_vec()),
        };
        frame::append(&mut bytes, &event::scalars(time, step, &numbers));
        let file = match &mut self.file {
            Some(file) => file,
            None => self.file.insert(create(&self.dir)?),
        };
        file.write_all(&bytes)
    }
}

/// A new file behind all others of the folder.
fn create(dir: &Path) -> io::Result<File> {
    fs::create_dir_all(dir)?;
    let newest = fs::read_dir(dir)?
        .filter_map(|entry| {
            let name = entry.ok()?.file_name().into_string().ok()?;
            name.strip_prefix(PREFIX)?.split('.').next()?.parse::<u64>().ok()
        })
        .max();
    // Clocks may go back, and a run may be resumed within the second.
    let time = (unix_time() as u64).max(newest.map_or(0, |newest| newest + 1));
    let host = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let name = format!("{PREFIX}{time:010}.{}.{}", host.trim(), std::process::id());
    File::options().append(true).create_new(true).open(dir.join(name))
}

/// What is shown of training.
fn train(record: &TrainRecord) -> Vec<(&'static str, f64)> {
    let mut numbers = vec![
        ("train/loss", record.loss),
        ("train/accuracy", record.accuracy),
        ("train/lr", record.lr),
        ("train/mask_rate", record.mask_rate),
        ("train/grad_norm", record.grad_norm),
        ("train/progress", record.progress),
        ("train/samples", record.samples as f64),
        ("train/tokens", record.tokens as f64),
        ("train/skipped", record.skipped as f64),
        ("throughput/samples_per_s", record.samples_per_s),
        ("throughput/tokens_per_s", record.tokens_per_s),
        ("throughput/model_tflops", record.model_tflops),
        ("throughput/wait_share", record.wait_share),
    ];
    numbers.extend(record.mfu.map(|mfu| ("throughput/mfu", mfu)));
    numbers
}

/// What is shown of an evaluation.
fn eval(record: &EvalRecord) -> [(&'static str, f64); 3] {
    [
        ("eval/loss", record.loss),
        ("eval/accuracy", record.accuracy),
        ("eval/unigram_loss", record.unigram_loss),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::watch::tests::{eval, train};

    #[test]
    fn every_process_has_a_file_behind_the_others_made_with_its_first_record() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().join("tensorboard");
        let names = || -> Vec<String> {
            let mut names: Vec<String> = fs::read_dir(&dir)
                .map(|entries| {
                    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
                })
                .unwrap_or_default();
            names.sort();
            names
        };
        let texts = || vec![("config", "    seed = 17".to_owned())];
        let mut first = EventFile::new(dir.clone(), 0, texts());
        assert!(names().is_empty());
        first.write(&Record::Train(train(10))).unwrap();
        first.write(&Record::Eval(eval(10))).unwrap();
        let before = names();
        let mut second = EventFile::new(dir.clone(), 5, texts());
        second.write(&Record::Train(train(6))).unwrap();
        let after = names();
        assert_eq!(after.len(), 2);
        assert_eq!(after[0], before[0], "the new one sorts behind the old one within the same second too");

        let bytes = fs::read(dir.join(&after[0])).unwrap();
        let mut rest = bytes.as_slice();
        let events: Vec<&[u8]> = std::iter::from_fn(|| frame::take(&mut rest)).collect();
        // Version, start, one text, two records.
        assert_eq!((events.len(), rest.len()), (5, 0));
        let holds = |event: &[u8], tag: &str| event.windows(tag.len()).any(|part| part == tag.as_bytes());
        assert!(holds(events[0], "brain.Event:2") && holds(events[2], "seed = 17"));
        assert!(holds(events[3], "throughput/mfu") && holds(events[4], "eval/accuracy"));
    }
}
