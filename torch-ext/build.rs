//! Compiles the shim against the libtorch that tch is compiled against.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

fn main() {
    println!("cargo:rerun-if-changed=cpp");
    println!("cargo:rerun-if-env-changed=LIBTORCH");
    println!("cargo:rerun-if-env-changed=LIBTORCH_USE_PYTORCH");
    let lib = PathBuf::from(env::var("DEP_TCH_LIBTORCH_LIB").expect("torch-sys says where libtorch's libraries are"));
    let root = lib.parent().map(Path::to_path_buf).unwrap_or_default();
    let includes = match env::var_os("LIBTORCH_USE_PYTORCH") {
        Some(_) => python_root().unwrap_or(root),
        None => root,
    }
    .join("include");
    cc::Build::new()
        .cpp(true)
        .std("c++17")
        .warnings(false)
        .define("USE_C10D_GLOO", None)
        .define("_GLIBCXX_USE_CXX11_ABI", "1")
        .include("cpp/stub")
        .include(&includes)
        .include(includes.join("torch/csrc/api/include"))
        .files(["cpp/gloo.cpp", "cpp/fused.cpp", "cpp/stream.cpp", "cpp/tensor.cpp"])
        .compile("began_torch_ext");
    // For those who link a binary or a test: where to find libtorch at run time.
    println!("cargo:lib={}", lib.display());
    println!("cargo:rustc-link-arg=-Wl,-rpath,{}", lib.display());
}

fn python_root() -> Option<PathBuf> {
    let out = Command::new("python3").args(["-c", "import torch; print(torch.__path__[0])"]).output().ok()?;
    Some(PathBuf::from(String::from_utf8(out.stdout).ok()?.trim()))
}
