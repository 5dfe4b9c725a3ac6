//! Compiles the shim against the libtorch that tch is compiled against.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

const SOURCES: [&str; 9] =
    ["fused", "gloo", "kernels_on_host", "nvrtc", "on_gpu", "on_host", "profiler", "stream", "tensor"];

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
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo says where a build script may write"));
    kernels_as_a_string(&out);
    cc::Build::new()
        .cpp(true)
        .std("c++17")
        .warnings(false)
        .define("USE_C10D_GLOO", None)
        .define("_GLIBCXX_USE_CXX11_ABI", "1")
        .include("cpp/stub")
        .include(&out)
        .include(&includes)
        .include(includes.join("torch/csrc/api/include"))
        .files(SOURCES.map(|name| format!("cpp/{name}.cpp")))
        .compile("began_torch_ext");
    // For those who link a binary or a test: where to find libtorch at run time.
    println!("cargo:lib={}", lib.display());
    println!("cargo:rustc-link-arg=-Wl,-rpath,{}", lib.display());
}

/// `kernels.cu.string`: the kernels' source as a literal of C++, for NVRTC, which compiles it when the program runs.
fn kernels_as_a_string(out: &Path) {
    let source = fs::read_to_string("cpp/kernels.cu").expect("cpp/kernels.cu is there");
    fs::write(out.join("kernels.cu.string"), format!("R\"CUDA({source})CUDA\"\n")).expect("cargo's folder is writable");
}

fn python_root() -> Option<PathBuf> {
    let out = Command::new("python3").args(["-c", "import torch; print(torch.__path__[0])"]).output().ok()?;
    Some(PathBuf::from(String::from_utf8(out.stdout).ok()?.trim()))
}
