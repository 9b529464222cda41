//! cuBLASLt's own functions, as the copy that libtorch has loaded offers them: types and numbers of cublasLt.h,
//! cublas_api.h and library_types.h, no more of them than [`products`](super::products) uses.

use std::ffi::{c_int, c_void};

use libloading::os::unix::{Library, RTLD_NOW};

use crate::Error;

/// cublasStatus_t.
pub(super) type Status = c_int;

// Numbers of cublasLt.h, cublas_api.h and library_types.h.
pub(super) const FLOAT: c_int = 0;
pub(super) const BFLOAT16: c_int = 14;
pub(super) const COMPUTE_FLOAT: c_int = 68;
pub(super) const DESCRIPTION_TRANSPOSE_A: c_int = 3;
pub(super) const DESCRIPTION_TRANSPOSE_B: c_int = 4;
pub(super) const DESCRIPTION_EPILOGUE: c_int = 7;
pub(super) const DESCRIPTION_BIAS_POINTER: c_int = 8;
pub(super) const EPILOGUE_BIAS: c_int = 4;
pub(super) const PREFERENCE_WORKSPACE_BYTES: c_int = 1;
pub(super) const PREFERENCE_REDUCTION_SCHEMES: c_int = 3;
/// Partial sums go through the workspace, in the compute type or the output's: their order is fixed.
pub(super) const REDUCTION_OUT_OF_PLACE: u32 = 2 | 4;
pub(super) const PREFERENCE_ALIGNMENTS: [c_int; 4] = [5, 6, 7, 8];

/// cublasLtMatmulAlgo_t: plain words, which the library promises to understand again in another process.
pub(super) type Algorithm = [u64; 8];

/// cublasLtMatmulHeuristicResult_t.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub(super) struct Proposal {
    pub(super) algorithm: Algorithm,
    pub(super) workspace: usize,
    pub(super) state: Status,
    pub(super) waves: f32,
    pub(super) reserved: [c_int; 4],
}

/// The library's functions, by their names in cublasLt.h.
pub(super) struct Api {
    pub(super) version: unsafe extern "C" fn() -> usize,
    pub(super) create: unsafe extern "C" fn(*mut *mut c_void) -> Status,
    pub(super) description_create: unsafe extern "C" fn(*mut *mut c_void, c_int, c_int) -> Status,
    pub(super) description_set: unsafe extern "C" fn(*mut c_void, c_int, *const c_void, usize) -> Status,
    pub(super) description_destroy: unsafe extern "C" fn(*mut c_void) -> Status,
    pub(super) layout_create: unsafe extern "C" fn(*mut *mut c_void, c_int, u64, u64, i64) -> Status,
    pub(super) layout_destroy: unsafe extern "C" fn(*mut c_void) -> Status,
    pub(super) preference_create: unsafe extern "C" fn(*mut *mut c_void) -> Status,
    pub(super) preference_set: unsafe extern "C" fn(*mut c_void, c_int, *const c_void, usize) -> Status,
    pub(super) preference_destroy: unsafe extern "C" fn(*mut c_void) -> Status,
    pub(super) propose: unsafe extern "C" fn(
        *mut c_void,
        *mut c_void,
        *mut c_void,
        *mut c_void,
        *mut c_void,
        *mut c_void,
        *mut c_void,
        c_int,
        *mut Proposal,
        *mut c_int,
    ) -> Status,
    pub(super) check: unsafe extern "C" fn(
        *mut c_void,
        *mut c_void,
        *mut c_void,
        *mut c_void,
        *mut c_void,
        *mut c_void,
        *const Algorithm,
        *mut Proposal,
    ) -> Status,
    pub(super) multiply: unsafe extern "C" fn(
        *mut c_void,
        *mut c_void,
        *const c_void,
        *const c_void,
        *mut c_void,
        *const c_void,
        *mut c_void,
        *const c_void,
        *const c_void,
        *mut c_void,
        *mut c_void,
        *mut c_void,
        *const Algorithm,
        *mut c_void,
        usize,
        *mut c_void,
    ) -> Status,
    /// Keeps the functions valid.
    _library: Library,
}

impl Api {
    /// The library that libtorch's CUDA half has loaded.
    pub(super) fn open() -> Result<Api, Error> {
        let missing = |message: String| Error::Library { library: "libcublasLt.so", message };
        let names = ["libcublasLt.so.13", "libcublasLt.so.12", "libcublasLt.so"];
        // SAFETY: the library's initialisers ask nothing of the caller.
        let opened = names.map(|name| unsafe { Library::open(Some(name), RTLD_NOW) });
        let mut reasons = Vec::new();
        for library in opened {
            match library {
                Ok(library) => {
                    // SAFETY: a library of that name has the functions of cublasLt.h.
                    let api = unsafe { Api::of(library) };
                    return api.map_err(|error| missing(error.to_string()));
                }
                Err(error) => reasons.push(error.to_string()),
            }
        }
        Err(missing(reasons.join("; ")))
    }

    /// # Safety
    /// The types are those cublasLt.h declares for these names.
    unsafe fn of(library: Library) -> Result<Api, libloading::Error> {
        // SAFETY: the caller's promise, of every `get`.
        unsafe {
            Ok(Api {
                version: *library.get(b"cublasLtGetVersion\0")?,
                create: *library.get(b"cublasLtCreate\0")?,
                description_create: *library.get(b"cublasLtMatmulDescCreate\0")?,
                description_set: *library.get(b"cublasLtMatmulDescSetAttribute\0")?,
                description_destroy: *library.get(b"cublasLtMatmulDescDestroy\0")?,
                layout_create: *library.get(b"cublasLtMatrixLayoutCreate\0")?,
                layout_destroy: *library.get(b"cublasLtMatrixLayoutDestroy\0")?,
                preference_create: *library.get(b"cublasLtMatmulPreferenceCreate\0")?,
                preference_set: *library.get(b"cublasLtMatmulPreferenceSetAttribute\0")?,
                preference_destroy: *library.get(b"cublasLtMatmulPreferenceDestroy\0")?,
                propose: *library.get(b"cublasLtMatmulAlgoGetHeuristic\0")?,
                check: *library.get(b"cublasLtMatmulAlgoCheck\0")?,
                multiply: *library.get(b"cublasLtMatmul\0")?,
                _library: library,
            })
        }
    }
}

pub(super) fn checked(status: Status, operation: &str) -> Result<(), Error> {
    match status {
        0 => Ok(()),
        _ => Err(Error::Cuda {
            operation: operation.to_owned(),
            message: format!("cuBLASLt's status {status}"),
        }),
    }
}

/// Something of the library's that is destroyed when dropped.
pub(super) struct Object {
    pub(super) handle: *mut c_void,
    pub(super) destroy: unsafe extern "C" fn(*mut c_void) -> Status,
}

impl Drop for Object {
    fn drop(&mut self) {
        // SAFETY: made by the `create` that belongs to this `destroy`, and destroyed only here.
        let _ = unsafe { (self.destroy)(self.handle) };
    }
}
