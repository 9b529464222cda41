//! The CUDA kernels' arithmetic, indexing and barriers, on a machine without a GPU.
//!
//! `csrc/kernels/*.cu` are compiled as C++ against `kernels/emulator.h`, which runs a block's threads as fibers, and
//! compared with float64 references written beside them. Any C++17 compiler will do: `CXX`, or else `c++`.

use std::path::{Path, PathBuf};
use std::process::Command;

/// Compiles the test program for kernels of rows of `hidden` columns, `stream` being the residual stream's type.
fn compile(hidden: u32, stream: &str) -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let program = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("kernels-{hidden}-{stream}"));
    let compiler = std::env::var_os("CXX").unwrap_or_else(|| "c++".into());
    let output = Command::new(&compiler)
        .args(["-std=c++17", "-O1", "-w", "-DKERNEL_EMULATOR", "-U_FORTIFY_SOURCE"])
        .arg(format!("-DHIDDEN={hidden}"))
        .args((stream == "float").then_some("-DFLOAT_STREAM"))
        .arg("-I")
        .arg(root.join("csrc/kernels"))
        .arg("-I")
        .arg(root.join("tests/kernels"))
        .arg(root.join("tests/kernels/main.cpp"))
        .arg("-o")
        .arg(&program)
        .output()
        .unwrap_or_else(|error| panic!("{}: {error}", compiler.display()));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    program
}

fn agree_with_float64(hidden: u32, stream: &str, seed: u32) {
    let output = Command::new(compile(hidden, stream)).arg(seed.to_string()).output().unwrap();
    let report = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "hidden size {hidden}, {stream} stream, seed {seed}:\n{report}");
}

#[test]
fn kernels_agree_with_float64_at_the_width_of_the_base_model() {
    agree_with_float64(768, "bf16", 1);
}

/// 192 columns: fewer than a warp holds, so that every guard of a row's end is reached.
#[test]
fn kernels_agree_with_float64_at_a_width_that_fills_no_warp() {
    agree_with_float64(192, "bf16", 2);
}

#[test]
fn kernels_agree_with_float64_on_a_residual_stream_in_full_precision() {
    agree_with_float64(192, "float", 3);
}
