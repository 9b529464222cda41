//! Tells the linker where libtorch lies, and compiles the bridge to what tch does not expose of it.

use std::path::Path;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    for source in
        ["bridge.h", "bridge.cpp", "distributed.h", "distributed.cpp", "guarded.h", "gloo_declarations"]
    {
        println!("cargo::rerun-if-changed=csrc/{source}");
    }
    // torch-sys publishes its library folder to direct dependents.
    let folder = std::env::var("DEP_TCH_LIBTORCH_LIB").expect("torch-sys says where libtorch lies");
    // A run path (not an rpath) comes after LD_LIBRARY_PATH, so that another libtorch can be put in its place.
    println!("cargo::rustc-link-arg=-Wl,-rpath,{folder},--enable-new-dtags");
    let include = Path::new(&folder).with_file_name("include");
    cc::Build::new()
        .cpp(true)
        .std("c++17")
        // As system headers, so that only our own code is warned about.
        .flag("-isystem")
        .flag(include.to_str().expect("libtorch's folder has a printable name"))
        .flag("-isystem")
        .flag(
            include.join("torch/csrc/api/include").to_str().expect("libtorch's folder has a printable name"),
        )
        // Overridden functions have parameters they do not need.
        .flag("-Wno-unused-parameter")
        // What libtorch's header of Gloo includes; see the folder's README.md.
        .include("csrc/gloo_declarations")
        .file("csrc/bridge.cpp")
        .file("csrc/distributed.cpp")
        .compile("bridge");
}
