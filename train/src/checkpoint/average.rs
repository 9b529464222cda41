//! The mean of several checkpoints' weights, as a checkpoint of its own: what evaluation, export and fine-tuning take.
//!
//! Averaging the last checkpoints of a run smooths what single batches have left in the weights, as ModernBERT and many
//! before it do; it gains most where the learning rate has not decayed.

use std::fs;
use std::io::Write;
use std::path::Path;

use model::tensor_file::{self, TensorFile};
use tch::{Kind, Tensor};

use super::{CONFIG, Checkpoint, MODEL, TOKENIZER, list, remove, seal};
use crate::error::Error;
use crate::folder::write_config;

/// Writes the mean of the last `last` checkpoints of the run in `run` to the folder `out`, which must not exist. Returns the
/// steps of the checkpoints.
///
/// The mean is summed in float64, oldest first, and so does not depend on anything else.
///
/// # Errors
/// Fewer checkpoints than `last`; one of them unusable; an `out` that exists.
pub fn average(run: &Path, last: usize, out: &Path) -> Result<Vec<u64>, Error> {
    if out.exists() {
        return Err(Error::OutExists { path: out.to_owned() });
    }
    let dir = run.join("checkpoints");
    let all = if dir.exists() { list(&dir)? } else { Vec::new() };
    if last == 0 || all.len() < last {
        return Err(Error::TooFewCheckpoints { path: run.to_owned(), found: all.len(), expected: last });
    }
    let mut sums: Vec<(String, Kind, Tensor)> = Vec::new();
    let mut steps = Vec::new();
    let mut newest = None;
    for path in &all[all.len() - last..] {
        let checkpoint = Checkpoint::open(path)?;
        let mut tensors = TensorFile::read(&path.join(MODEL))?.tensors;
        tensors.sort_by(|one, other| one.0.cmp(&other.0));
        if sums.is_empty() {
            sums = tensors.into_iter().map(|(name, t)| (name, t.kind(), t.to_kind(Kind::Double))).collect();
        } else {
            if !tensors
                .iter()
                .map(|(name, t)| (name, t.size()))
                .eq(sums.iter().map(|(n, _, t)| (n, t.size())))
            {
                let reason = "its tensors are not those of the checkpoints before it".to_owned();
                return Err(Error::BadCheckpoint { path: path.clone(), reason });
            }
            for ((_, _, sum), (_, tensor)) in sums.iter_mut().zip(tensors) {
                let _ = sum.f_add_(&tensor.to_kind(Kind::Double))?;
            }
        }
        steps.push(checkpoint.state.step);
        newest = Some(checkpoint);
    }
    let newest = newest.expect("at least one was read");
    let means: Vec<(String, Tensor)> =
        sums.into_iter().map(|(name, kind, sum)| (name, (sum / last as f64).to_kind(kind))).collect();
    let mut state = newest.state;
    state.mean_of = steps.clone();
    state.files.clear();
    let mut beside = out.as_os_str().to_owned();
    beside.push(".unfinished");
    let beside = Path::new(&beside);
    let io = |source| Error::Write { path: beside.to_owned(), source };
    remove(beside)?;
    fs::create_dir_all(beside).map_err(io)?;
    write_config(&beside.join(CONFIG), &newest.config)?;
    tensor_file::write(&beside.join(MODEL), means.iter().map(|(name, tensor)| (name.as_str(), tensor)))?;
    let tokenizer = newest.path.join(TOKENIZER);
    let bytes = fs::read(&tokenizer).map_err(|source| Error::Read { path: tokenizer, source })?;
    loader::atomic::write_file(&beside.join(TOKENIZER), |file| file.write_all(&bytes))?;
    seal(beside, &mut state, &[CONFIG, TOKENIZER, MODEL])?;
    fs::rename(beside, out).map_err(|source| Error::Write { path: out.to_owned(), source })?;
    let parent = out.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    loader::atomic::sync_dir(parent)?;
    Ok(steps)
}
