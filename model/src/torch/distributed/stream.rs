//! A stream beside the one that operators use, and marks in streams.

use std::ffi::c_void;
use std::ptr::null_mut;

use super::super::{check, sys as bridge};
use super::sys;
use crate::Error;

/// Makes GPU `device` the one that this thread works on where nothing else is said. Without it, a process for the second GPU would
/// also occupy memory of the first.
///
/// # Errors
/// [`Error::Torch`] without such a GPU.
pub fn use_device(device: usize) -> Result<(), Error> {
    // SAFETY: no arguments to promise anything about.
    check::message("choose a GPU", unsafe { sys::bridge_use_device(ordinal(device)) })
}

fn ordinal(device: usize) -> i32 {
    i32::try_from(device).unwrap_or(i32::MAX)
}

/// A stream of high priority.
#[derive(Debug)]
pub(super) struct Stream {
    handle: *mut c_void,
    device: usize,
}

// SAFETY: the handle is a number that any thread may use.
unsafe impl Send for Stream {}
// SAFETY: as above; giving a stream work does not change the handle.
unsafe impl Sync for Stream {}

impl Stream {
    pub(super) fn new(device: usize) -> Result<Stream, Error> {
        let mut handle = null_mut();
        // SAFETY: the result outlives the call.
        let message = unsafe { sys::bridge_stream_new(ordinal(device), &raw mut handle) };
        check::message("make a stream", message)?;
        Ok(Stream { handle, device })
    }

    /// Its `cudaStream_t`.
    pub(super) fn cuda(&self) -> Result<*mut c_void, Error> {
        let mut stream = null_mut();
        // SAFETY: the handle is alive; the result outlives the call.
        let message = unsafe { sys::bridge_stream_handle(self.handle, &raw mut stream) };
        check::message("find a stream", message)?;
        Ok(stream)
    }

    /// From here on this stream waits for what operators have been given so far in this thread.
    pub(super) fn follow(&self) -> Result<(), Error> {
        // SAFETY: the handle is alive.
        check::message("let a stream wait", unsafe { sys::bridge_stream_follow(self.handle) })
    }

    /// A mark at the end of what this stream has been given so far.
    pub(super) fn mark(&self) -> Result<Mark, Error> {
        let mut event = null_mut();
        // SAFETY: the handle is alive; the result outlives the call.
        let message = unsafe { sys::bridge_stream_mark(self.handle, &raw mut event) };
        check::message("mark a stream", message)?;
        Ok(Mark { event: Event(event), device: self.device })
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        // SAFETY: made by `bridge_stream_new`, freed only here.
        unsafe { sys::bridge_stream_free(self.handle) };
    }
}

/// An event of the bridge.
#[derive(Debug)]
struct Event(*mut c_void);

// SAFETY: a handle that any thread may use; one owns it.
unsafe impl Send for Event {}

impl Drop for Event {
    fn drop(&mut self) {
        // SAFETY: made by the bridge, freed only here.
        unsafe { bridge::bridge_event_free(self.0) };
    }
}

/// A place in a stream.
#[derive(Debug)]
pub(super) struct Mark {
    event: Event,
    device: usize,
}

impl Mark {
    /// From here on operators of this thread wait until the mark has been passed; the host goes on.
    pub(super) fn block(&self) -> Result<(), Error> {
        // SAFETY: the event is alive.
        check::message("wait for a stream", unsafe {
            sys::bridge_event_block(self.event.0, ordinal(self.device))
        })
    }
}

/// A place in the stream of operators that knows when it was passed.
#[derive(Debug)]
pub struct Timer(Event);

impl Timer {
    /// At the end of what operators on GPU `device` have been given so far in this thread.
    ///
    /// # Errors
    /// [`Error::Torch`] without such a GPU.
    pub fn record(device: usize) -> Result<Timer, Error> {
        let mut event = null_mut();
        // SAFETY: the result outlives the call.
        let message = unsafe { sys::bridge_timer_record(ordinal(device), &raw mut event) };
        check::message("record a timer", message)?;
        Ok(Timer(Event(event)))
    }

    /// Milliseconds from this place to a later one of the same GPU, which is waited for.
    ///
    /// # Errors
    /// [`Error::Torch`] where work on the device has failed.
    pub fn until(&self, later: &Timer) -> Result<f64, Error> {
        let mut milliseconds = 0.0;
        // SAFETY: both events are alive; the result outlives the call.
        let message = unsafe { sys::bridge_timer_between(self.0.0, later.0.0, &raw mut milliseconds) };
        check::message("read a timer", message)?;
        Ok(milliseconds)
    }
}
