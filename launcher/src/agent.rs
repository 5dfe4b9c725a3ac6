//! The agent: starts the trainers of one node, keeps their logs, starts another where one failed, and ends after all of
//! them.
//!
//! It never ends one trainer because another failed: the coordinator tells the others what to do. It must leave no trainer
//! behind: not when it is asked to end, not when its parent dies, not when it is killed itself (each trainer is tied to it
//! by the kernel).

use std::ffi::OsString;
use std::io::Write;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::sys::signal::Signal;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until, timeout};

use crate::child::{Exit, STOPPED_FOR_ANOTHER};
use crate::cli::AgentArgs;
use crate::credentials;
use crate::restarts::{self, Restarts};

pub mod orders;
pub mod place;
pub mod report;
mod trainer;

use orders::Order;
use place::Fate;
pub use report::{End, Report};
use trainer::{Heard, Trainer};

/// How long trainers have to end after TERM when the agent's parent is gone.
const ORPHAN_GRACE: Duration = Duration::from_secs(2);

/// How long a killed trainer may take to go; one in an uninterruptible wait (a dead file server) may never.
const KILL_TIME: Duration = Duration::from_secs(5);

/// How long the launcher may take to hand over what the trainers are to prove themselves with.
const HANDING_OVER: Duration = Duration::from_secs(60);

/// Runs an agent to its end; its exit code is 0 if the last trainer of every place ended with it, else the worst of
/// theirs.
///
/// # Errors
/// If it cannot watch for the end of its parent or of its trainers.
pub async fn run(args: AgentArgs) -> Result<u8> {
    // Not KILL: the agent is to see to it that its trainers end, too.
    nix::sys::prctl::set_pdeathsig(Signal::SIGHUP).context("cannot ask to be told of the parent's end")?;
    let mut hangup = signal(SignalKind::hangup())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut quit = signal(SignalKind::quit())?;
    let mut orders = orders::listen(args.lost_after);
    let soon = args.grace.min(ORPHAN_GRACE);
    let grace = args.grace;
    let deaf = args.deaf;

    let environment = match args.credentials_from_stdin {
        true => handed_over(&mut orders).await?,
        false => args.credentials.environment(),
    };
    let (ears, mut heard) = mpsc::unbounded_channel();
    let mut node = Node {
        args,
        environment,
        ears,
        places: Vec::new(),
        wanted: true,
        deadline: None,
        killed: false,
        could_not: false,
        abandoned: false,
    };
    node.fill(soon);
    while !node.is_over() {
        let due = node.due();
        tokio::select! {
            Some(heard) = heard.recv() => node.hears(heard),
            Some(order) = orders.recv() => match order {
                Order::NoMoreRestarts => node.restart_nobody(),
                Order::Terminate => node.ask(grace),
                Order::Kill => node.kill(),
                Order::Here => report::send(&Report::Here),
                Order::End => {
                    node.abandoned = true;
                    node.ask(soon);
                }
                // They are handed over once, at the start.
                Order::Credentials(_) => {}
            },
            _ = hangup.recv() => node.ask(soon),
            _ = terminate.recv(), if !deaf => node.ask(grace),
            _ = interrupt.recv(), if !deaf => node.ask(grace),
            _ = quit.recv(), if !deaf => node.kill(),
            () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => node.start_who_is_due(),
            () = sleep_until(node.deadline.unwrap_or_else(Instant::now)), if node.deadline.is_some() => {
                if node.killed {
                    let stuck = node.stuck();
                    report::all_sent().await;
                    let _ = writeln!(std::io::stderr(), "{} s after KILL these processes are still there: {stuck}", KILL_TIME.as_secs());
                    return Ok(1);
                }
                node.kill();
            }
        }
    }
    // A launcher that is there again, behind a network that was cut, is to start another agent.
    if !node.abandoned {
        report::send(&Report::Over);
    }
    report::all_sent().await;
    Ok(node.code())
}

