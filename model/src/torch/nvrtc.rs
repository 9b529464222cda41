//! Compiles the embedded CUDA sources for the card at hand with NVRTC, which comes with torch; nothing of the CUDA toolkit
//! is needed. Machine code is kept in a folder of the user's cache under the hash of all that went into it.

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::path::{Path, PathBuf};
use std::ptr::null_mut;

use libloading::os::unix::{Library, RTLD_GLOBAL, RTLD_NOW};

use super::cache::{read_cached, write_cached};
use crate::Error;

/// nvrtcResult.
type Status = c_int;

/// Sources by the names they include each other by.
pub(crate) const SOURCES: &[(&str, &str)] = &[
    ("device.cuh", include_str!("../../csrc/kernels/device.cuh")),
    ("rows.cuh", include_str!("../../csrc/kernels/rows.cuh")),
    ("normal.cuh", include_str!("../../csrc/kernels/normal.cuh")),
    ("attention.cuh", include_str!("../../csrc/kernels/attention.cuh")),
    ("adamw.cu", include_str!("../../csrc/kernels/adamw.cu")),
    ("attention_backward.cu", include_str!("../../csrc/kernels/attention_backward.cu")),
    ("attention_forward.cu", include_str!("../../csrc/kernels/attention_forward.cu")),
    ("column_sums.cu", include_str!("../../csrc/kernels/column_sums.cu")),
    ("cross_entropy.cu", include_str!("../../csrc/kernels/cross_entropy.cu")),
    ("embedding.cu", include_str!("../../csrc/kernels/embedding.cu")),
    ("geglu.cu", include_str!("../../csrc/kernels/geglu.cu")),
    ("gelu.cu", include_str!("../../csrc/kernels/gelu.cu")),
    ("layer_norm.cu", include_str!("../../csrc/kernels/layer_norm.cu")),
    ("table_gradient.cu", include_str!("../../csrc/kernels/table_gradient.cu")),
];

/// The compiler's functions, by their names in nvrtc.h.
pub(crate) struct Compiler {
    version: unsafe extern "C" fn(*mut c_int, *mut c_int) -> Status,
    create: unsafe extern "C" fn(
        *mut *mut c_void,
        *const c_char,
        *const c_char,
        c_int,
        *const *const c_char,
        *const *const c_char,
    ) -> Status,
    compile: unsafe extern "C" fn(*mut c_void, c_int, *const *const c_char) -> Status,
    cubin_size: unsafe extern "C" fn(*mut c_void, *mut usize) -> Status,
    cubin: unsafe extern "C" fn(*mut c_void, *mut c_char) -> Status,
    log_size: unsafe extern "C" fn(*mut c_void, *mut usize) -> Status,
    log: unsafe extern "C" fn(*mut c_void, *mut c_char) -> Status,
    destroy: unsafe extern "C" fn(*mut *mut c_void) -> Status,
    error_string: unsafe extern "C" fn(Status) -> *const c_char,
    /// Keep the functions valid.
    _libraries: Vec<Library>,
}

/// A program of the compiler, destroyed when dropped.
struct Program<'a> {
    compiler: &'a Compiler,
    handle: *mut c_void,
}

impl Drop for Program<'_> {
    fn drop(&mut self) {
        // SAFETY: made by `create` and destroyed only here. There is nothing to do about a failure.
        let _ = unsafe { (self.compiler.destroy)(&raw mut self.handle) };
    }
}

impl Compiler {
    /// Opens libnvrtc: beside libtorch, where torch's package puts it (`nvidia/*/lib`), or where the loader looks.
    ///
    /// # Errors
    /// [`Error::Library`] where it is nowhere.
    pub(crate) fn open() -> Result<Compiler, Error> {
        let mut reasons = Vec::new();
        for path in candidates(&library_folders()) {
            match Compiler::open_at(&path) {
                Ok(compiler) => return Ok(compiler),
                Err(error) => reasons.push(error.to_string()),
            }
        }
        Err(Error::Library { library: "libnvrtc.so", message: reasons.join("; ") })
    }

