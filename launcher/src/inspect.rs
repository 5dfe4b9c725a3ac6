//! `digest`, `status` and `stop`: asking a run's files or its coordinator.
//!
//! They start nothing and change nothing, but that `stop` asks the coordinator to end.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use began_credentials::{Arguments, Role};
use began_proto::v1::{Phase, StatusResponse};
use began_record::{Announcement, Journal, RunDir};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::time::sleep;

use crate::credentials::contact;
use crate::show::in_words;
use crate::watch::{self, Contact};

/// Who asks, for the journal.
const WHO: &str = "launcher stop";

/// A coordinator that does not answer for this long is not being started again.
const SILENT: Duration = Duration::from_secs(12);

/// `launcher digest`: `STEP HEX` of the last digest.
///
/// # Errors
/// If it is not a run, or nothing was digested yet.
pub fn digest(run: &Path) -> Result<u8> {
    let last = Journal::read(&RunDir::open(run)?)?.last_digest()?;
    let (step, digest) = last.ok_or_else(|| anyhow!("{} has no digest yet", run.display()))?;
    writeln!(std::io::stdout(), "{step} {digest}")?;
    Ok(0)
}

/// Whom a command is about.
#[derive(Clone, Debug)]
pub enum Target {
    /// The folder of a run.
    Run(PathBuf),
    /// The coordinator at an address.
    Coordinator(Contact),
}

impl Target {
    /// As it was given: the folder of a run, or `host:port`.
    ///
    /// # Errors
    /// If it is neither, or the credentials cannot be read.
    pub fn of(target: &str, credentials: &Arguments) -> Result<Self> {
        let path = Path::new(target);
        if path.is_dir() {
            Ok(Self::Run(path.into()))
        } else if target.contains(':') {
            let credentials = credentials.client(Role::Control)?;
            Ok(Self::Coordinator(Contact { address: target.into(), credentials }))
        } else {
            bail!("{target} is neither the folder of a run nor the address of a coordinator (host:port)");
        }
    }
}

/// `launcher status`: of a live coordinator, or of the files.
///
/// # Errors
/// If it is neither a run nor an address at which a coordinator answers.
pub async fn status(target: &str, as_json: bool, credentials: &Arguments) -> Result<u8> {
    let (text, object) = match Target::of(target, credentials)? {
        Target::Run(path) => {
            let run = RunDir::open(&path)?;
            match alive(&run, credentials).await?.map(|(_, status)| status) {
                Some(live) => (live_text(&live), live_object(&live)),
                None => at_rest(&run)?,
            }
        }
        Target::Coordinator(to) => {
            let live = watch::status(&to).await?;
            (live_text(&live), live_object(&live))
        }
    };
    if as_json {
        writeln!(std::io::stdout(), "{object}")?;
    } else {
        writeln!(std::io::stdout(), "{text}")?;
    }
    Ok(0)
}

/// `launcher stop`: asks the coordinator to end, and waits for it.
///
/// # Errors
/// If no coordinator of the run answers.
pub async fn stop(path: &Path, wait: Duration, credentials: &Arguments) -> Result<u8> {
    let run = RunDir::open(path)?;
    let name = path.display();
    let Some((mut announcement, _)) = alive(&run, credentials).await? else {
        bail!("{name} is not running: no coordinator of it answers")
    };
    let mut to = contact(&announcement, credentials)?;
    let step = watch::ask_to_stop(&to, WHO, None)
        .await
        .with_context(|| format!("{name} cannot be stopped (its coordinator is process {})", announcement.pid))?;
    let mut stdout = std::io::stdout();
    writeln!(stdout, "asked {name} to stop after step {step} and to write a checkpoint; waiting for it")?;
    let start = Instant::now();
    let mut heard = Instant::now();
    loop {
        let answer = watch::status(&to).await;
        let ended = match &answer {
            Ok(status) => status.phase == "ended",
            // One that died is started again, by the launcher that watches over it.
            Err(_) => heard.elapsed() >= SILENT,
        };
        if answer.is_ok() {
            heard = Instant::now();
        }
        let now = run.announcement()?;
        if ended || now.is_none() {
            let checkpoint = run.latest_checkpoint()?.map(|checkpoint| checkpoint.step);
            let checkpoint = checkpoint
                .map_or("it has no checkpoint".into(), |step| format!("its last checkpoint is of step {step}"));
            writeln!(stdout, "{name} has stopped; {checkpoint}")?;
            return Ok(0);
        }
        if let Some(now) = now
            && now != announcement
            && let Ok(other) = contact(&now, credentials)
            && watch::ask_to_stop(&other, WHO, None).await.is_ok()
        {
            // Another coordinator, which was not asked yet.
            (announcement, to) = (now, other);
        }
        if start.elapsed() >= wait {
            writeln!(
                std::io::stderr(),
                "{name} had not ended {} later; it was asked to and may still do so",
                in_words(wait)
            )?;
            return Ok(1);
        }
        sleep(Duration::from_millis(200)).await;
    }
}

