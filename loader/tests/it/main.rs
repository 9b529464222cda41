//! The crate from outside, over small corpora made on the spot.

mod batches; // what the loader gives: the same for any workers, ranks and starting step
mod cache; // shards in stores: the same batches, whatever the store does
mod corpus; // folders, documents, samples, and folders that are wrong
mod fixture;
mod format; // bytes on disk: round trips, determinism, damage
mod golden; // batches as text, checked in
mod mixture; // several folders with weights, and their held-out documents
mod object; // objects in stores: whole or not at all
mod order; // the same global batch for any ranks, workers and cuts, and after any interruption