    /// Opens the library at `path`, which may be a bare name. Its second half, which it opens by name when it compiles, is
    /// opened first where it lies beside it: the loader would not look there.
    fn open_at(path: &Path) -> Result<Compiler, libloading::Error> {
        let mut libraries = Vec::new();
        for builtins in files_beginning(path.parent().unwrap_or(Path::new("")), "libnvrtc-builtins.so.") {
            // SAFETY: the library's initialisers ask nothing of the caller.
            libraries.extend(unsafe { Library::open(Some(builtins), RTLD_NOW | RTLD_GLOBAL) });
        }
        // SAFETY: as above; and (of every `get`) the types are those nvrtc.h declares for these names.
        unsafe {
            let library = Library::open(Some(path), RTLD_NOW)?;
            let compiler = Compiler {
                version: *library.get(b"nvrtcVersion\0")?,
                create: *library.get(b"nvrtcCreateProgram\0")?,
                compile: *library.get(b"nvrtcCompileProgram\0")?,
                cubin_size: *library.get(b"nvrtcGetCUBINSize\0")?,
                cubin: *library.get(b"nvrtcGetCUBIN\0")?,
                log_size: *library.get(b"nvrtcGetProgramLogSize\0")?,
                log: *library.get(b"nvrtcGetProgramLog\0")?,
                destroy: *library.get(b"nvrtcDestroyProgram\0")?,
                error_string: *library.get(b"nvrtcGetErrorString\0")?,
                _libraries: libraries,
            };
            Ok(Compiler {
                _libraries: compiler._libraries.into_iter().chain([library]).collect(),
                ..compiler
            })
        }
    }

    /// Major and minor version.
    fn version(&self) -> (i32, i32) {
        let (mut major, mut minor) = (0, 0);
        // SAFETY: the results outlive the call. A failure leaves zeros, which name no version.
        let _ = unsafe { (self.version)(&raw mut major, &raw mut minor) };
        (major, minor)
    }

    /// Machine code of the source `file`, from `cache` where it is there.
    ///
    /// # Errors
    /// [`Error::Kernel`] with the compiler's log. A cache that cannot be read or written is done without.
    pub(crate) fn machine_code(
        &self,
        file: &'static str,
        options: &[String],
        capability: (i32, i32),
        cache: Option<&Path>,
    ) -> Result<Vec<u8>, Error> {
        let architecture = format!("sm_{}{}", capability.0, capability.1);
        let mut all_options = vec!["-std=c++17".to_owned(), format!("--gpu-architecture={architecture}")];
        all_options.extend_from_slice(options);
        let path = cache.map(|folder| folder.join(self.cache_name(file, &all_options)));
        if let Some(code) = path.as_deref().and_then(read_cached) {
            return Ok(code);
        }
        let code = self.compile(file, &all_options, &architecture)?;
        if let Some(path) = path {
            write_cached(&path, &code);
        }
        Ok(code)
    }

    /// A name that changes with anything that could change the machine code.
    fn cache_name(&self, file: &str, options: &[String]) -> String {
        let mut hasher = blake3::Hasher::new();
        let (major, minor) = self.version();
        let parts = [file.to_owned(), format!("nvrtc {major}.{minor}")];
        let sources = SOURCES.iter().flat_map(|(name, text)| [*name, *text]);
        for part in parts.iter().chain(options).map(String::as_str).chain(sources) {
            hasher.update(&(part.len() as u64).to_le_bytes());
            hasher.update(part.as_bytes());
        }
        format!("{}-{}.cubin", file.trim_end_matches(".cu"), &hasher.finalize().to_hex()[..32])
    }

