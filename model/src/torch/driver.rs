//! The CUDA driver, opened at run time: modules are loaded and kernels launched through it, on torch's own context and
//! streams. Only a dozen of its functions are needed, so they are declared here; no CUDA package is a dependency.

use std::ffi::{CStr, CString, c_char, c_int, c_uint, c_void};
use std::ptr::null_mut;
use std::sync::Arc;

use libloading::os::unix::{Library, RTLD_NOW};

use super::memory::current_stream;
use crate::Error;

/// CUresult.
type Status = c_int;

// Numbers of cuda.h.
const OUT_OF_MEMORY: Status = 2;
const COMPUTE_CAPABILITY_MAJOR: c_int = 75;
const COMPUTE_CAPABILITY_MINOR: c_int = 76;
const MULTIPROCESSOR_COUNT: c_int = 16;
const MAX_SHARED_MEMORY_PER_BLOCK_OPTIN: c_int = 97;
const FUNCTION_MAX_DYNAMIC_SHARED_SIZE_BYTES: c_int = 8;

/// The driver's functions, by their names in cuda.h.
struct Api {
    cu_init: unsafe extern "C" fn(c_uint) -> Status,
    cu_device_get: unsafe extern "C" fn(*mut c_int, c_int) -> Status,
    cu_device_get_attribute: unsafe extern "C" fn(*mut c_int, c_int, c_int) -> Status,
    cu_device_primary_ctx_retain: unsafe extern "C" fn(*mut *mut c_void, c_int) -> Status,
    cu_ctx_set_current: unsafe extern "C" fn(*mut c_void) -> Status,
    cu_module_load_data: unsafe extern "C" fn(*mut *mut c_void, *const c_void) -> Status,
    cu_module_get_function: unsafe extern "C" fn(*mut *mut c_void, *mut c_void, *const c_char) -> Status,
    cu_func_set_attribute: unsafe extern "C" fn(*mut c_void, c_int, c_int) -> Status,
    cu_launch_kernel: unsafe extern "C" fn(
        *mut c_void,
        c_uint,
        c_uint,
        c_uint,
        c_uint,
        c_uint,
        c_uint,
        c_uint,
        *mut c_void,
        *mut *mut c_void,
        *mut *mut c_void,
    ) -> Status,
    cu_get_error_string: unsafe extern "C" fn(Status, *mut *const c_char) -> Status,
    /// Keeps the functions valid.
    _library: Library,
}

impl Api {
    fn open() -> Result<Api, Error> {
        let missing =
            |error: libloading::Error| Error::Library { library: "libcuda.so.1", message: error.to_string() };
        // SAFETY: the driver's initialisers ask nothing of the caller.
        let library = unsafe { Library::open(Some("libcuda.so.1"), RTLD_NOW) }.map_err(missing)?;
        // SAFETY: of every `get`: the types are those cuda.h declares for these names.
        unsafe {
            Ok(Api {
                cu_init: *library.get(b"cuInit\0").map_err(missing)?,
                cu_device_get: *library.get(b"cuDeviceGet\0").map_err(missing)?,
                cu_device_get_attribute: *library.get(b"cuDeviceGetAttribute\0").map_err(missing)?,
                cu_device_primary_ctx_retain: *library.get(b"cuDevicePrimaryCtxRetain\0").map_err(missing)?,
                cu_ctx_set_current: *library.get(b"cuCtxSetCurrent\0").map_err(missing)?,
                cu_module_load_data: *library.get(b"cuModuleLoadData\0").map_err(missing)?,
                cu_module_get_function: *library.get(b"cuModuleGetFunction\0").map_err(missing)?,
                cu_func_set_attribute: *library.get(b"cuFuncSetAttribute\0").map_err(missing)?,
                cu_launch_kernel: *library.get(b"cuLaunchKernel\0").map_err(missing)?,
                cu_get_error_string: *library.get(b"cuGetErrorString\0").map_err(missing)?,
                _library: library,
            })
        }
    }

