//! What a run tells of single images: the same windows whoever computed them, through a kill as well, and words about it.

use anyhow::{Context, Result, ensure};
use began_record::{Journal, RunDir};
use began_tests::{Desk, fail, succeed};
use nix::sys::signal::{Signal, kill};
use serde_json::Value;

const HABITS: [&str; 4] = ["--set", "run.lanes=4", "--set", "run.sample_every=20"];

fn windows(desk: &Desk, name: &str) -> Result<Vec<Value>> {
    let rows = Journal::read(&RunDir::open(&desk.path(name))?)?.diagnosis()?;
    rows.iter().map(|row| Ok(serde_json::from_str(&row.window)?)).collect()
}

#[test]
fn the_same_windows_come_out_of_one_trainer_and_two_and_diagnose_has_words_for_them() -> Result<()> {
    let desk = Desk::new()?;
    desk.train("one", 1, 1, 60, &HABITS)?;
    desk.train("two", 1, 2, 60, &HABITS)?;
    let (one, two) = (windows(&desk, "one")?, windows(&desk, "two")?);
    ensure!(!one.is_empty() && one == two, "{one:?} is not {two:?}");
    for window in &one {
        for side in ["real", "fake"] {
            ensure!(window[side]["count"].as_u64().is_some_and(|count| count > 0), "{window}");
            ensure!(window[side]["mean"].as_f64().is_some_and(|mean| mean > 0.0), "{window}");
        }
        ensure!(window["wasserstein"].is_f64() && window["wasserstein_gaussian"].is_f64(), "{window}");
    }

    let report = desk.path("report.html");
    let text = succeed("launcher", ["diagnose", &desk.arg("two"), "--out", &report.display().to_string()])?;
    for words in ["after 60 of 60 steps", "collapse", "the paper: normal losses"] {
        ensure!(text.contains(words), "{words:?} is not in {text}");
    }
    let page = std::fs::read_to_string(&report)?;
    ensure!(page.contains("<svg") && !page.contains("http://") && !page.contains("https://"), "not a page of its own");
    let text = succeed("launcher", ["compare", &desk.arg("one"), &desk.arg("two")])?;
    ensure!(text.contains("verdict") && text.contains("L(x)"), "{text}");

    let (code, text) = fail("launcher", ["diagnose", &desk.arg("data")])?;
    ensure!(code == 2 && text.contains("is not a run"), "{code}: {text}");
    let text = succeed("launcher", ["top", &desk.arg("two"), "--once"])?;
    ensure!(text.contains("step 60 of 60") && text.contains("not running"), "{text}");
    Ok(())
}

#[test]
fn a_kill_leaves_no_step_counted_twice() -> Result<()> {
    let desk = Desk::new()?;
    desk.train("calm", 1, 2, 200, &HABITS)?;
    let running = desk.start("run", 1, 2, 200, &HABITS)?;
    desk.reach("run", 50)?;
    kill(desk.trainer("run", 0, 1)?, Signal::SIGKILL)?;
    let output = running.finish()?;
    ensure!(output.status.success(), "{}", began_tests::said(&output));
    ensure!(desk.digest("run")? == desk.digest("calm")?, "another digest");
    let (run, calm) = (windows(&desk, "run")?, windows(&desk, "calm")?);
    ensure!(run.len() == calm.len(), "{} windows, not {}", run.len(), calm.len());
    let count = |window: &Value| window["real"]["count"].as_u64().context("no count");
    for (run, calm) in run.iter().zip(&calm) {
        // What a dying trainer had not sent yet may be missing.
        ensure!(count(run)? <= count(calm)?, "{run} counts more than {calm}");
        ensure!(count(run)? < count(calm)? || run == calm, "{run} is not {calm}");
    }
    Ok(())
}

#[test]
fn a_reader_that_has_read_enough_is_no_error() -> Result<()> {
    let desk = Desk::new()?;
    desk.train("run", 1, 1, 20, &HABITS)?;
    for command in [vec!["diagnose"], vec!["ledger", "--json"], vec!["digest"]] {
        let mut child = began_tests::program("launcher")
            .args(&command)
            .arg(desk.path("run"))
            .stdout(std::process::Stdio::piped())
            .stderr(std::process::Stdio::piped())
            .spawn()?;
        // Closed before anything is written.
        drop(child.stdout.take());
        let output = child.wait_with_output()?;
        let text = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.code() == Some(0) && text.is_empty(), "{command:?}: {:?} {text}", output.status);
    }
    Ok(())
}
