//! `launcher reproduce`: a run is computed again from what it left behind, whatever happened to it the first time; and what
//! could not give the same bits is refused by name.

use std::fs;

use anyhow::{Context, Result, ensure};
use began_tests::{Course, Desk, Disturbed, fail, succeed};

#[test]
fn a_run_with_deaths_in_it_is_reproduced_on_other_trainers() -> Result<()> {
    let mut run = Disturbed::start(Course { steps: 120, ..Course::default() })?;
    run.reach(40)?;
    run.kill(&[run.trainer(0, 1)?])?;
    run.reach(80)?;
    run.kill(&run.processes("coordinator"))?;
    run.ends_as_if_undisturbed()?;
    let (old, new) = (run.desk.arg("run"), run.desk.arg("again"));
    let said = succeed("launcher", ["reproduce", &old, "--out", &new, "--gpus", "2", "--device", "cpu"])?;
    ensure!(said.lines().any(|line| line.starts_with("equal")), "{said}");
    run.desk.nothing_left("again")?;
    run.holds_golden("again")
}

/// A finished run, and what a `reproduce` of it that must be refused says.
fn refused(desk: &Desk) -> Result<String> {
    let args = ["reproduce", &desk.arg("run"), "--out", &desk.arg("again"), "--gpus", "1", "--device", "cpu"];
    let (code, text) = fail("launcher", args)?;
    ensure!(code == 2 || code == 1, "{code}: {text}");
    ensure!(!desk.path("again").exists(), "something was made: {text}");
    Ok(text)
}

#[test]
fn other_data_is_refused_by_its_place() -> Result<()> {
    let desk = Desk::new()?;
    desk.train("run", 1, 1, 4, &[])?;
    fs::remove_dir_all(desk.path("data"))?;
    let other = ["prepare", "synthetic:faces", "--count", "9", "--size", "16", "-q", "--out", &desk.arg("data")];
    succeed("trainer", other)?;
    let text = refused(&desk)?;
    ensure!(text.contains(&desk.arg("data")) && text.contains("not the data"), "{text}");
    Ok(())
}

#[test]
fn one_changed_pixel_is_refused_by_its_file() -> Result<()> {
    let desk = Desk::new()?;
    desk.train("run", 1, 1, 12, &[])?;
    let shard = "data/shard-00002.safetensors";
    let mut bytes = fs::read(desk.path(shard))?;
    let last = bytes.len() - 9;
    bytes[last] ^= 1;
    fs::write(desk.path(shard), bytes)?;
    let args = ["reproduce", &desk.arg("run"), "--out", &desk.arg("again"), "--gpus", "1", "--device", "cpu"];
    let (_, text) = fail("launcher", args)?;
    ensure!(text.contains(shard), "{text}");
    ensure!(!text.lines().any(|line| line.starts_with("equal")), "{text}");
    Ok(())
}

#[test]
fn an_edited_configuration_is_refused_by_its_file() -> Result<()> {
    let desk = Desk::new()?;
    desk.train("run", 1, 1, 4, &[])?;
    let path = desk.path("run/run.toml");
    let text = fs::read_to_string(&path)?;
    let edited = text.replace("\nseed = 1\n", "\nseed = 2\n");
    ensure!(edited != text, "{text}");
    fs::write(&path, edited)?;
    let said = refused(&desk)?;
    ensure!(said.contains("run.toml") && said.contains("seed"), "{said}");
    Ok(())
}

#[test]
fn a_digest_that_was_changed_in_the_journal_is_found_out() -> Result<()> {
    let desk = Desk::new()?;
    desk.train("run", 1, 2, 8, &[])?;
    let path = desk.path("run/run.db");
    let digest = desk.digest("run")?;
    let digest = digest.trim().split(' ').next_back().context("no digest")?.to_owned();
    let mut bytes = fs::read(&path)?;
    let mut changed = 0;
    for at in 0..bytes.len() - digest.len() {
        if bytes[at..].starts_with(digest.as_bytes()) {
            bytes[at] = if bytes[at] == b'0' { b'1' } else { b'0' };
            changed += 1;
        }
    }
    ensure!(changed > 0, "the digest is not in {}", path.display());
    fs::write(&path, bytes)?;
    let args = ["reproduce", &desk.arg("run"), "--out", &desk.arg("again"), "--gpus", "1", "--device", "cpu"];
    let (code, text) = fail("launcher", args)?;
    ensure!(code == 1 && text.contains("step 8"), "{code}: {text}");
    Ok(())
}
