//! `chaos`: makes things go wrong in a running run on this machine, one after the other, to see it heal.
//!
//! Each fault is written into the run's journal and said before it is done. Nothing but the run's own processes, its own folder
//! and its own connections is touched, and whatever was stopped, filled or cut is put right again however this ends, short of
//! being killed.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use began_credentials::Arguments;
use began_record::RunDir;
use nix::sys::signal::Signal;
use tokio::time::sleep;

use crate::cli::{ChaosArgs, Fault};
use crate::credentials::{contact, contact_of};
use crate::launch::Signals;
use crate::supervision::Asked;
use crate::{inspect, watch};

mod dice;
mod disk;
mod network;
mod processes;

use dice::Dice;
use processes::{Found, Kind};

/// Between two looks at whether the run goes on.
const LOOK: Duration = Duration::from_millis(300);

/// A run of which neither a process nor a coordinator is seen for this long is over.
const GONE: Duration = Duration::from_secs(15);

/// `launcher chaos`. 0 once the run ended or enough went wrong.
///
/// # Errors
/// If the run does not run here, or one of the faults cannot be done here.
pub async fn chaos(args: &ChaosArgs) -> Result<u8> {
    let run = RunDir::open(&args.run)?;
    let path = std::path::absolute(&args.run).with_context(|| args.run.display().to_string())?;
    if inspect::alive(&run, &Arguments::default()).await?.is_none() {
        bail!("{} is not running: no coordinator of it answers", args.run.display());
    }
    if processes::find(&path, Kind::Coordinator).is_empty() {
        bail!("{} runs, but not on this machine, or under another name for its folder", args.run.display());
    }
    let filter = if args.faults.contains(&Fault::Partition) { Some(network::find()?) } else { None };
    if args.faults.contains(&Fault::Disk) {
        disk::may_be_filled(&path)?;
    }
    let signals = Signals::new()?;
    let mut chaos = Chaos {
        args,
        run,
        path,
        filter,
        dice: Dice::new(args.seed),
        start: Instant::now(),
        seen: Instant::now(),
        signals,
        counts: BTreeMap::new(),
    };
    let why = chaos.go_on().await;
    chaos.sum_up(why);
    Ok(match why {
        Why::Asked(Asked::Interrupt) => 130,
        Why::Asked(Asked::Terminate) => 143,
        Why::Done | Why::RunEnded => 0,
    })
}

/// Why it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Why {
    Done,
    RunEnded,
    Asked(Asked),
}

struct Chaos<'a> {
    args: &'a ChaosArgs,
    run: RunDir,
    path: PathBuf,
    filter: Option<network::Filter>,
    dice: Dice,
    start: Instant,
    /// When the run was last seen to go on.
    seen: Instant,
    signals: Signals,
    counts: BTreeMap<Fault, u32>,
}

