//! GLUE (Wang et al. 2018, <https://gluebenchmark.com>) by the recipe of MosaicBERT's paper.
//!
//! [`tasks`] says what the tasks are, [`data`] reads them, [`recipe`] says how each is fine-tuned, [`run`] does it with the
//! engine of [`crate::finetune`], and [`metrics`] measures. What is left behind is in [`results`], with [`submission`] for
//! the leaderboard and [`report`] for people.

pub mod data;
pub mod metrics;
pub mod recipe;
pub mod report;
pub mod results;
pub mod run;
pub mod submission;
pub mod tasks;

pub use recipe::Recipe;
pub use results::GlueResults;
pub use run::{GlueJob, GlueRun};
pub use tasks::Task;