    fn check(&self, status: Status, operation: impl FnOnce() -> String) -> Result<(), Error> {
        if status == 0 {
            return Ok(());
        }
        let mut text = std::ptr::null();
        // SAFETY: `text` outlives the call; the driver sets it to a static string, or to null.
        let known = unsafe { (self.cu_get_error_string)(status, &raw mut text) } == 0 && !text.is_null();
        let message = if known {
            // SAFETY: a static C string, as said.
            unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned()
        } else {
            format!("status {status}")
        };
        if status == OUT_OF_MEMORY {
            return Err(Error::OutOfMemory { operation: "CUDA", message: operation() });
        }
        Err(Error::Cuda { operation: operation(), message })
    }
}

/// One GPU, through the context that torch uses on it too.
pub(crate) struct Gpu {
    api: Api,
    /// As torch counts.
    pub(crate) index: usize,
    context: *mut c_void,
    /// Compute capability, such as (9, 0).
    pub(crate) capability: (i32, i32),
    /// Number of multiprocessors.
    pub(crate) multiprocessors: u32,
    /// Most bytes of shared memory a block can have.
    pub(crate) shared_memory: u32,
}

// SAFETY: the context is a handle that the driver lets any thread make current; it is retained for the process.
unsafe impl Send for Gpu {}
// SAFETY: as above; the driver's functions may be called from several threads at once.
unsafe impl Sync for Gpu {}

impl std::fmt::Debug for Gpu {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "GPU {} of compute capability {:?}", self.index, self.capability)
    }
}

impl Gpu {
    /// GPU `index`, counted as torch counts.
    ///
    /// # Errors
    /// [`Error::Library`] without a driver, [`Error::Cuda`] without such a GPU.
    pub(crate) fn open(index: usize) -> Result<Arc<Gpu>, Error> {
        let api = Api::open()?;
        let ordinal = c_int::try_from(index).unwrap_or(c_int::MAX);
        let (mut device, mut context) = (0, null_mut());
        // SAFETY: no arguments to promise anything about.
        api.check(unsafe { (api.cu_init)(0) }, || "initialise the driver".to_owned())?;
        // SAFETY: the result outlives the call.
        api.check(unsafe { (api.cu_device_get)(&raw mut device, ordinal) }, || format!("find GPU {index}"))?;
        let attribute = |which: c_int| {
            let mut value = 0;
            // SAFETY: the result outlives the call.
            let status = unsafe { (api.cu_device_get_attribute)(&raw mut value, which, device) };
            api.check(status, || format!("read attribute {which} of GPU {index}")).map(|()| value)
        };
        let capability = (attribute(COMPUTE_CAPABILITY_MAJOR)?, attribute(COMPUTE_CAPABILITY_MINOR)?);
        let multiprocessors = attribute(MULTIPROCESSOR_COUNT)?.unsigned_abs();
        let shared_memory = attribute(MAX_SHARED_MEMORY_PER_BLOCK_OPTIN)?.unsigned_abs();
        // The primary context is the one the CUDA runtime, and so torch, works in.
        // SAFETY: the result outlives the call.
        let status = unsafe { (api.cu_device_primary_ctx_retain)(&raw mut context, device) };
        api.check(status, || format!("retain the context of GPU {index}"))?;
        Ok(Arc::new(Gpu { api, index, context, capability, multiprocessors, shared_memory }))
    }

    /// Makes the context current in this thread: threads of the autograd engine begin without one.
    pub(crate) fn enter(&self) -> Result<(), Error> {
        // SAFETY: the context is retained for the life of the process.
        self.api
            .check(unsafe { (self.api.cu_ctx_set_current)(self.context) }, || "enter the context".to_owned())
    }
}

/// Compiled kernels on a GPU. They stay loaded for the life of the process, as torch's own do.
#[derive(Debug)]
pub(crate) struct Module {
    gpu: Arc<Gpu>,
    handle: *mut c_void,
}

