//! The program as a user starts it.

mod bad_input; // every broken input gives one clear sentence
mod bytes; // the same bytes, however the work is cut and resumed
mod cluster; // the examples for Slurm and Kubernetes
mod commands; // what the commands print and where they refuse
mod crashes; // killed, out of disk, inputs that change: nothing is lost
mod filtered; // what filters leave out
mod fixtures; // corpora made on the spot
mod formats; // the same documents in every format
mod objects; // inputs from an object store
mod statistics; // what inspect --stats counts and draws
mod stored; // shards to an object store
mod tasks; // shares of an ingest, and their merge
mod vocab; // vocabularies trained on the spot
