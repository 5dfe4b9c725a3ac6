//! Gives the library a name of its own: under libnccl's, a process that loaded it would hand it to whatever else asks for
//! NCCL.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rustc-cdylib-link-arg=-Wl,-soname,libnccl_double.so");
}
