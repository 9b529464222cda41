//! What can be wrong with a table, a task or a fine-tuned model. All of it is found before training starts.

use std::path::PathBuf;

/// Refusals of fine-tuning.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FinetuneError {
    /// A table cannot be read.
    #[error("{} cannot be read as {format}: {reason}", path.display())]
    Table {
        /// The file.
        path: PathBuf,
        /// What it was taken for.
        format: &'static str,
        /// What is wrong, with the line where one is to blame.
        reason: String,
    },

    /// A column is not there.
    #[error("{} has no column {column:?}; it has {columns}", path.display())]
    Column {
        /// The file.
        path: PathBuf,
        /// The column asked for.
        column: String,
        /// Those there are.
        columns: String,
    },

    /// A cell holds what it may not.
    #[error("{}, row {row}: {column} is {found}, expected {expected}", path.display())]
    Cell {
        /// The file.
        path: PathBuf,
        /// The row, counted from 1 without the header.
        row: usize,
        /// The column.
        column: String,
        /// What is there.
        found: String,
        /// What may be there.
        expected: String,
    },

    /// A set of examples is empty.
    #[error("{} has no examples: {purpose} needs at least {needed}", path.display())]
    Empty {
        /// The file.
        path: PathBuf,
        /// What it was to be used for.
        purpose: &'static str,
        /// How many there must be.
        needed: usize,
    },

    /// Labels that make no task.
    #[error("{}: {reason}", path.display())]
    Labels {
        /// The file.
        path: PathBuf,
        /// What is wrong with them, and what to do.
        reason: String,
    },

    /// A task's data are not there.
    #[error("there are no data of {task} in {}: {reason}", folder.display())]
    NoTask {
        /// The task as GLUE writes it.
        task: &'static str,
        /// The folder that was searched.
        folder: PathBuf,
        /// What was looked for.
        reason: String,
    },

    /// A name that is no GLUE task.
    #[error("there is no GLUE task {name:?}; there are {known}")]
    UnknownTask {
        /// The name given.
        name: String,
        /// All names.
        known: String,
    },

    /// A recipe that cannot be used.
    #[error("{origin}: {reason}")]
    Recipe {
        /// The file or the option.
        origin: String,
        /// What is wrong, and what may be there.
        reason: String,
    },

    /// The model cannot take the task.
    #[error("the model in {} {reason}", path.display())]
    Unfit {
        /// The model's folder.
        path: PathBuf,
        /// What it lacks.
        reason: String,
    },

    /// The results of something else are in the way.
    #[error("{} holds results of another {what}: {found}, this is {expected}; choose another --out, or remove that one", path.display())]
    OtherResults {
        /// The folder.
        path: PathBuf,
        /// What differs: "model", "recipe", "data".
        what: &'static str,
        /// What the folder's results came from.
        found: String,
        /// What was asked for now.
        expected: String,
    },

    /// A text the tokenizer fails on.
    #[error("the tokenizer fails on example {example}: {reason}")]
    Encode {
        /// Its number, from 0.
        example: usize,
        /// The tokenizer's reason.
        reason: String,
    },

    /// Loss or gradient were not finite too often in a row.
    #[error(
        "loss or gradient were not finite in {streak} steps in a row, the last one step {step} of {steps}; a lower learning \
         rate usually helps"
    )]
    Diverged {
        /// How many.
        streak: u64,
        /// The last of them.
        step: u64,
        /// Steps in all.
        steps: u64,
    },

    /// A job of several has failed; the others' results are kept.
    #[error(
        "{failed} of {jobs} fine-tunings failed, the first one {first}; what is finished is kept, and the same command does the rest"
    )]
    Jobs {
        /// How many failed.
        failed: usize,
        /// How many there were.
        jobs: usize,
        /// The first failure.
        first: String,
    },

    /// The work was stopped from outside.
    #[error("stopped; what is finished is kept, and the same command does the rest")]
    Stopped,

    /// A page needs results.
    #[error("{} has {found}; {advice}", path.display())]
    NoResults {
        /// The folder of a run.
        path: PathBuf,
        /// What is there.
        found: String,
        /// What to do.
        advice: String,
    },

    /// A process of a sweep has failed; what it says is above.
    #[error("it ended with {status}; its own words are above")]
    Process {
        /// How it ended.
        status: String,
    },

    /// A sweep's file that cannot be used.
    #[error("{}: {reason}", path.display())]
    Sweep {
        /// The file.
        path: PathBuf,
        /// What is wrong, and what may be there.
        reason: String,
    },
}
