//! The crates together, as a user meets them: through the programs `ingest` and `train`.

mod bad_input; // every broken input gives one clear sentence
mod determinism; // the same bytes, batches and weights, however the work is cut, killed and resumed
mod pipeline; // text -> shards -> model -> evaluation -> report
mod readme; // what the README shows exists
mod stored; // shards in an object store
