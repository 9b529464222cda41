//! The program as a user starts it.

mod bad_input; // every broken input gives one clear sentence
mod bytes; // the same bytes, however the work is cut, killed and resumed
mod commands; // what the commands print and where they refuse
mod fixtures; // corpora made on the spot
