//! Collectives on GPUs: NVIDIA's NCCL, opened at run time as libtorch opens it. Its functions are declared here as nccl.h of
//! version 2 does; see the module's head for why.
//!
//! Operations run on a stream of their own, so that the operators' stream goes on meanwhile. An operation waits for what the
//! operators' stream had been given when it was started; [`super::Pending::wait`] lets that stream wait for the operation. The
//! host waits for neither.

use std::ffi::{CStr, c_char, c_int, c_void};
use std::path::PathBuf;
use std::ptr::null_mut;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use libloading::os::unix::{Library, RTLD_NOW};
use tch::{Device, Kind, Tensor};

use super::super::nvrtc::library_folders;
use super::store::Store;
use super::stream::{Mark, Stream, use_device};
use crate::Error;

/// ncclResult_t.
type Status = c_int;
/// ncclComm_t.
type Comm = *mut c_void;
/// cudaStream_t.
type CudaStream = *mut c_void;

// Numbers of nccl.h.
const SUM: c_int = 0;
const IN_PROGRESS: Status = 7;
const UNIQUE_ID_BYTES: usize = 128;

/// ncclUniqueId: where the members of a group find its first one.
#[derive(Clone, Copy)]
#[repr(C)]
struct UniqueId([u8; UNIQUE_ID_BYTES]);

/// The library's functions, by their names in nccl.h.
struct Api {
    version: unsafe extern "C" fn(*mut c_int) -> Status,
    unique_id: unsafe extern "C" fn(*mut UniqueId) -> Status,
    init_rank: unsafe extern "C" fn(*mut Comm, c_int, UniqueId, c_int) -> Status,
    abort: unsafe extern "C" fn(Comm) -> Status,
    async_error: unsafe extern "C" fn(Comm, *mut Status) -> Status,
    error_string: unsafe extern "C" fn(Status) -> *const c_char,
    last_error: unsafe extern "C" fn(Comm) -> *const c_char,
    all_reduce:
        unsafe extern "C" fn(*const c_void, *mut c_void, usize, c_int, c_int, Comm, CudaStream) -> Status,
    reduce_scatter:
        unsafe extern "C" fn(*const c_void, *mut c_void, usize, c_int, c_int, Comm, CudaStream) -> Status,
    all_gather: unsafe extern "C" fn(*const c_void, *mut c_void, usize, c_int, Comm, CudaStream) -> Status,
    broadcast:
        unsafe extern "C" fn(*const c_void, *mut c_void, usize, c_int, c_int, Comm, CudaStream) -> Status,
    /// Keeps the functions valid.
    _library: Library,
}

impl Api {
    /// The copy that libtorch has loaded, or else one beside libtorch or where the loader looks.
    fn open() -> Result<Api, Error> {
        let mut paths = vec![PathBuf::from("libnccl.so.2")];
        paths.extend(library_folders().into_iter().map(|folder| folder.join("libnccl.so.2")));
        let mut reasons = Vec::new();
        for path in paths {
            // SAFETY: the library's initialisers ask nothing of the caller; and (of every `get`) the types are those nccl.h
            // declares for these names.
            let opened = unsafe {
                Library::open(Some(&path), RTLD_NOW).and_then(|library| {
                    Ok(Api {
                        version: *library.get(b"ncclGetVersion\0")?,
                        unique_id: *library.get(b"ncclGetUniqueId\0")?,
                        init_rank: *library.get(b"ncclCommInitRank\0")?,
                        abort: *library.get(b"ncclCommAbort\0")?,
                        async_error: *library.get(b"ncclCommGetAsyncError\0")?,
                        error_string: *library.get(b"ncclGetErrorString\0")?,
                        last_error: *library.get(b"ncclGetLastError\0")?,
                        all_reduce: *library.get(b"ncclAllReduce\0")?,
                        reduce_scatter: *library.get(b"ncclReduceScatter\0")?,
                        all_gather: *library.get(b"ncclAllGather\0")?,
                        broadcast: *library.get(b"ncclBroadcast\0")?,
                        _library: library,
                    })
                })
            };
            match opened {
                Ok(api) => return Ok(api),
                Err(error) => reasons.push(error.to_string()),
            }
        }
        reasons.dedup();
        Err(Error::Library { library: "libnccl.so.2", message: reasons.join("; ") })
    }

    /// `2.28.9`.
    fn version(&self) -> String {
        let mut number = 0;
        // SAFETY: the result outlives the call. A failure leaves zero.
        let _ = unsafe { (self.version)(&raw mut number) };
        format!("{}.{}.{}", number / 10_000, number / 100 % 100, number % 100)
    }

