//! The program as a user starts it.

mod bad_input; // every broken input gives one clear sentence
mod bytes; // the same bytes, however the work is cut, killed and resumed
mod commands; // what the commands print and where they refuse
mod filtered; // what filters leave out
mod fixtures; // corpora made on the spot
mod formats; // the same documents in every format
mod objects; // inputs from and shards to an object store
mod vocab; // vocabularies trained on the spot
