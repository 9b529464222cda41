//! Whether a run trains, has ended or has died.

use std::time::Duration;

use crate::report::facts::{count, duration};

/// What is seen of a run from outside.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Signs {
    /// Whether a process holds the run's lock.
    pub(super) locked: bool,
    /// The step of the last record, and of the newest checkpoint.
    pub(super) recorded: Option<u64>,
    pub(super) saved: Option<u64>,
    /// The step at which the run ends, as far as known.
    pub(super) end: Option<u64>,
    /// Since the last record was written, and the usual time between records.
    pub(super) silence: Duration,
    pub(super) usual: Duration,
}

/// What becomes of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Status {
    /// A process trains, and has not written a record yet.
    Starting,
    /// A process trains.
    Training,
    /// A process is there, but has written nothing for much longer than usual.
    Silent(Duration),
    /// All steps are done and saved.
    Finished,
    /// No process trains; everything that was recorded is in a checkpoint.
    Stopped { saved: u64 },
    /// No process trains, and what was recorded after the newest checkpoint is lost.
    Died { recorded: u64, saved: Option<u64> },
    /// No process trains, and none has recorded anything.
    Nothing,
}

/// A run is silent after so many times the usual time between records, and not before [`QUIET`].
const USUAL_TIMES: u32 = 10;
/// An evaluation or the start of a large model may take that long.
const QUIET: Duration = Duration::from_mins(3);

impl Status {
    pub(super) fn of(signs: Signs) -> Status {
        let Signs { locked, recorded, saved, end, silence, usual } = signs;
        match (locked, recorded) {
            (true, _) if silence > QUIET.max(USUAL_TIMES * usual) => Status::Silent(silence),
            (true, None) => Status::Starting,
            (true, Some(_)) => Status::Training,
            (false, Some(recorded)) if saved.is_none_or(|saved| saved < recorded) => {
                Status::Died { recorded, saved }
            }
            (false, recorded) => match saved {
                Some(saved) if recorded.is_some() && end.is_some_and(|end| saved >= end) => Status::Finished,
                Some(saved) => Status::Stopped { saved },
                None => Status::Nothing,
            },
        }
    }

    /// The status in a word or a sentence, with what to do about it.
    pub(super) fn text(self, run: &str) -> String {
        match self {
            Status::Starting => "training, no record yet".to_owned(),
            Status::Training => "training".to_owned(),
            Status::Silent(silence) => {
                format!(
                    "a process holds the run, but has recorded nothing for {}",
                    duration(silence.as_secs_f64())
                )
            }
            Status::Finished => "finished".to_owned(),
            Status::Stopped { saved } => {
                format!("stopped and saved at step {}; train --resume {run} goes on", count(saved))
            }
            Status::Died { recorded, saved } => {
                let from = saved.map_or("the beginning".to_owned(), |saved| format!("step {}", count(saved)));
                format!("died after step {}; train --resume {run} goes on from {from}", count(recorded))
            }
            Status::Nothing => format!("not training, nothing recorded; train --resume {run} starts it"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lock_records_and_checkpoints_tell_what_became_of_a_run() {
        let signs = Signs { locked: true, usual: Duration::from_secs(5), ..Signs::default() };
        assert_eq!(Status::of(signs), Status::Starting);
        let signs = Signs { recorded: Some(230), saved: Some(200), end: Some(300), ..signs };
        assert_eq!(Status::of(signs), Status::Training);
        let hour = Duration::from_hours(1);
        assert_eq!(Status::of(Signs { silence: hour, ..signs }), Status::Silent(hour));
        let slow = Signs { silence: hour, usual: Duration::from_mins(10), ..signs };
        assert_eq!(Status::of(slow), Status::Training, "an hour is six records of this run");

        let gone = Signs { locked: false, silence: hour, ..signs };
        assert_eq!(Status::of(gone), Status::Died { recorded: 230, saved: Some(200) });
        assert_eq!(Status::of(Signs { saved: None, ..gone }), Status::Died { recorded: 230, saved: None });
        assert_eq!(Status::of(Signs { saved: Some(233), ..gone }), Status::Stopped { saved: 233 });
        assert_eq!(Status::of(Signs { recorded: Some(300), saved: Some(300), ..gone }), Status::Finished);
        let unsaved = Signs { recorded: Some(300), ..gone };
        assert_eq!(Status::of(unsaved), Status::Died { recorded: 300, saved: Some(200) });
        assert_eq!(Status::of(Signs { recorded: None, saved: None, ..gone }), Status::Nothing);
        // A branch begins with a checkpoint.
        assert_eq!(Status::of(Signs { recorded: None, ..gone }), Status::Stopped { saved: 200 });
        let text = Status::of(gone).text("runs/a");
        assert_eq!(text, "died after step 230; train --resume runs/a goes on from step 200");
    }
}