    fn check(&self, status: Status, operation: &'static str) -> Result<(), Error> {
        // The communicator is a blocking one: this is no error, and cannot come.
        if status == 0 || status == IN_PROGRESS {
            return Ok(());
        }
        let string = |pointer: *const c_char| match pointer.is_null() {
            true => String::new(),
            // SAFETY: NCCL gives C strings that stay as they are until its next failure.
            false => unsafe { CStr::from_ptr(pointer) }.to_string_lossy().trim().to_owned(),
        };
        // SAFETY: any number has a text.
        let kind = string(unsafe { (self.error_string)(status) });
        // SAFETY: null is allowed, and asks for the last error of all.
        let detail = string(unsafe { (self.last_error)(null_mut()) });
        let message = match detail.is_empty() {
            true => format!("NCCL {}: {kind}", self.version()),
            false => format!("NCCL {}: {kind}: {detail}", self.version()),
        };
        Err(Error::Collective { operation, message })
    }
}

/// The processes of a job as a communicator of NCCL, each with a GPU of its own.
pub struct Nccl {
    api: Api,
    comm: Comm,
    stream: Stream,
    cuda_stream: CudaStream,
    device: usize,
    rank: usize,
    world_size: usize,
    /// Held while an operation is started, since a communicator takes them from one thread at a time.
    starting: Mutex<()>,
}

// SAFETY: communicator and stream are handles that any thread may use, one at a time, which the mutex sees to.
unsafe impl Send for Nccl {}
// SAFETY: as above; NCCL allows its asynchronous error to be asked for at any time.
unsafe impl Sync for Nccl {}

impl std::fmt::Debug for Nccl {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "NCCL {} on GPU {}, rank {} of {}",
            self.api.version(),
            self.device,
            self.rank,
            self.world_size
        )
    }
}

impl Nccl {
    /// Joins the group `name` with GPU `device`; all members do, and wait for each other.
    ///
    /// # Errors
    /// [`Error::Library`] without NCCL; [`Error::Collective`] where it refuses, as when two members have the same GPU;
    /// [`Error::Torch`] when the first member is not there after `timeout`.
    pub fn join(
        store: &Store,
        name: &str,
        rank: usize,
        world_size: usize,
        device: usize,
        timeout: Duration,
    ) -> Result<Nccl, Error> {
        const JOIN: &str = "join the group of GPUs";
        let api = Api::open()?;
        use_device(device)?;
        let key = format!("{name}/unique_id");
        let mut id = UniqueId([0; UNIQUE_ID_BYTES]);
        if rank == 0 {
            // SAFETY: the result outlives the call.
            api.check(unsafe { (api.unique_id)(&raw mut id) }, JOIN)?;
            store.set(&key, &id.0)?;
        } else {
            let bytes = store.get(&key, timeout)?;
            id.0 = bytes.try_into().map_err(|bytes: Vec<u8>| Error::Collective {
                operation: JOIN,
                message: format!("rank 0 published {} bytes, expected {UNIQUE_ID_BYTES}", bytes.len()),
            })?;
        }
        let number = |value: usize| c_int::try_from(value).unwrap_or(c_int::MAX);
        let mut comm = null_mut();
        // SAFETY: the result outlives the call; the identifier is passed by value, as nccl.h declares it.
        let status = unsafe { (api.init_rank)(&raw mut comm, number(world_size), id, number(rank)) };
        api.check(status, JOIN)?;
        let stream = Stream::new(device)?;
        let cuda_stream = stream.cuda()?;
        Ok(Nccl { api, comm, stream, cuda_stream, device, rank, world_size, starting: Mutex::new(()) })
    }

    /// This process's number.
    pub fn rank(&self) -> usize {
        self.rank
    }

    /// Number of processes.
    pub fn world_size(&self) -> usize {
        self.world_size
    }

    /// Whether an operation under way has failed.
    ///
    /// # Errors
    /// [`Error::Collective`] if so.
    pub fn check(&self) -> Result<(), Error> {
        let mut status = 0;
        // SAFETY: the communicator is alive; the result outlives the call.
        let asked = unsafe { (self.api.async_error)(self.comm, &raw mut status) };
        self.api.check(asked, "ask NCCL how it is")?;
        self.api.check(status, "exchange tensors with the other ranks")
    }

    pub(super) fn all_reduce(&self, sum: &Tensor) -> Result<Mark, Error> {
        self.begin("sum over the ranks", sum, |memory, count, kind| {
            // SAFETY: `begin`'s promise.
            unsafe { (self.api.all_reduce)(memory, memory, count, kind, SUM, self.comm, self.cuda_stream) }
        })
    }

