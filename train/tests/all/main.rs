//! All integration tests of the trainer, in one program, so that libtorch is linked once.

mod checkpoint; // torn, altered and foreign checkpoints
mod command; // the command line: what it refuses and what it prints
mod corpus; // shard folders made on the spot
mod optimizer; // Composer's own numbers
mod resume; // killed and resumed equals uninterrupted
