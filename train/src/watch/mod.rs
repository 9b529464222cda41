//! `train watch`: a run in the terminal, whether it trains or has ended.
//!
//! Everything is read from the run's folder: records from `metrics.jsonl` as they are written ([`follow`]), and from its lock
//! and its checkpoints what becomes of it ([`status`]). [`frame`] draws one frame, [`terminal`] one after the other.

mod follow;
mod frame;
mod status;
mod terminal;

use std::path::Path;
use std::time::{Duration, SystemTime};

use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::widgets::Widget;

use self::follow::Follower;
use self::frame::{Against, Frame};
use self::status::{Signs, Status};
use crate::checkpoint;
use crate::config::Config;
use crate::error::Error;
use crate::folder::RunFolder;

/// A run that is looked at.
#[derive(Debug)]
pub struct Watched {
    folder: RunFolder,
    config: Config,
    records: Follower,
    status: Status,
}

impl Watched {
    /// The run in `path`, as it stands.
    ///
    /// # Errors
    /// A folder that is no run, or records that cannot be read.
    pub fn open(path: &Path) -> Result<Watched, Error> {
        let folder = RunFolder::open(path)?;
        let config = folder.read_config()?;
        let records = Follower::new(folder.metrics());
        let mut watched = Watched { folder, config, records, status: Status::Nothing };
        watched.refresh()?;
        Ok(watched)
    }

    /// Looks again.
    ///
    /// # Errors
    /// Those of [`Watched::open`].
    pub fn refresh(&mut self) -> Result<(), Error> {
        // The lock before the records: a process that ends in between has written its last one.
        let locked = self.folder.is_locked()?;
        self.records.refresh()?;
        let saved = match self.folder.checkpoints().exists() {
            true => checkpoint::newest_step(&self.folder.checkpoints())?,
            false => None,
        };
        let (records, last) = (&self.records, self.records.trains.last());
        let between = match records.trains.as_slice() {
            [.., a, b] => b.elapsed_s - a.elapsed_s,
            _ => 0.0,
        };
        self.status = Status::of(Signs {
            locked,
            recorded: last.map(|record| record.step),
            saved,
            end: self.end(),
            silence: records
                .written
                .and_then(|written| SystemTime::now().duration_since(written).ok())
                .unwrap_or_default(),
            usual: Duration::from_secs_f64(between.clamp(0.0, 1e6)),
        });
        Ok(())
    }

    /// The step at which the run ends, as far as known.
    fn end(&self) -> Option<u64> {
        let recorded = self.records.trains.last().and_then(|record| record.end);
        recorded.or_else(|| self.config.train.budget.is_none().then_some(self.config.train.steps))
    }

    fn frame(&self, against: Against) -> Frame<'_> {
        Frame {
            name: self.folder.name(),
            path: self.folder.path().display().to_string(),
            end: self.end(),
            status: self.status,
            trains: &self.records.trains,
            evals: &self.records.evals,
            against,
        }
    }

    /// One frame of `width` by `height` characters as lines of text.
    pub fn text(&self, width: u16, height: u16) -> String {
        let area = Rect::new(0, 0, width, height);
        let mut buffer = Buffer::empty(area);
        self.frame(Against::Steps).render(area, &mut buffer);
        let row = |y| -> String { (0..width).map(|x| buffer[(x, y)].symbol()).collect() };
        let lines: Vec<String> = (0..height).map(|y| row(y).trim_end().to_owned()).collect();
        format!("{}\n", lines.join("\n").trim_end())
    }

    /// Shows the run in this terminal, refreshed every `interval`, until a key ends it.
    ///
    /// # Errors
    /// Those of [`Watched::refresh`]; a terminal that cannot be drawn on.
    pub fn show(&mut self, interval: Duration) -> Result<(), Error> {
        terminal::show(self, interval)
    }
}