    pub(super) fn broadcast(&self, tensor: &Tensor, root: usize) -> Result<Mark, Error> {
        let root = c_int::try_from(root).unwrap_or(c_int::MAX);
        self.begin("broadcast", tensor, |memory, count, kind| {
            // SAFETY: `begin`'s promise.
            unsafe { (self.api.broadcast)(memory, memory, count, kind, root, self.comm, self.cuda_stream) }
        })
    }

    /// Of `whole`, cut into as many parts as there are members, this one's part becomes the sum.
    pub(super) fn reduce_scatter(&self, whole: &Tensor) -> Result<Mark, Error> {
        let (part, bytes) = self.part(whole);
        self.begin("reduce and scatter", whole, |memory, _, kind| {
            // SAFETY: `begin`'s promise; the part lies within the whole, where NCCL expects it for operating in place.
            unsafe {
                let own = memory.cast::<u8>().add(self.rank * bytes).cast();
                (self.api.reduce_scatter)(memory, own, part, kind, SUM, self.comm, self.cuda_stream)
            }
        })
    }

    /// The parts of `whole` become those of the members they belong to.
    pub(super) fn all_gather(&self, whole: &Tensor) -> Result<Mark, Error> {
        let (part, bytes) = self.part(whole);
        self.begin("gather", whole, |memory, _, kind| {
            // SAFETY: as in `reduce_scatter`.
            unsafe {
                let own = memory.cast::<u8>().add(self.rank * bytes).cast_const().cast();
                (self.api.all_gather)(own, memory, part, kind, self.comm, self.cuda_stream)
            }
        })
    }

    /// Elements and bytes of one member's part.
    fn part(&self, whole: &Tensor) -> (usize, usize) {
        let part = whole.numel() / self.world_size;
        (part, part * whole.kind().elt_size_in_bytes())
    }

    /// Starts an operation on a tensor's memory: `call` is given the address, the number of elements, and NCCL's number of
    /// their kind. The memory stays the tensor's until the operators' stream has waited for the mark, or for a later one: what
    /// the caller keeps, or frees into the allocator, which gives it out in the order of that stream.
    fn begin(
        &self,
        operation: &'static str,
        tensor: &Tensor,
        call: impl FnOnce(*mut c_void, usize, c_int) -> Status,
    ) -> Result<Mark, Error> {
        let refuse = |message: String| Err(Error::Collective { operation, message });
        if tensor.device() != Device::Cuda(self.device) || !tensor.is_contiguous() {
            return refuse(format!(
                "expected a contiguous tensor on GPU {}, this is {tensor:?}",
                self.device
            ));
        }
        let kind = match tensor.kind() {
            Kind::Int64 => 4,
            Kind::Float => 7,
            Kind::Double => 8,
            Kind::BFloat16 => 9,
            other => return refuse(format!("tensors of {other:?} are not exchanged")),
        };
        let _one_at_a_time = self.starting.lock().unwrap_or_else(PoisonError::into_inner);
        self.check()?;
        self.stream.follow()?;
        self.api.check(call(tensor.data_ptr(), tensor.numel(), kind), operation)?;
        self.stream.mark()
    }
}

impl Drop for Nccl {
    fn drop(&mut self) {
        // Not `ncclCommDestroy`, which waits for the others. Whoever drops the group has waited for its operations, or wants them
        // to end.
        // SAFETY: made by `init_rank`, freed only here. There is nothing to do about a failure.
        let _ = unsafe { (self.api.abort)(self.comm) };
    }
}

#[cfg(test)]
mod tests {
    use super::super::store::tests::local;
    use super::*;

    /// Without a GPU: the library's version, an identifier passed by value, and an account of what is missing.
    #[test]
    fn nccl_answers_and_says_what_it_lacks() {
        let api = match Api::open() {
            Ok(api) => api,
            Err(error) => return eprintln!("skipped: {error}"),
        };
        assert!(api.version().starts_with("2."), "{}", api.version());
        if tch::Cuda::is_available() {
            return eprintln!("skipped: there is a GPU");
        }
        let mut comm = null_mut();
        // SAFETY: as in `join`; an identifier of zeros names nobody.
        let status = unsafe { (api.init_rank)(&raw mut comm, 1, UniqueId([0; UNIQUE_ID_BYTES]), 0) };
        let error = api.check(status, "join").unwrap_err().to_string();
        assert!(error.starts_with("join: NCCL 2."), "{error}");
        let (store, _) = local();
        let timeout = Duration::from_secs(1);
        assert!(Nccl::join(&store, "group", 0, 1, 0, timeout).is_err());
    }
}
