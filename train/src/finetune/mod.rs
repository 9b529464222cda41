//! Fine-tuning a pretrained encoder to classify texts or pairs of texts, or to predict a number for each.
//!
//! One engine serves GLUE ([`crate::glue`]) and people's own data: [`table`] reads files, [`examples`] makes token ids of
//! texts, [`order`] says what is trained on when, [`fit`] trains and scores, [`start`] is the pretrained model. Own data
//! have [`dataset`] (columns, labels, split), [`job`] (train, evaluate, report) and [`predict`]; [`saved`] is what a
//! fine-tuned model folder knows of its task.

pub mod dataset;
mod error;
pub mod examples;
pub mod fit;
pub mod job;
pub mod order;
pub mod predict;
pub mod report;
pub mod saved;
pub mod start;
pub mod table;

pub use dataset::{Columns, Target};
pub use error::FinetuneError;
pub use examples::{Example, Text};
pub use fit::{Fitted, Precision, Settings, fit, prediction, scores};
pub use job::{FinetuneJob, FinetuneResults};
pub use order::Order;
pub use predict::PredictJob;
pub use start::{Progress, Start};
