//! Collectives on the CPU: c10d's `ProcessGroupGloo`.

use std::ffi::c_void;
use std::ptr::{null, null_mut};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tch::{Device, Tensor};
use torch_sys::C_tensor;

use super::super::check;
use super::store::{Store, milliseconds, text};
use super::sys;
use crate::Error;

/// The processes of a job as a group of Gloo.
#[derive(Debug)]
pub struct Gloo {
    handle: Mutex<*mut c_void>,
    rank: usize,
    world_size: usize,
}

// SAFETY: the handle is not bound to a thread; distributed.h allows any, one at a time.
unsafe impl Send for Gloo {}
// SAFETY: as above; the mutex lets in one at a time.
unsafe impl Sync for Gloo {}

/// An operation of a group that has been started.
#[derive(Debug)]
pub(super) struct Work {
    handle: *mut c_void,
    /// Memory that the operation uses.
    _tensors: [Tensor; 2],
}

// SAFETY: the handle is not bound to a thread, and one owns it.
unsafe impl Send for Work {}

impl Gloo {
    /// Joins the group `name`; all members do. It listens where `host` is, or where `GLOO_SOCKET_IFNAME` or this machine's
    /// name says. An operation that takes longer than `timeout` fails.
    ///
    /// # Errors
    /// [`Error::Collective`] when the others do not join, or when the host has no such address.
    pub fn join(
        store: &Store,
        name: &str,
        rank: usize,
        world_size: usize,
        host: Option<&str>,
        timeout: Duration,
    ) -> Result<Gloo, Error> {
        let (name, host, mut handle) = (text(name), host.map(text), null_mut());
        let number = |value: usize| i32::try_from(value).unwrap_or(i32::MAX);
        // SAFETY: names and result outlive the call; the store is this thread's while it is locked.
        let message = unsafe {
            sys::bridge_gloo_new(
                *store.lock(),
                name.as_ptr(),
                number(rank),
                number(world_size),
                host.as_ref().map_or(null(), |host| host.as_ptr()),
                milliseconds(timeout),
                &raw mut handle,
            )
        };
        check::message("join the group", message).map_err(|error| collective("join the group", error))?;
        Ok(Gloo { handle: Mutex::new(handle), rank, world_size })
    }

    /// This process's number.
    pub fn rank(&self) -> usize {
        self.rank
    }

    /// Number of processes.
    pub fn world_size(&self) -> usize {
        self.world_size
    }

    fn lock(&self) -> MutexGuard<'_, *mut c_void> {
        self.handle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn all_reduce(&self, sum: &Tensor) -> Result<Work, Error> {
        let call = |group, work| {
            // SAFETY: `begin`'s promise; the handle of the tensor is lent.
            unsafe { sys::bridge_gloo_all_reduce(group, sum.as_ptr(), work) }
        };
        self.begin("sum", [sum, sum], call)
    }

    pub(super) fn broadcast(&self, tensor: &Tensor, root: usize) -> Result<Work, Error> {
        let root = i32::try_from(root).unwrap_or(i32::MAX);
        let call = |group, work| {
            // SAFETY: `begin`'s promise; the handle of the tensor is lent.
            unsafe { sys::bridge_gloo_broadcast(group, tensor.as_ptr(), root, work) }
        };
        self.begin("broadcast", [tensor, tensor], call)
    }

    pub(super) fn reduce_scatter(&self, part: &Tensor, whole: &Tensor) -> Result<Work, Error> {
        self.between("reduce and scatter", part, whole, |group, part, whole, work| {
            // SAFETY: `begin`'s promise; the handles of the tensors are lent.
            unsafe { sys::bridge_gloo_reduce_scatter(group, part, whole, work) }
        })
    }

    pub(super) fn all_gather(&self, whole: &Tensor, part: &Tensor) -> Result<Work, Error> {
        self.between("gather", part, whole, |group, part, whole, work| {
            // SAFETY: `begin`'s promise; the handles of the tensors are lent.
            unsafe { sys::bridge_gloo_all_gather(group, whole, part, work) }
        })
    }

    fn between(
        &self,
        operation: &'static str,
        part: &Tensor,
        whole: &Tensor,
        call: impl FnOnce(
            *mut c_void,
            *const C_tensor,
            *const C_tensor,
            *mut *mut c_void,
        ) -> *mut std::ffi::c_char,
    ) -> Result<Work, Error> {
        self.begin(operation, [part, whole], |group, work| call(group, part.as_ptr(), whole.as_ptr(), work))
    }

    /// Starts an operation on tensors, with the group's handle and a place for the operation's, both valid during the call.
    fn begin(
        &self,
        operation: &'static str,
        tensors: [&Tensor; 2],
        call: impl FnOnce(*mut c_void, *mut *mut c_void) -> *mut std::ffi::c_char,
    ) -> Result<Work, Error> {
        if let Some(odd) = tensors.iter().find(|t| t.device() != Device::Cpu || !t.is_contiguous()) {
            let message = format!("Gloo takes contiguous tensors of the CPU, this is {odd:?}");
            return Err(Error::Collective { operation, message });
        }
        // libtorch notes the start of every operation in one recorder for all groups of the process, and looks up the group's
        // entry there without a lock (c10d's FlightRecorder): two groups that start at once would break its tree.
        static RECORDER: Mutex<()> = Mutex::new(());
        let recorder = RECORDER.lock().unwrap_or_else(PoisonError::into_inner);
        let mut work = null_mut();
        let message = call(*self.lock(), &raw mut work);
        drop(recorder);
        check::message(operation, message).map_err(|error| collective(operation, error))?;
        Ok(Work { handle: work, _tensors: tensors.map(Tensor::shallow_clone) })
    }
}

impl Drop for Gloo {
    fn drop(&mut self) {
        // SAFETY: made by `bridge_gloo_new`, freed only here.
        unsafe { sys::bridge_gloo_free(*self.lock()) };
    }
}

impl Work {
    /// Blocks until the operation is done.
    pub(super) fn wait(&self) -> Result<(), Error> {
        // SAFETY: a handle from the bridge that is not freed before this is dropped.
        let message = unsafe { sys::bridge_work_wait(self.handle) };
        check::message("exchange", message)
            .map_err(|error| collective("exchange tensors with the other ranks", error))
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        // SAFETY: as above; it is not used again.
        unsafe { sys::bridge_work_free(self.handle) };
    }
}

/// Gloo's words as an error of a collective.
fn collective(operation: &'static str, error: Error) -> Error {
    let message = match error {
        Error::Torch { message, .. } => message,
        other => other.to_string(),
    };
    Error::Collective { operation, message }
}