impl Module {
    /// Loads machine code for this GPU.
    ///
    /// # Errors
    /// [`Error::Cuda`] where it is for another architecture, or damaged.
    pub(crate) fn load(gpu: &Arc<Gpu>, cubin: &[u8]) -> Result<Module, Error> {
        gpu.enter()?;
        let mut handle = null_mut();
        // SAFETY: the image is read during the call only; it carries its own length.
        let status = unsafe { (gpu.api.cu_module_load_data)(&raw mut handle, cubin.as_ptr().cast()) };
        gpu.api.check(status, || "load kernels".to_owned())?;
        Ok(Module { gpu: gpu.clone(), handle })
    }

    /// The kernel `name`, allowed all the shared memory a block can have.
    ///
    /// # Errors
    /// [`Error::Cuda`] where there is none.
    pub(crate) fn kernel(&self, name: &'static str) -> Result<Kernel, Error> {
        let api = &self.gpu.api;
        let c_name = CString::new(name).expect("names of kernels are words");
        let mut handle = null_mut();
        // SAFETY: the module is loaded; name and result outlive the call.
        let status = unsafe { (api.cu_module_get_function)(&raw mut handle, self.handle, c_name.as_ptr()) };
        api.check(status, || format!("find kernel {name}"))?;
        let most = c_int::try_from(self.gpu.shared_memory).unwrap_or(c_int::MAX);
        // SAFETY: a kernel of a loaded module.
        let status =
            unsafe { (api.cu_func_set_attribute)(handle, FUNCTION_MAX_DYNAMIC_SHARED_SIZE_BYTES, most) };
        api.check(status, || format!("raise the shared memory of kernel {name}"))?;
        Ok(Kernel { gpu: self.gpu.clone(), name, handle })
    }
}

/// The one argument of a kernel: a C struct passed by value.
///
/// # Safety
/// The type is `repr(C)` and field for field the struct that the kernel's source declares.
pub(crate) unsafe trait Arguments: Copy {}

/// How many threads run a kernel, and with how much shared memory.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Launch {
    /// Blocks in x, y and z.
    pub(crate) grid: [u32; 3],
    /// Threads a block.
    pub(crate) threads: u32,
    /// Bytes of shared memory a block.
    pub(crate) shared_memory: u32,
}

/// A kernel of a loaded module.
#[derive(Debug)]
pub(crate) struct Kernel {
    gpu: Arc<Gpu>,
    name: &'static str,
    handle: *mut c_void,
}

// SAFETY: the handle stays valid in every thread, since modules are never unloaded.
unsafe impl Send for Kernel {}
// SAFETY: as above; launching does not change the kernel.
unsafe impl Sync for Kernel {}

impl Kernel {
    /// Puts the kernel on torch's current stream. An empty grid is no launch.
    ///
    /// # Safety
    /// `arguments` is what this kernel expects: pointers to memory of this GPU of the extents its source states, which stays
    /// allocated until the stream has passed the kernel (memory of tensors does: the allocator reuses it in stream order).
    ///
    /// # Errors
    /// [`Error::Cuda`] where the driver refuses, also for an error of an earlier kernel.
    pub(crate) unsafe fn launch<A: Arguments>(&self, launch: Launch, arguments: &A) -> Result<(), Error> {
        let [x, y, z] = launch.grid;
        if x == 0 || y == 0 || z == 0 {
            return Ok(());
        }
        self.gpu.enter()?;
        let stream = current_stream(self.gpu.index)?;
        let mut parameters = [std::ptr::from_ref(arguments).cast_mut().cast::<c_void>()];
        // SAFETY: the driver copies the one argument, whose type is the kernel's (`Arguments`), during the call; what it
        // points to is the caller's promise.
        let status = unsafe {
            (self.gpu.api.cu_launch_kernel)(
                self.handle,
                x,
                y,
                z,
                launch.threads,
                1,
                1,
                launch.shared_memory,
                stream,
                parameters.as_mut_ptr(),
                null_mut(),
            )
        };
        self.gpu.api.check(status, || format!("launch {} with {launch:?}", self.name))
    }
}
