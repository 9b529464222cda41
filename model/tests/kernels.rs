//! The CUDA kernels' arithmetic, indexing and barriers, on a machine without a GPU.
//!
//! `csrc/kernels/*.cu` are compiled as C++ against `kernels/emulator.h`, which runs a block's threads as fibers, and
//! compared with float64 references written beside them. Any C++17 compiler will do: `CXX`, or else `c++`.

use std::path::{Path, PathBuf};
use std::process::Command;

/// Compiles the test program for kernels of rows of `hidden` columns.
fn compile(hidden: u32) -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let program = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("kernels-{hidden}"));
    let compiler = std::env::var_os("CXX").unwrap_or_else(|| "c++".into());
    let output = Command::new(&compiler)
        .args(["-std=c++17", "-O1", "-w", "-DKERNEL_EMULATOR", "-U_FORTIFY_SOURCE"])
        .arg(format!("-DHIDDEN={hidden}"))
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

fn agree_with_float64(hidden: u32, seed: u32) {
    let output = Command::new(compile(hidden)).arg(seed.to_string()).output().unwrap();
    let report = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "hidden size {hidden}, seed {seed}:\n{report}");
}

#[test]
fn kernels_agree_with_float64_at_the_width_of_the_base_model() {
    agree_with_float64(768, 1);
}

/// 192 columns: fewer than a warp holds, so that every guard of a row's end is reached.
#[test]
fn kernels_agree_with_float64_at_a_width_that_fills_no_warp() {
    agree_with_float64(192, 2);
}
