//! NVIDIA's own library, where it is: what it says and takes without a GPU. Elsewhere the tests pass with the reason.
//!
//! It is looked for where `BEGAN_NCCL` says, and in `third_party/libtorch/nvidia/nccl/lib` of the workspace, where the
//! wheel `nvidia-nccl-cu13` is unpacked to:
//!
//! ```text
//! pip download --no-deps --only-binary=:all: --python-version 3.12 --platform manylinux_2_18_x86_64 \
//!     nvidia-nccl-cu13==2.28.9 -d third_party/wheels
//! unzip third_party/wheels/nvidia_nccl_cu13-*.whl 'nvidia/nccl/lib/*' -d third_party/libtorch
//! ```

use std::env;
use std::ffi::{CString, c_void};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nccl_rs::{Communicator, Config, Error, Nccl, Search, Status, StopFlag, UniqueId, VARIABLE, Version};

fn path() -> Option<PathBuf> {
    let wheel = Path::new(env!("CARGO_MANIFEST_DIR")).join("../third_party/libtorch/nvidia/nccl/lib/libnccl.so.2");
    env::var_os(VARIABLE).map(PathBuf::from).into_iter().chain([wheel]).find(|path| path.exists())
}

/// The library, or `None` with the reason printed.
fn real(test: &str) -> Option<Nccl> {
    let Some(path) = path() else {
        println!("{test}: skipped, no libnccl.so.2: {VARIABLE} names none, and none is in third_party/libtorch");
        return None;
    };
    // A file that is there and does not work is a failure.
    Some(Nccl::load(&Search::exactly(path)).unwrap())
}

#[test]
fn its_version_is_one_that_works_here() {
    let Some(nccl) = real("its_version_is_one_that_works_here") else { return };
    println!("{nccl:?}");
    assert!(nccl.version() >= Version::OLDEST);
    assert!(nccl.version() < Version::new(3, 0, 0), "a new major version: its layouts are to be looked at");
    assert!(nccl.path().exists());
}

#[test]
fn it_is_found_again_as_what_is_loaded_already() {
    let Some(nccl) = real("it_is_found_again_as_what_is_loaded_already") else { return };
    let again = Nccl::load(&Search::new().path("/nowhere/libnccl.so.2")).unwrap();
    assert_eq!((again.version(), again.path()), (nccl.version(), nccl.path()));
}

#[test]
fn its_unique_ids_differ() {
    let Some(nccl) = real("its_unique_ids_differ") else { return };
    let ids: Vec<UniqueId> = (0..2).map(|_| nccl.unique_id().unwrap()).collect();
    assert_ne!(ids[0], ids[1]);
    assert_eq!(ids[0].to_string().parse::<UniqueId>().unwrap(), ids[0]);
}

#[test]
fn initialisation_without_a_gpu_is_a_clean_error_and_may_be_tried_again() {
    const NAME: &str = "initialisation_without_a_gpu_is_a_clean_error_and_may_be_tried_again";
    let Some(nccl) = real(NAME) else { return };
    if gpu::count() > 0 {
        println!("{NAME}: skipped, there is a GPU");
        return;
    }
    for _ in 0..2 {
        let started = Instant::now();
        let config = Config::new().init_timeout(Duration::from_secs(10)).name("without a GPU").unwrap();
        let error = Communicator::init(&nccl, &nccl.unique_id().unwrap(), 0, 1, &config).unwrap_err();
        println!("{error}");
        assert!(started.elapsed() < Duration::from_secs(9));
        let Error::Call { call: "ncclCommInitRankConfig", rank: Some((0, 1)), report } = &error else {
            panic!("{error}")
        };
        assert_eq!(report.status, Status::UnhandledCudaError);
        assert!(!report.meaning.is_empty());
        assert!(report.last_error.to_lowercase().contains("cuda"), "{error}");
        // NCCL itself would leave the thread inside a group here, and hold back whatever it calls next.
        assert_eq!(end_a_group(nccl.path()), 5, "the thread was left inside a group");
    }
}

/// What `ncclGroupEnd` returns: 5 is "not in a group".
#[allow(unsafe_code)]
fn end_a_group(path: &Path) -> i32 {
    let path = CString::new(path.as_os_str().as_bytes()).unwrap();
    // SAFETY: the library is loaded already; the function takes nothing and returns an int.
    unsafe {
        let handle = libc::dlopen(path.as_ptr(), libc::RTLD_NOW | libc::RTLD_LOCAL);
        let address = libc::dlsym(handle, c"ncclGroupEnd".as_ptr());
        assert!(!address.is_null());
        std::mem::transmute::<*mut c_void, unsafe extern "C" fn() -> i32>(address)()
    }
}

#[test]
fn memory_without_a_gpu_is_an_error() {
    const NAME: &str = "memory_without_a_gpu_is_an_error";
    let Some(nccl) = real(NAME) else { return };
    if gpu::count() > 0 {
        println!("{NAME}: skipped, there is a GPU");
        return;
    }
    let error = nccl.allocate(1 << 20).unwrap_err();
    match nccl.version() >= Version::new(2, 19, 0) {
        true => assert!(matches!(error, Error::Call { call: "ncclMemAlloc", .. }), "{error}"),
        false => assert!(matches!(error, Error::Missing { function: "ncclMemAlloc", .. }), "{error}"),
    }
}

#[test]
fn what_the_bindings_refuse_never_reaches_it() {
    let Some(nccl) = real("what_the_bindings_refuse_never_reaches_it") else { return };
    let id = nccl.unique_id().unwrap();
    assert!(matches!(Communicator::init(&nccl, &id, 1, 1, &Config::new()), Err(Error::Refused(_))));
    let stop = StopFlag::new();
    stop.stop("before it began");
    let stopped = Communicator::init(&nccl, &id, 0, 1, &Config::new().stop(&stop));
    assert!(matches!(stopped, Err(Error::Stopped { .. })));
}

#[path = "support/gpu.rs"]
mod gpu;
