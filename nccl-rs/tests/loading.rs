//! Where the library is looked for, in processes of their own: each has another environment.

mod support;

use std::os::unix::fs::symlink;
use std::path::Path;

use nccl_rs::{LoadError, Nccl, Search, Version};
use support::{Process, role, say};

/// In the role: loads from everywhere and says what came of it.
fn load_and_say(role: &str) {
    let search = match role.strip_prefix("around ") {
        Some(directory) => Search::new().directory(directory),
        None => Search::new(),
    };
    match Nccl::load(&search) {
        Ok(nccl) => say(&format!("{} {}", nccl.version(), nccl.path().display())),
        Err(error) => say(&error.to_string().replace('\n', "|")),
    }
}

/// A directory with the double in it under NCCL's name.
fn library_directory(under: &Path) -> std::path::PathBuf {
    let directory = under.join("nvidia/nccl/lib");
    std::fs::create_dir_all(&directory).unwrap();
    symlink(nccl_double::library().unwrap(), directory.join("libnccl.so.2")).unwrap();
    directory
}

#[test]
fn the_environments_file_is_loaded() {
    if let Some(role) = role() {
        return load_and_say(&role);
    }
    let double = nccl_double::library().unwrap();
    let double = double.to_str().unwrap();
    let mut process = Process::start("the_environments_file_is_loaded", "load", &[("BEGAN_NCCL", double)]);
    assert_eq!(process.hears(), format!("2.28.9 {double}"));
}

#[test]
fn the_wheel_beside_libtorch_is_loaded() {
    if let Some(role) = role() {
        return load_and_say(&role);
    }
    let site = tempfile::tempdir().unwrap();
    let library = library_directory(site.path()).join("libnccl.so.2");
    let role = format!("around {}", site.path().join("torch").display());
    let mut process = Process::start("the_wheel_beside_libtorch_is_loaded", &role, &[("BEGAN_NCCL", "")]);
    assert_eq!(process.hears(), format!("2.28.9 {}", library.display()));
}

#[test]
fn the_loaders_own_places_come_last() {
    if let Some(role) = role() {
        return load_and_say(&role);
    }
    let site = tempfile::tempdir().unwrap();
    let directory = library_directory(site.path());
    let environment = [("BEGAN_NCCL", ""), ("LD_LIBRARY_PATH", directory.to_str().unwrap())];
    let mut process = Process::start("the_loaders_own_places_come_last", "load", &environment);
    assert_eq!(process.hears(), format!("2.28.9 {}", directory.join("libnccl.so.2").display()));
}

#[test]
fn a_version_that_is_too_old_is_refused_with_its_number() {
    if let Some(role) = role() {
        return load_and_say(&role);
    }
    let double = nccl_double::library().unwrap();
    let double = double.to_str().unwrap();
    let environment = [("BEGAN_NCCL", double), ("NCCL_DOUBLE", "version=21403")];
    let mut process = Process::start("a_version_that_is_too_old_is_refused_with_its_number", "load", &environment);
    assert_eq!(process.hears(), format!("{double} is NCCL 2.14.3, and at least 2.18.1 is needed"));
}

#[test]
fn a_file_that_the_environment_names_and_that_is_not_there_is_the_answer() {
    if let Some(role) = role() {
        return load_and_say(&role);
    }
    let name = "a_file_that_the_environment_names_and_that_is_not_there_is_the_answer";
    let mut process = Process::start(name, "load", &[("BEGAN_NCCL", "/nowhere/libnccl.so.2")]);
    assert_eq!(
        process.hears(),
        "libnccl.so.2 could not be loaded. Looked at:|  what is loaded already: no copy is loaded in this process|  \
         /nowhere/libnccl.so.2 (BEGAN_NCCL): no such file"
    );
}

#[test]
fn a_blocking_environment_is_refused_before_it_can_block() {
    if let Some(role) = role() {
        let id = support::nccl().unique_id().unwrap();
        return say(&support::Rank::init(&id, 0, 1, &support::config()).err().map_or(role, |error| error.to_string()));
    }
    let name = "a_blocking_environment_is_refused_before_it_can_block";
    let mut process = Process::start(name, "no error", &[("NCCL_COMM_BLOCKING", "1")]);
    assert_eq!(process.hears(), "NCCL_COMM_BLOCKING=1 would make every call of NCCL wait without a bound; unset it");
}

#[test]
fn what_is_not_there_is_an_error_and_no_panic() {
    let error = Nccl::load(&Search::exactly("/nowhere/libnccl.so.2")).unwrap_err();
    let LoadError::NotFound { tried } = &error else { panic!("{error}") };
    assert_eq!(tried.len(), 1);
    assert_eq!(
        error.to_string(),
        "libnccl.so.2 could not be loaded. Looked at:\n  /nowhere/libnccl.so.2: no such file"
    );
    // A library that is not NCCL.
    let Some(libc) = ["/lib/x86_64-linux-gnu/libm.so.6", "/lib64/libm.so.6", "/usr/lib/libm.so.6"]
        .iter()
        .find(|p| Path::new(p).exists())
    else {
        return;
    };
    let error = Nccl::load(&Search::exactly(libc)).unwrap_err();
    assert!(matches!(error, LoadError::Incomplete { function: "ncclGetVersion", .. }), "{error}");
    assert!(Version::OLDEST <= support::nccl().version());
}
