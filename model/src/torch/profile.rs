//! What runs on the GPU and when, by torch's own profiler (Kineto over CUPTI): every kernel and copy, whoever launched it.

use std::ffi::{CStr, CString, c_char, c_void};
use std::path::Path;
use std::ptr::null;

use super::{check, sys};
use crate::Error;

/// One kernel or copy on the GPU.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Activity {
    /// The kernel's name, as the compiler made it.
    pub name: String,
    /// When it began, in nanoseconds of a clock of the profiler's own.
    pub start_ns: u64,
    /// How long it took in nanoseconds.
    pub duration_ns: u64,
}

/// A profiler that is recording. One at a time, started and finished in one thread.
#[derive(Debug)]
#[must_use = "it records until it is finished"]
pub struct Profile(());

impl Profile {
    /// Starts to record.
    ///
    /// # Errors
    /// [`Error::Torch`] while another one is recording.
    pub fn start() -> Result<Profile, Error> {
        // SAFETY: no arguments to promise anything about.
        check::message("start the profiler", unsafe { sys::bridge_profile_start() })?;
        Ok(Profile(()))
    }

    /// Stops, and gives what ran on the GPU in order of its start. Wait for the GPU first: what has not ended is lost.
    /// With a `trace`, all that was recorded, the host's side included, is written there for chrome://tracing or Perfetto.
    ///
    /// # Errors
    /// [`Error::Torch`] where the profiler fails or the trace cannot be written.
    pub fn finish(self, trace: Option<&Path>) -> Result<Vec<Activity>, Error> {
        let path =
            trace.map(|path| CString::new(path.to_string_lossy().as_bytes()).expect("paths hold no zero"));
        let mut activities: Vec<Activity> = Vec::new();
        let context = (&raw mut activities).cast::<c_void>();
        let path = path.as_ref().map_or(null(), |path| path.as_ptr());
        // SAFETY: path and context outlive the call, and `collect` is what the context is for.
        let message = unsafe { sys::bridge_profile_stop(path, context, collect) };
        check::message("finish the profile", message)?;
        activities.sort_by_key(|activity| activity.start_ns);
        Ok(activities)
    }
}

/// # Safety
/// `context` is the vector of [`Profile::finish`], `name` a C string; nobody else uses either during the call.
unsafe extern "C" fn collect(context: *mut c_void, name: *const c_char, start_ns: u64, duration_ns: u64) {
    // SAFETY: the caller's promise.
    let activities = unsafe { &mut *context.cast::<Vec<Activity>>() };
    // SAFETY: the caller's promise.
    let name = unsafe { CStr::from_ptr(name) }.to_string_lossy().into_owned();
    activities.push(Activity { name, start_ns, duration_ns });
}

#[cfg(test)]
mod tests {
    use tch::{Device, Kind, Tensor};

    use super::*;

    /// Without a GPU there is nothing to see, but the profiler must start and stop, and write what the host did.
    #[test]
    fn a_profile_ends_with_a_trace() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("trace.json");
        let profile = Profile::start().unwrap();
        let _ = Tensor::ones([4, 4], (Kind::Float, Device::Cpu))
            .matmul(&Tensor::eye(4, (Kind::Float, Device::Cpu)));
        let activities = profile.finish(Some(&path)).unwrap();
        assert!(activities.is_empty());
        let trace = std::fs::read_to_string(path).unwrap();
        assert!(trace.contains("aten::matmul"), "{}", &trace[..trace.len().min(400)]);
    }
}
