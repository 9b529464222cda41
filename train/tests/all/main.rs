//! All integration tests of the trainer, in one program, so that libtorch is linked once.

mod average; // the mean of checkpoints
mod branch; // a decay that branches off a long run
mod budget; // runs that end decayed when their budget is used up
mod checkpoint; // torn, altered and foreign checkpoints
mod cluster; // the examples for clusters
mod command; // the command line: what it refuses and what it prints
mod corpus; // shard folders made on the spot
mod distributed; // several ranks over loopback
mod finetune; // people's own data
mod glue; // GLUE, on tables small enough to be learnt by heart
mod hugging_face; // folders as Hugging Face lays them out
mod memory; // micro-batches that fit, and those that do not
mod optimizer; // Composer's own numbers
mod port; // import, export, fill and embed
mod pretrained; // a small model to fine-tune
mod resume; // killed and resumed equals uninterrupted
mod skip; // steps that are not finite
mod sweep; // several configurations, and the Pareto page
mod transformers; // the real one beside import and export
mod watching; // event files, Prometheus text, and a run in the terminal