    fn compile(&self, file: &'static str, options: &[String], architecture: &str) -> Result<Vec<u8>, Error> {
        let c_string = |text: &str| CString::new(text).expect("sources and options hold no zero byte");
        let refuse = |log: String| Error::Kernel { file, architecture: architecture.to_owned(), log };
        let source = SOURCES.iter().find(|(name, _)| *name == file).expect("a source of ours").1;
        let names: Vec<CString> = SOURCES.iter().map(|(name, _)| c_string(name)).collect();
        let texts: Vec<CString> = SOURCES.iter().map(|(_, text)| c_string(text)).collect();
        let name_pointers: Vec<_> = names.iter().map(|name| name.as_ptr()).collect();
        let text_pointers: Vec<_> = texts.iter().map(|text| text.as_ptr()).collect();
        let options: Vec<CString> = options.iter().map(|option| c_string(option)).collect();
        let option_pointers: Vec<_> = options.iter().map(|option| option.as_ptr()).collect();
        let (source, c_file) = (c_string(source), c_string(file));

        let mut handle = null_mut();
        let headers = c_int::try_from(names.len()).expect("a handful of sources");
        // SAFETY: all strings and arrays outlive the call, which copies them.
        let status = unsafe {
            (self.create)(
                &raw mut handle,
                source.as_ptr(),
                c_file.as_ptr(),
                headers,
                text_pointers.as_ptr(),
                name_pointers.as_ptr(),
            )
        };
        if status != 0 {
            return Err(refuse(self.error_text(status)));
        }
        let program = Program { compiler: self, handle };
        let option_count = c_int::try_from(options.len()).expect("a handful of options");
        // SAFETY: the program is whole; the options outlive the call.
        let status = unsafe { (self.compile)(program.handle, option_count, option_pointers.as_ptr()) };
        if status != 0 {
            // SAFETY: the functions belong to this program and together.
            let log = unsafe { read_out(program.handle, self.log_size, self.log) };
            let log =
                log.map(|log| String::from_utf8_lossy(&log).trim_end_matches('\0').trim_end().to_owned());
            return Err(refuse(log.unwrap_or_else(|status| self.error_text(status))));
        }
        // SAFETY: as above.
        unsafe { read_out(program.handle, self.cubin_size, self.cubin) }
            .map_err(|status| refuse(self.error_text(status)))
    }

    fn error_text(&self, status: Status) -> String {
        // SAFETY: the function returns a static C string for every number.
        unsafe { CStr::from_ptr((self.error_string)(status)) }.to_string_lossy().into_owned()
    }
}

/// Bytes that a compiler hands out in two calls: how many, and which.
///
/// # Safety
/// `size` and `fill` are such a pair for the program `handle`.
unsafe fn read_out(
    handle: *mut c_void,
    size: unsafe extern "C" fn(*mut c_void, *mut usize) -> Status,
    fill: unsafe extern "C" fn(*mut c_void, *mut c_char) -> Status,
) -> Result<Vec<u8>, Status> {
    let mut length = 0;
    // SAFETY: the caller's promise; the result outlives the call.
    match unsafe { size(handle, &raw mut length) } {
        0 => {}
        status => return Err(status),
    }
    let mut bytes = vec![0u8; length];
    // SAFETY: the caller's promise; there is room for the length just told.
    match unsafe { fill(handle, bytes.as_mut_ptr().cast()) } {
        0 => Ok(bytes),
        status => Err(status),
    }
}

/// Where libnvrtc may lie: the folder of the loaded libtorch, and the `nvidia/*/lib` folders beside torch's package.
pub(crate) fn library_folders() -> Vec<PathBuf> {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap_or_default();
    let libtorch = maps
        .lines()
        .filter_map(|line| line.find('/').map(|at| Path::new(&line[at..])))
        .find(|path| path.file_name().is_some_and(|name| name == "libtorch_cpu.so"))
        .and_then(Path::parent);
    let Some(libtorch) = libtorch else { return Vec::new() };
    let mut folders = vec![libtorch.to_owned()];
    if let Some(packages) = libtorch.parent().and_then(Path::parent) {
        let nvidia = std::fs::read_dir(packages.join("nvidia")).into_iter().flatten().flatten();
        folders.extend(nvidia.map(|package| package.path().join("lib")).filter(|folder| folder.is_dir()));
    }
    folders.sort();
    folders
}

/// The libraries to try, best first: files in `folders`, then names for the loader to find.
fn candidates(folders: &[PathBuf]) -> Vec<PathBuf> {
    let mut paths: Vec<_> =
        folders.iter().flat_map(|folder| files_beginning(folder, "libnvrtc.so.")).collect();
    paths.extend(["libnvrtc.so.13", "libnvrtc.so.12", "libnvrtc.so"].map(PathBuf::from));
    paths
}