/// What the launcher hands over before anything is started.
async fn handed_over(orders: &mut mpsc::UnboundedReceiver<Order>) -> Result<Vec<(&'static str, OsString)>> {
    let waited = async {
        loop {
            match orders.recv().await {
                Some(Order::Credentials(line)) => return credentials::environment_from(&line),
                Some(Order::Here) => report::send(&Report::Here),
                Some(Order::End) | None => bail!("the launcher was gone before it had handed over credentials"),
                Some(Order::NoMoreRestarts | Order::Terminate | Order::Kill) => {
                    bail!("the run was asked to end before anything had started")
                }
            }
        }
    };
    let limit = HANDING_OVER.as_secs();
    let late = || format!("the launcher handed over no credentials within {limit} s (--credentials-from-stdin)");
    timeout(HANDING_OVER, waited).await.with_context(late)?
}

/// The place of one trainer.
struct Place {
    local_rank: u32,
    restarts: Restarts,
    /// The furthest step a trainer in it has committed.
    furthest: Option<u64>,
    state: State,
    /// How the last trainer in it ended.
    last: Exit,
}

enum State {
    Running(Trainer),
    /// Another trainer is started then.
    Due(Instant),
    Empty,
}

/// All places of the node, and where the agent stands in ending their trainers: asked (TERM), then killed.
struct Node {
    args: AgentArgs,
    /// What trainers prove themselves with, if it came from the launcher.
    environment: Vec<(&'static str, OsString)>,
    ears: mpsc::UnboundedSender<Heard>,
    places: Vec<Place>,
    /// Whether trainers are still to be started.
    wanted: bool,
    deadline: Option<Instant>,
    killed: bool,
    /// It ends because nothing is heard of the launcher.
    abandoned: bool,
    /// A first trainer could not be started.
    could_not: bool,
}

impl Node {
    /// Starts the first trainer of every place. Where one cannot be, no restart would help: nothing is left running.
    fn fill(&mut self, soon: Duration) {
        for local_rank in 0..self.args.trainers {
            match Trainer::start(&self.args, &self.environment, local_rank, &self.ears) {
                Ok(trainer) => self.places.push(Place {
                    local_rank,
                    furthest: None,
                    restarts: Restarts::new(restarts::TRAINER, self.args.restarts),
                    state: State::Running(trainer),
                    last: Exit { code: Some(0), signal: None },
                }),
                Err(error) => {
                    report::send(&Report::Failed { reason: format!("{error:#}") });
                    self.could_not = true;
                    self.ask(soon);
                    break;
                }
            }
        }
    }

    fn is_over(&self) -> bool {
        self.places.iter().all(|place| matches!(place.state, State::Empty))
    }

    fn due(&self) -> Option<Instant> {
        let due = self.places.iter().filter_map(|place| match place.state {
            State::Due(when) => Some(when),
            _ => None,
        });
        due.min()
    }

    fn hears(&mut self, heard: Heard) {
        let wanted = self.wanted;
        let (Heard::Committed { local_rank, .. } | Heard::Ended { local_rank, .. }) = heard;
        let Some(place) = self.places.iter_mut().find(|place| place.local_rank == local_rank) else { return };
        match heard {
            Heard::Committed { step, .. } => {
                // Steps that are computed again are no progress: a place that dies at the same step each time is given up.
                if Some(step) > place.furthest {
                    place.furthest = Some(step);
                    place.restarts.progressed();
                }
                report::send(&Report::Committed { rank: self.args.first_rank() + local_rank, step });
            }
            Heard::Ended { exit, .. } => {
                if let State::Running(trainer) = std::mem::replace(&mut place.state, State::Empty) {
                    place.ended(trainer.end(exit), trainer.asked, wanted);
                }
            }
        }
    }