impl Chaos<'_> {
    async fn go_on(&mut self) -> Why {
        loop {
            let pause = self.dice.pause(self.args.every);
            let until = Instant::now() + pause;
            let end = self.args.lasting.map(|lasting| self.start + lasting);
            if let Err(why) = self.wait(end.map_or(until, |end| end.min(until)), None).await {
                return why;
            }
            if end.is_some_and(|end| Instant::now() >= end) {
                return Why::Done;
            }
            let Some(fault) = self.dice.fault(&self.args.faults) else { return Why::Done };
            match self.act(fault).await {
                Ok(true) => *self.counts.entry(fault).or_default() += 1,
                Ok(false) => {}
                Err(why) => {
                    *self.counts.entry(fault).or_default() += 1;
                    return why;
                }
            }
            if self.args.count.is_some_and(|count| self.counts.values().sum::<u32>() >= count) {
                return Why::Done;
            }
        }
    }

    /// Lets time go by; ends early if the run ended or someone asked for the end. A cut is kept up meanwhile.
    async fn wait(&mut self, until: Instant, mut cut: Option<&mut network::Cut>) -> Result<(), Why> {
        loop {
            let left = until.saturating_duration_since(Instant::now());
            tokio::select! {
                asked = self.signals.asked() => return Err(Why::Asked(asked)),
                () = sleep(left.min(LOOK)) => {}
            }
            if let Some(cut) = &mut cut
                && let Err(error) = cut.widen()
            {
                self.say(&format!("the cut is not complete: {error:#}"));
            }
            if self.has_ended().await {
                return Err(Why::RunEnded);
            }
            if Instant::now() >= until {
                return Ok(());
            }
        }
    }

    /// Whether the run ended. A coordinator that is being started again does not answer and has not taken back where it is.
    async fn has_ended(&mut self) -> bool {
        let Ok(Some(announcement)) = self.run.announcement() else { return true };
        if let Ok(to) = contact(&announcement, &Arguments::default())
            && let Ok(Ok(status)) = tokio::time::timeout(LOOK, watch::status(&to)).await
        {
            self.seen = Instant::now();
            return status.phase == "ended";
        }
        let agents = processes::find(&self.path, Kind::Agent);
        if !agents.is_empty() {
            self.seen = Instant::now();
        }
        self.seen.elapsed() >= GONE
    }

    /// Does one fault; false if there was nobody to do it to.
    async fn act(&mut self, fault: Fault) -> Result<bool, Why> {
        match fault {
            Fault::Kill => Ok(self.kill(Kind::Trainer, 1).await),
            Fault::Two => Ok(self.kill(Kind::Trainer, 2).await),
            Fault::Coordinator => Ok(self.kill(Kind::Coordinator, 1).await),
            Fault::Agent => Ok(self.kill(Kind::Agent, 1).await),
            Fault::Stop => self.stop().await,
            Fault::Partition => self.partition().await,
            Fault::Disk => self.fill().await,
        }
    }

    async fn kill(&mut self, kind: Kind, count: usize) -> bool {
        let victims = self.dice.choose(processes::find(&self.path, kind), count);
        if victims.len() < count {
            return self.nobody(if count == 2 { "two trainers" } else { "such a process" });
        }
        let names = self.names(&victims).await;
        self.note(&format!("killed {}", names.join(" and "))).await;
        victims.iter().filter(|victim| victim.signal(Signal::SIGKILL)).count() > 0
    }

    async fn stop(&mut self) -> Result<bool, Why> {
        let Some(victim) = self.dice.choose(processes::find(&self.path, Kind::Trainer), 1).pop() else {
            return Ok(self.nobody("a trainer"));
        };
        let names = self.names(std::slice::from_ref(&victim)).await;
        self.note(&format!("stopped {} for {} s", names.join(""), self.args.stop_for.as_secs_f64())).await;
        let stopped = Stopped(victim);
        if !stopped.0.signal(Signal::SIGSTOP) {
            return Ok(false);
        }
        self.wait(Instant::now() + self.args.stop_for, None).await.map(|()| true)
    }

    async fn partition(&mut self) -> Result<bool, Why> {
        let victim = self.dice.choose(processes::find(&self.path, Kind::Trainer), 1).pop();
        let (Some(victim), Some(filter)) = (victim, self.filter) else { return Ok(self.nobody("a trainer")) };
        let names = self.names(std::slice::from_ref(&victim)).await;
        self.note(&format!("cut the network of {} for {} s", names.join(""), self.args.stop_for.as_secs_f64())).await;
        match network::cut(filter, victim.pid) {
            Ok(mut cut) => self.wait(Instant::now() + self.args.stop_for, Some(&mut cut)).await.map(|()| true),
            Err(error) => {
                self.say(&format!("it could not be cut: {error:#}"));
                Ok(false)
            }
        }
    }

    async fn fill(&mut self) -> Result<bool, Why> {
        self.note(&format!("filled the disk for {} s", self.args.stop_for.as_secs_f64())).await;
        match disk::fill(&self.path) {
            Ok(_filler) => self.wait(Instant::now() + self.args.stop_for, None).await.map(|()| true),
            Err(error) => {
                self.say(&format!("it could not be filled: {error:#}"));
                Ok(false)
            }
        }
    }

    fn nobody(&self, whom: &str) -> bool {
        self.say(&format!("there is not {whom} at the moment"));
        false
    }

    /// "trainer rank 2 (process 77)", with the ranks that the coordinator tells.
    async fn names(&self, victims: &[Found]) -> Vec<String> {
        let status = match contact_of(&self.run, &Arguments::default()) {
            Ok(Some(to)) => tokio::time::timeout(LOOK, watch::status(&to)).await.ok(),
            _ => None,
        };
        let trainers = status.and_then(Result::ok).map(|status| status.trainers).unwrap_or_default();
        let rank = |pid| trainers.iter().find(|trainer| trainer.pid == pid).and_then(|trainer| trainer.rank);
        let name = |victim: &Found| {
            let who = match (victim.kind, rank(victim.pid), victim.node) {
                (Kind::Coordinator, ..) => "the coordinator".to_owned(),
                (Kind::Agent, _, Some(node)) => format!("the agent of node {node}"),
                (Kind::Agent, ..) => "an agent".to_owned(),
                (Kind::Trainer, Some(rank), _) => format!("trainer rank {rank}"),
                (Kind::Trainer, None, Some(node)) => format!("a trainer of node {node}"),
                (Kind::Trainer, ..) => "a trainer".to_owned(),
            };
            format!("{who} (process {})", victim.pid)
        };
        victims.iter().map(name).collect()
    }

    /// Says what is about to happen, and has it written into the journal.
    async fn note(&self, text: &str) {
        self.say(text);
        let written = match contact_of(&self.run, &Arguments::default()) {
            Ok(Some(to)) => watch::note(&to, &format!("chaos: {text}")).await,
            Ok(None) => return,
            Err(error) => Err(error),
        };
        if let Err(error) = written {
            self.say(&format!("that is not in the journal: {error:#}"));
        }
    }

    fn say(&self, text: &str) {
        let _ = writeln!(std::io::stdout(), "{:8.1} s  {text}", self.start.elapsed().as_secs_f64());
    }

    fn sum_up(&self, why: Why) {
        let why = match why {
            Why::Done => "done",
            Why::RunEnded => "the run ended",
            Why::Asked(_) => "asked to end",
        };
        let counts = self.counts.iter().map(|(fault, count)| format!("{} {count}", fault.name()));
        let counts: Vec<String> = counts.collect();
        let counts = if counts.is_empty() { "nothing went wrong".to_owned() } else { counts.join(", ") };
        self.say(&format!("{why}: {counts}"));
    }
}

/// A stopped process, which goes on when this is dropped.
struct Stopped(Found);

impl Drop for Stopped {
    fn drop(&mut self) {
        self.0.signal(Signal::SIGCONT);
    }
}
