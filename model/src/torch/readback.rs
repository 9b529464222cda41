//! Numbers on their way from a device to the host, which goes on meanwhile.

use std::ffi::c_void;
use std::ptr::null_mut;

use tch::{Device, Kind, Tensor};

use super::memory::{copy_async, pinned};
use super::{check, sys};
use crate::Error;

/// A copy that was started, and is waited for when its numbers are wanted.
#[derive(Debug)]
pub struct Readback {
    /// Where the numbers arrive: `[N]`, float64.
    host: Tensor,
    /// Passed when they have.
    arrival: Option<Event>,
}

impl Readback {
    /// Starts to bring `numbers` to the host. From the CPU they are there at once.
    ///
    /// # Shape
    /// - `numbers`: `[N]`, float64
    ///
    /// # Errors
    /// [`Error::Torch`] where the device refuses, also for an error of earlier work.
    pub fn start(numbers: &Tensor) -> Result<Readback, Error> {
        let Device::Cuda(device) = numbers.device() else {
            return Ok(Readback { host: numbers.copy(), arrival: None });
        };
        let host = pinned(&numbers.size(), Kind::Double)?; // [N]
        copy_async(&host, numbers)?;
        Ok(Readback { host, arrival: Some(Event::record(device)?) })
    }

    /// The numbers; waits for them.
    ///
    /// # Errors
    /// [`Error::Torch`] where work on the device has failed.
    pub fn wait(self) -> Result<Vec<f64>, Error> {
        if let Some(arrival) = &self.arrival {
            arrival.wait()?;
        }
        Ok(Vec::try_from(&self.host).expect("float64 of one dimension"))
    }
}

/// The end of the work that a GPU's current stream had been given when it was made.
#[derive(Debug)]
struct Event(*mut c_void);

// SAFETY: a handle that any thread may wait for; only one owns it.
unsafe impl Send for Event {}

impl Event {
    fn record(device: usize) -> Result<Event, Error> {
        let mut handle = null_mut();
        let device = i32::try_from(device).unwrap_or(i32::MAX);
        // SAFETY: the result outlives the call.
        let message = unsafe { sys::bridge_event_record(device, &raw mut handle) };
        check::message("record an event", message)?;
        Ok(Event(handle))
    }

    fn wait(&self) -> Result<(), Error> {
        // SAFETY: a handle from `bridge_event_record` that is not freed before this is dropped.
        check::message("wait for the GPU", unsafe { sys::bridge_event_wait(self.0) })
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        // SAFETY: as above; it is not used again.
        unsafe { sys::bridge_event_free(self.0) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_the_cpu_are_those_at_the_start() {
        let numbers = Tensor::from_slice(&[1.5, -2.0]);
        let readback = Readback::start(&numbers).unwrap();
        let _ = numbers.shallow_clone().fill_(0.0);
        assert_eq!(readback.wait().unwrap(), [1.5, -2.0]);
    }
}
