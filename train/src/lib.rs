//! Masked-language-model pretraining: from packed shards to checkpoints, evaluations and a report.
//!
//! A run is a folder ([`folder`]) and a loop ([`run`]): the loader's batch becomes tensors (`feed`), a step is
//! forward, backward and update ([`step`], [`optimizer`], [`schedule`] over [`pace`]), and every so often it is logged
//! ([`metrics`], [`progress`], [`journal`]), evaluated ([`eval`]) and saved ([`checkpoint`]). [`config`] says what can be set,
//! [`layers`] how presets, files and options combine, [`report`] draws what came of it, [`watch`] shows it while it trains. Several processes may make a run
//! together ([`distributed`]). Trained models are fine-tuned ([`finetune`]) and measured on GLUE ([`glue`]); [`pareto`] draws
//! that against what training had cost, and [`sweep`] trains and compares several configurations.
//!
//! A trained model is a [`model_folder`], whoever trained it: [`import`] makes one of Hugging Face's BERT or of a
//! MosaicBERT, [`export`] goes the other way, [`fill`] and [`embed`] try it out.
//!
//! Whatever decides a result is a function of the configuration, the data and the step, so a run that was killed
//! and resumed ends with the same bytes as one that was not.

pub mod bench;
pub mod budget;
mod card;
pub mod checkpoint;
pub mod config;
pub mod device;
pub mod distributed;
pub mod embed;
pub mod error;
pub mod eval;
pub mod export;
mod feed;
pub mod fill;
pub mod finetune;
pub mod folder;
pub mod glue;
pub mod host;
pub mod import;
pub mod journal;
pub mod layers;
pub mod metrics;
pub mod micro_batch;
pub mod model_folder;
pub mod optimizer;
pub mod pace;
pub mod pareto;
pub mod progress;
mod prometheus;
pub mod report;
pub mod run;
pub mod schedule;
pub mod step;
pub mod stop;
pub mod sweep;
mod tensorboard;
pub mod text;
pub mod watch;

pub use error::Error;