/// Where the coordinator of a run is and what it says, if it is alive. One that was killed leaves its announcement
/// behind, and its port may be another run's coordinator's by now: who answers must name this run.
///
/// # Errors
/// If the run's files cannot be read, or there are no credentials for its coordinator here.
pub async fn alive(run: &RunDir, credentials: &Arguments) -> Result<Option<(Announcement, StatusResponse)>> {
    let Some(announcement) = run.announcement()? else {
        return Ok(None);
    };
    let status = match watch::status(&contact(&announcement, credentials)?).await {
        Ok(status) => status,
        // Somebody is there: whether it is this run's coordinator is only for those to know whom it lets in.
        Err(error) if announcement.tls && TcpStream::connect(&announcement.address).await.is_ok() => {
            return Err(error.context("somebody answers where the coordinator should be, and does not let us in"));
        }
        Err(_) => return Ok(None),
    };
    Ok((status.run == run.manifest()?.run).then_some((announcement, status)))
}

fn at_rest(run: &RunDir) -> Result<(String, Value)> {
    let config = run.config()?;
    let journal = if run.journal().exists() { Some(Journal::read(run)?) } else { None };
    let (last, digest) = match &journal {
        Some(journal) => (journal.steps()?.pop(), journal.last_digest()?),
        None => (None, None),
    };
    let step = last.map_or(0, |row| row.record.step.next().0);
    let checkpoint = run.latest_checkpoint()?.map(|checkpoint| checkpoint.step.0);
    let name = run.path().display().to_string();
    let mut text = format!("{name} is not running; it took {step} of {} steps", config.run.steps);
    if let Some(last) = last {
        let record = last.record;
        text += &format!(
            "\nL(x) {:.4}  L(G(z)) {:.4}  k {:.4}  M {:.4}",
            record.real, record.fake, record.k, record.m_global
        );
    }
    match checkpoint {
        Some(checkpoint) if checkpoint >= config.run.steps => text += "\nit is finished",
        Some(checkpoint) => text += &format!("\ngo on from step {checkpoint} with `launcher resume {name}`"),
        None => text += "\nit has no checkpoint",
    }
    if let Some((step, digest)) = &digest {
        text += &format!("\ndigest {digest} at step {step}");
    }
    let object = json!({
        "run": name, "phase": "not running", "step": step, "steps": config.run.steps, "lanes": config.run.lanes,
        "last_checkpoint": checkpoint, "digest": digest.as_ref().map(|(_, digest)| digest),
        "digest_step": digest.as_ref().map(|(step, _)| step.0),
    });
    Ok((text, object))
}