/// The files in `folder` whose names begin so, in order; none where the folder cannot be read.
fn files_beginning(folder: &Path, prefix: &str) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let begins =
        |entry: &std::fs::DirEntry| entry.file_name().to_str().is_some_and(|name| name.starts_with(prefix));
    let mut files: Vec<_> = entries.filter(begins).map(|entry| entry.path()).collect();
    files.sort();
    files
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_beside_torch_come_before_the_loaders() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["libnvrtc.so.13", "libnvrtc-builtins.so.13.0", "libother.so.1"] {
            std::fs::write(folder.path().join(name), b"").unwrap();
        }
        let found = candidates(&[folder.path().to_owned(), folder.path().join("missing")]);
        assert_eq!(found[0], folder.path().join("libnvrtc.so.13"));
        assert_eq!(found[1], Path::new("libnvrtc.so.13"));
    }

    #[test]
    fn the_folder_of_the_loaded_libtorch_is_searched() {
        assert!(!tch::Cuda::is_available() || !library_folders().is_empty()); // asks torch, so that it is loaded
        assert!(library_folders().iter().any(|folder| folder.join("libtorch_cpu.so").exists()));
    }

    /// NVRTC from where the program finds it, or from NVIDIA's Python package, which is put into `.python/nvrtc`: the compiler
    /// needs no GPU.
    fn compiler() -> Result<Compiler, String> {
        if let Ok(compiler) = Compiler::open() {
            return Ok(compiler);
        }
        let package = Path::new(env!("CARGO_MANIFEST_DIR")).join("../.python/nvrtc");
        let folder = package.join("nvidia/cu13/lib");
        let library = || files_beginning(&folder, "libnvrtc.so.").into_iter().next();
        if library().is_none() {
            let pip =
                ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps", "--target"];
            let installed = std::process::Command::new("python3")
                .args(pip)
                .arg(&package)
                .arg("nvidia-cuda-nvrtc==13.0.*")
                .output();
            match installed {
                Ok(output) if output.status.success() => {}
                Ok(output) => return Err(String::from_utf8_lossy(&output.stderr).trim_end().to_owned()),
                Err(error) => return Err(format!("python3: {error}")),
            }
        }
        let library = library().ok_or_else(|| format!("no libnvrtc in {}", folder.display()))?;
        Compiler::open_at(&library).map_err(|error| error.to_string())
    }

    /// With or without a GPU: every source, for the architectures that are supported, at the width of the base model; and for
    /// one of them at that of the large model, and on a residual stream of float32.
    #[test]
    fn every_kernel_compiles_for_every_architecture() {
        let compiler = match compiler() {
            Ok(compiler) => compiler,
            Err(reason) => {
                eprintln!("kernels for every architecture: skipped, there is no NVRTC: {reason}");
                return;
            }
        };
        let compile = |capability| {
            for (file, text) in SOURCES.iter().filter(|(name, _)| name.ends_with(".cu")) {
                let variants: &[&[&str]] = match (text.contains("rows.cuh"), capability) {
                    (true, (9, 0)) => {
                        &[&["-DHIDDEN=768"], &["-DHIDDEN=1024"], &["-DHIDDEN=768", "-DFLOAT_STREAM"]]
                    }
                    (true, _) => &[&["-DHIDDEN=768"]],
                    (false, _) => &[&[]],
                };
                for options in variants {
                    let options: Vec<String> = options.iter().map(|&option| option.to_owned()).collect();
                    let code = compiler.machine_code(file, &options, capability, None).unwrap();
                    assert_eq!(&code[1..4], b"ELF", "{file}");
                }
            }
        };
        std::thread::scope(|scope| {
            for capability in [(8, 0), (9, 0), (10, 0)] {
                scope.spawn(move || compile(capability));
            }
        });
        let odd = ["-DHIDDEN=7".to_owned()];
        let error = compiler.machine_code("layer_norm.cu", &odd, (9, 0), None).unwrap_err().to_string();
        assert!(error.starts_with("layer_norm.cu does not compile for sm_90:"), "{error}");
        assert!(error.contains("a lane takes eight columns at a time"), "{error}");
    }
}
