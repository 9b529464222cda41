//! From the loader's micro-batch to tensors on the device: the only place where data becomes a tensor.

use loader::MicroBatch;
use model::TokenBatch;
use tch::Device;

use crate::error::Error;

/// Copies a micro-batch to `device`.
///
/// # Shape
/// `T` tokens, `B` samples, `M` masked tokens: ids `[T]`, sample boundaries `[B + 1]` (they stay on the host),
/// positions and labels `[M]`.
///
/// # Errors
/// [`Error::Model`] when the batch contradicts itself.
pub(crate) fn to_device(batch: &MicroBatch, device: Device) -> Result<TokenBatch, Error> {
    let (ids, ends) = (&batch.input_ids, &batch.cu_seqlens);
    Ok(TokenBatch::from_host(ids, ends, &batch.masked_positions, &batch.labels, device)?)
}