fn live_text(status: &StatusResponse) -> String {
    let mut text = format!(
        "run {} is {}: step {} of {}, generation {}, {} of {} trainers, {} lanes, up {}",
        status.run,
        status.phase,
        status.step,
        status.steps,
        status.generation,
        status.trainers.len(),
        status.expected_trainers,
        status.lanes,
        in_words(Duration::try_from_secs_f64(status.uptime_seconds).unwrap_or_default()),
    );
    if !status.reason.is_empty() {
        text += &format!("\n{}", status.reason);
    }
    if let Some(p) = &status.progress {
        text += &format!(
            "\n{:.1} images/s  L(x) {:.4}  L(G(z)) {:.4}  k {:.4}  M {:.4}  rate {:.1e}",
            p.images_per_second, p.real, p.fake, p.k, p.m_global, p.rate
        );
    }
    match status.last_checkpoint {
        Some(step) => text += &format!("\nlast checkpoint: step {step}"),
        None => text += "\nno checkpoint yet",
    }
    for trainer in &status.trainers {
        let rank = trainer.rank.map_or("-".into(), |rank| rank.to_string());
        text += &format!(
            "\n  rank {rank}  node {} ({}, process {})  {}  lanes {}..{}  {} for {:.1} s, heard {:.1} s ago",
            trainer.node,
            trainer.host,
            trainer.pid,
            trainer.device,
            trainer.first_lane,
            trainer.end_lane,
            phase_name(trainer.phase),
            trainer.phase_seconds,
            trainer.seconds_since_heard
        );
    }
    text
}

fn live_object(status: &StatusResponse) -> Value {
    let trainers = status.trainers.iter().map(|trainer| {
        json!({
            "trainer": trainer.trainer, "rank": trainer.rank, "node": trainer.node, "local_rank": trainer.local_rank,
            "host": trainer.host, "pid": trainer.pid, "device": trainer.device, "phase": phase_name(trainer.phase),
            "phase_seconds": trainer.phase_seconds, "seconds_since_heard": trainer.seconds_since_heard,
            "first_lane": trainer.first_lane, "end_lane": trainer.end_lane,
        })
    });
    let progress = status.progress.as_ref().map(|p| {
        json!({
            "step": p.step, "real": p.real, "fake": p.fake, "k": p.k, "m_global": p.m_global, "rate": p.rate,
            "images_per_second": p.images_per_second, "world_size": p.world_size,
        })
    });
    json!({
        "run": status.run, "phase": status.phase, "reason": status.reason, "step": status.step, "steps": status.steps,
        "generation": status.generation, "lanes": status.lanes, "expected_trainers": status.expected_trainers,
        "trainers": trainers.collect::<Vec<_>>(), "progress": progress, "last_checkpoint": status.last_checkpoint,
        "uptime_seconds": status.uptime_seconds,
    })
}

/// What a trainer does, in a word.
#[must_use]
pub fn phase_name(phase: i32) -> &'static str {
    match Phase::try_from(phase).unwrap_or(Phase::Unspecified) {
        Phase::Unspecified => "unknown",
        Phase::Starting => "starting",
        Phase::Rendezvous => "rendezvous",
        Phase::Compute => "compute",
        Phase::Data => "data",
        Phase::Reduce => "reduce",
        Phase::Equilibrium => "equilibrium",
        Phase::Write => "write",
        Phase::Idle => "idle",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::made_up;

    #[test]
    fn a_run_at_rest_says_how_far_it_came_and_how_to_go_on() -> Result<()> {
        let folder = tempfile::tempdir()?;
        let entries = [made_up::step(0, 0.5), made_up::step(1, 0.5), made_up::digest(2, 0, "abc", &[])];
        let run = made_up::run(&folder.path().join("run"), &["run.steps=9"], &entries)?;
        let (text, object) = at_rest(&run)?;
        assert!(
            text.contains("2 of 9 steps") && text.contains("no checkpoint") && text.contains("abc at step 2"),
            "{text}"
        );
        assert_eq!(object["step"], 2);
        Ok(())
    }

    #[tokio::test]
    async fn a_run_without_a_coordinator_cannot_be_stopped() -> Result<()> {
        let folder = tempfile::tempdir()?;
        let run = made_up::run(&folder.path().join("run"), &[], &[])?;
        let error = stop(run.path(), Duration::from_secs(1), &Arguments::default())
            .await
            .err()
            .map(|error| format!("{error:#}"));
        assert!(error.is_some_and(|error| error.contains("is not running")));
        let error = status("nowhere", false, &Arguments::default()).await.err().map(|error| error.to_string());
        assert!(error.is_some_and(|error| error.contains("neither the folder of a run nor")));
        Ok(())
    }
}
