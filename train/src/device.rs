//! The device a run computes on.

use tch::{Device, Kind};

use crate::config::DeviceChoice;
use crate::distributed::Ranks;
use crate::error::Error;

/// The device for a choice; `auto` takes CUDA where a card is usable.
///
/// # Errors
/// [`Error::NoCuda`] when CUDA is asked for and is not there.
pub fn choose(choice: DeviceChoice) -> Result<Device, Error> {
    choose_for(choice, &Ranks::alone())
}

/// As [`choose`], for a process of a job: each takes a card of its own.
///
/// # Errors
/// Also [`Error::TooFewGpus`].
pub fn choose_for(choice: DeviceChoice, ranks: &Ranks) -> Result<Device, Error> {
    let cuda = choice != DeviceChoice::Cpu && model::torch::load_cuda() && model::torch::cuda_available();
    match (choice, cuda) {
        (_, true) => Ok(Device::Cuda(ranks.card(tch::Cuda::device_count().max(0) as usize)?)),
        (DeviceChoice::Cuda, false) => Err(Error::NoCuda),
        (_, false) => Ok(Device::Cpu),
    }
}

/// `cpu` or `cuda`.
pub fn name(device: Device) -> &'static str {
    if device.is_cuda() { "cuda" } else { "cpu" }
}

/// What activations are computed in; weights are float32 everywhere.
pub fn compute_kind(device: Device) -> Kind {
    if device.is_cuda() { Kind::BFloat16 } else { Kind::Float }
}

/// Sets the number of threads torch computes with on the CPU; 0 leaves torch's choice, every processor.
pub fn set_threads(threads: usize) {
    if threads > 0 {
        tch::set_num_threads(threads as i32);
    }
}
