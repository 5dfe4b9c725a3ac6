//! What a node's pod starts: an agent, once there is a coordinator for its trainers, and at the end a code that says
//! whether another pod is to take its place.
//!
//! It must never hold a machine for a run that is over, nor give one up whose coordinator is only late.

use std::io::Write;
use std::path::Path;
use std::time::Duration;

use anyhow::Result;
use began_credentials::Role;
use began_record::RunDir;
use tokio::time::{Instant, sleep};

use super::ending::{self, INTERRUPTED};
use super::standing::Standing;
use crate::cli::AgentArgs;
use crate::launch::Signals;
use crate::watch::Contact;
use crate::{agent, watch};

/// An end that was written down earlier is believed only when no coordinator has come for so long: it may be an end that
/// the manifests were applied again for.
const OLD_NEWS: Duration = Duration::from_secs(300);
/// After its trainers' end, word of why is awaited for so long: a file server may show another pod's file late.
const LATE_NEWS: Duration = Duration::from_secs(90);
const LOOK: Duration = Duration::from_secs(1);
const REMIND: Duration = Duration::from_secs(30);

/// `launcher agent --pod`. Returns the exit code, one of [`ending`]'s, or that of the agent's own failure.
///
/// # Errors
/// As [`agent::run`].
pub async fn agent(args: AgentArgs) -> Result<u8> {
    let (run, patience) = (args.run.clone(), args.wait_for_coordinator);
    let to = Contact { address: args.coordinator.clone(), credentials: args.credentials.client(Role::Trainer)? };
    if let Some(code) = wait_for_coordinator(&to, &run, patience).await? {
        return Ok(code);
    }
    let code = agent::run(args).await?;
    let start = Instant::now();
    loop {
        let standing = Standing::read(&run);
        let known = standing.is_some_and(|standing| standing != Standing::Running);
        // A trainer that failed by itself is no sign that the run is over.
        let own = ending::of_node(code, None) != INTERRUPTED;
        if known || own || start.elapsed() >= LATE_NEWS {
            let ended = ending::of_node(code, standing);
            say(&format!("the agent ended with {code}, the run stands as {standing:?}: this pod ends with {ended}"));
            return Ok(ended);
        }
        sleep(LOOK / 4).await;
    }
}

/// Waits for a coordinator with a run; a code if there is nothing to wait for any more.
async fn wait_for_coordinator(to: &Contact, run: &Path, patience: Duration) -> Result<Option<u8>> {
    let mut signals = Signals::new()?;
    let start = Instant::now();
    let mut said = None;
    loop {
        let answer = tokio::select! {
            answer = watch::status(to) => answer,
            _ = signals.next() => return Ok(Some(INTERRUPTED)),
        };
        let why = match (answer, RunDir::open(run)) {
            (Ok(_), Ok(_)) => return Ok(None),
            (Ok(_), Err(error)) => format!("{error}; is the volume of the runs the same in all pods?"),
            (Err(error), _) => format!("{error:#}"),
        };
        let standing = Standing::read(run).filter(|standing| standing.is_over());
        if let Some(standing) = standing.filter(|_| start.elapsed() >= OLD_NEWS.min(patience)) {
            say(&format!("no coordinator came, and the run stands as {standing:?}: this pod is not needed"));
            return Ok(Some(ending::of_node(0, Some(standing))));
        }
        if start.elapsed() >= patience {
            say(&format!("waited {} s for the coordinator in vain: {why}", patience.as_secs_f64()));
            return Ok(Some(1));
        }
        if said.is_none_or(|said: Instant| said.elapsed() >= REMIND) {
            say(&format!("waiting for the coordinator: {why}"));
            said = Some(Instant::now());
        }
        tokio::select! {
            () = sleep(LOOK) => {}
            _ = signals.next() => return Ok(Some(INTERRUPTED)),
        }
    }
}

fn say(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}");
}
