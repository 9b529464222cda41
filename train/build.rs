//! Tells the linker where libtorch lies, and the program which commit it was built from.

use std::path::Path;
use std::process::Command;

fn main() {
    // torch-sys publishes its library folder to direct dependents. A run path (not an rpath) comes after
    // LD_LIBRARY_PATH, so that another libtorch can be put in its place.
    if let Ok(folder) = std::env::var("DEP_TCH_LIBTORCH_LIB") {
        println!("cargo::rustc-link-arg=-Wl,-rpath,{folder},--enable-new-dtags");
    }
    println!("cargo::rerun-if-changed=build.rs");
    // A path that does not exist would run this script at every build.
    for path in ["../.git/HEAD", "../.git/logs/HEAD"].into_iter().filter(|path| Path::new(path).exists()) {
        println!("cargo::rerun-if-changed={path}");
    }
    let git = Command::new("git").args(["rev-parse", "--short=12", "HEAD"]).output();
    if let Ok(git) = git
        && git.status.success()
    {
        println!("cargo::rustc-env=TESSERA_COMMIT={}", String::from_utf8_lossy(&git.stdout).trim());
    }
}
