//! The GPU check, with made-up programs in the place of the real ones: `gpu/test_check.py`.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};

#[test]
fn the_gpu_check_names_every_fault_and_loses_no_block() -> Result<()> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../gpu");
    let mut command = Command::new("python3");
    let out = command.args(["-m", "unittest", "test_check"]).current_dir(folder).output().context("no python3")?;
    ensure!(out.status.success(), "{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
    Ok(())
}