    fn start_who_is_due(&mut self) {
        let now = Instant::now();
        for place in &mut self.places {
            if !matches!(place.state, State::Due(when) if when <= now) {
                continue;
            }
            match Trainer::start(&self.args, &self.environment, place.local_rank, &self.ears) {
                Ok(trainer) => place.state = State::Running(trainer),
                Err(error) => {
                    let exit = Exit { code: Some(1), signal: None };
                    let (rank, local_rank) = (self.args.first_rank() + place.local_rank, place.local_rank);
                    let end = End { rank, local_rank, pid: 0, exit, last_lines: vec![format!("{error:#}")] };
                    place.ended(end, false, self.wanted);
                }
            }
        }
    }

    fn restart_nobody(&mut self) {
        self.wanted = false;
        for place in &mut self.places {
            if matches!(place.state, State::Due(_)) {
                place.state = State::Empty;
            }
        }
    }

    fn running(&mut self) -> impl Iterator<Item = &mut Trainer> {
        self.places.iter_mut().filter_map(|place| match &mut place.state {
            State::Running(trainer) => Some(trainer),
            _ => None,
        })
    }

    fn ask(&mut self, grace: Duration) {
        self.restart_nobody();
        if self.killed {
            return;
        }
        let deaf = self.args.deaf;
        for trainer in self.running() {
            trainer.asked = true;
            // One that does not hear TERM ends as if this process were gone.
            if deaf {
                trainer.child.close_stdin();
            } else {
                trainer.child.signal(Signal::SIGTERM);
            }
        }
        // Asked again with less time, the shorter one counts.
        let deadline = Instant::now() + grace;
        self.deadline = Some(self.deadline.map_or(deadline, |before| before.min(deadline)));
    }

    fn kill(&mut self) {
        self.restart_nobody();
        for trainer in self.running() {
            trainer.asked = true;
            trainer.child.signal(Signal::SIGKILL);
        }
        self.killed = true;
        self.deadline = Some(Instant::now() + KILL_TIME);
    }

    fn stuck(&mut self) -> String {
        let alive = self.running().filter(|trainer| trainer.child.is_alive());
        alive.map(|trainer| trainer.child.pid().to_string()).collect::<Vec<_>>().join(", ")
    }

    fn code(&self) -> u8 {
        let worst = self.places.iter().fold(0, |worst, place| worse(worst, place.last));
        if worst == 0 && self.could_not { 1 } else { worst }
    }
}

impl Place {
    /// Decides what becomes of it, and reports that.
    fn ended(&mut self, end: End, asked: bool, wanted: bool) {
        self.last = end.exit;
        match place::after(&mut self.restarts, end.exit, wanted) {
            Fate::Again(again) => {
                self.state = State::Due(Instant::now() + again.pause);
                let in_seconds = again.pause.as_secs_f64();
                let (attempt, allowed) = (again.attempt, again.allowed);
                report::send(&Report::Restarting { end, in_seconds, attempt, allowed });
            }
            Fate::SetAside(reason) => {
                self.state = State::Empty;
                report::send(&Report::SetAside { end, reason });
            }
            Fate::Empty => {
                self.state = State::Empty;
                report::send(&Report::Exited { end, asked });
            }
        }
    }
}

/// The worse of an exit code and an end: own failures count more than being stopped for another's.
fn worse(code: u8, exit: Exit) -> u8 {
    match (code, exit.as_code()) {
        (code, 0) => code,
        (0, new) => new,
        (code, new) if i32::from(code) == STOPPED_FOR_ANOTHER => new,
        (code, _) => code,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worst_end_counts() {
        let code = |code| Exit { code: Some(code), signal: None };
        assert_eq!(worse(0, code(0)), 0);
        assert_eq!(worse(0, code(3)), 3);
        assert_eq!(worse(3, code(7)), 7);
        assert_eq!(worse(7, code(3)), 7);
        assert_eq!(worse(3, Exit { code: None, signal: Some(9) }), 1);
    }
}