/// The size of this terminal, if there is one.
pub fn terminal_size() -> Option<(u16, u16)> {
    ratatui::crossterm::terminal::size().ok()
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::layers::resolve;
    use crate::metrics::{EvalRecord, MetricsWriter, Record, TrainRecord};

    /// A training record of a run of 100 steps whose loss falls.
    pub(crate) fn train(step: u64) -> TrainRecord {
        TrainRecord {
            step,
            loss: 10.0 - step as f64 / 20.0,
            accuracy: step as f64 / 200.0,
            progress: step as f64 / 100.0,
            lr: 1e-3,
            mask_rate: 0.3,
            grad_norm: 1.5,
            samples_per_s: 4000.0,
            tokens_per_s: 512_000.0,
            model_tflops: 412.0,
            mfu: Some(0.416),
            wait_share: 0.01,
            samples: 4096 * step,
            tokens: 524_288 * step,
            skipped: 0,
            end: Some(100),
            remaining_s: Some((100 - step) as f64),
            elapsed_s: step as f64,
            time: 1.8e9 + step as f64,
        }
    }

    pub(crate) fn eval(step: u64) -> EvalRecord {
        EvalRecord {
            step,
            loss: 9.5 - step as f64 / 20.0,
            accuracy: 0.25,
            masked_tokens: 7,
            unigram_loss: 6.5,
            elapsed_s: step as f64,
            time: 1.8e9 + step as f64,
        }
    }

    /// A run of 100 steps with records of `steps`, and its lock.
    fn run(dir: &Path, steps: &[u64]) -> (RunFolder, crate::folder::RunLock) {
        let (folder, lock) = RunFolder::create(&dir.join("first")).unwrap();
        folder.write_config(&resolve("tiny", None, &["train.steps=100".to_owned()]).unwrap()).unwrap();
        let mut writer = MetricsWriter::resume(&folder.metrics(), 0).unwrap();
        for &step in steps {
            writer.write(&Record::Train(train(step))).unwrap();
            if step % 20 == 0 {
                writer.write(&Record::Eval(eval(step))).unwrap();
            }
        }
        (folder, lock)
    }

    #[test]
    fn a_run_is_shown_while_it_trains_and_when_it_has_died() {
        let dir = tempfile::tempdir().unwrap();
        let (folder, lock) = run(dir.path(), &[10, 20, 30, 40, 50]);
        let mut watched = Watched::open(folder.path()).unwrap();
        let text = watched.text(100, 30);
        for expected in [
            "first  training",
            "step 50 of 100",
            "50.0 s left",
            "loss 7.500",
            "512.0 k tokens/s",
            "41.6 % MFU",
            "held out",
            "unigram 6.500",
        ] {
            assert!(text.contains(expected), "{expected:?} is not in\n{text}");
        }
        // Curves are drawn in Braille.
        assert!(text.chars().filter(|c| ('\u{2801}'..='\u{28ff}').contains(c)).count() > 100, "{text}");
        assert!(text.lines().count() <= 30 && text.lines().all(|line| line.chars().count() <= 100), "{text}");

        drop(lock);
        watched.refresh().unwrap();
        let text = watched.text(100, 30);
        assert!(text.contains("died after step 50") && text.contains("from the beginning"), "{text}");
        // Looking does not keep a run from being resumed.
        folder.lock().unwrap();
    }

    #[test]
    fn frames_of_any_size_are_drawn_and_an_empty_run_is_too() {
        let dir = tempfile::tempdir().unwrap();
        let (folder, _lock) = run(dir.path(), &[]);
        let watched = Watched::open(folder.path()).unwrap();
        assert!(watched.text(80, 24).contains("training, no record yet"));
        let dir = tempfile::tempdir().unwrap();
        let (folder, _lock) = run(dir.path(), &[1]);
        let one = Watched::open(folder.path()).unwrap();
        for width in [0, 1, 7, 20, 61, 80, 300] {
            for height in [0, 1, 2, 5, 9, 17, 24, 90] {
                watched.text(width, height);
                one.text(width, height);
            }
        }
        assert!(one.text(80, 24).contains("step 1 of 100"));
        assert!(matches!(Watched::open(dir.path()), Err(Error::NotARun { .. })));
    }
}
