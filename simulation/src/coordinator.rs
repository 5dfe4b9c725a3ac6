//! The coordinator's process: the real machine, with a journal that lags behind, and streams that break with it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use ::coordinator::inputs;
use ::coordinator::machine::{Act, ConnectionId, Decision, Event, Machine, Message, Plan, Resume};
use ::coordinator::wire::{self, Letterhead};
use began::{Equilibrium, Generation, Step, StepRecord};
use began_proto::v1::{CoordinatorMessage, TrainerMessage};

use crate::truth::Truth;

/// The run's name.
pub const RUN: &str = "a run";

/// What survives every process.
#[derive(Clone, Debug, Default)]
pub struct Disk {
    /// Recorded steps with what was drawn.
    pub steps: BTreeMap<u64, (StepRecord, u64)>,
    /// The last digest.
    pub digested: u64,
    /// The newest generation in the journal.
    pub generation: u64,
    /// How often the run went back.
    pub lineage: u64,
    /// Whole checkpoints: the state, its equilibrium, and whether its files are damaged.
    pub checkpoints: BTreeMap<u64, (u64, Equilibrium, bool)>,
}

/// One thing for the journal.
#[derive(Clone, Debug)]
enum Entry {
    Step(StepRecord, u64),
    Rewind(u64),
    Digest(u64),
    Generation(u64),
}

/// One life of the coordinator.
#[derive(Debug)]
pub struct Life {
    /// Counts lives.
    pub number: u64,
    /// The real machine.
    pub machine: Machine,
    letterhead: Letterhead,
    /// When it began.
    pub born: Duration,
    unwritten: Vec<Entry>,
    durable: Arc<AtomicU64>,
    plan: Plan,
    told: Vec<(Event, Duration, u64)>,
    /// Set at the end of the run.
    pub ended: Option<(bool, String)>,
}

/// What a life wants done outside.
#[derive(Debug)]
pub enum Effect {
    /// Send this on that stream.
    Send(ConnectionId, Box<CoordinatorMessage>),
    /// Close that stream.
    Close(ConnectionId),
    /// Remove this checkpoint.
    Remove(u64),
    /// Remove all above this.
    RemoveAbove(u64),
}

impl Life {
    /// Starts on what the disk has.
    ///
    /// # Panics
    /// If the plan does not hold.
    #[must_use]
    pub fn start(number: u64, truth: &Truth, disk: &mut Disk, world: u32, now: Duration) -> Self {
        // As the coordinator does before anything else: damaged checkpoints are passed over.
        while let Some((&step, (_, _, true))) = disk.checkpoints.last_key_value() {
            disk.checkpoints.remove(&step);
        }
        let recorded = disk.steps.last_key_value().map_or(0, |(step, _)| step + 1);
        let resume = disk.checkpoints.range(..=recorded).next_back().map(|(step, (_, equilibrium, _))| Resume {
            path: format!("checkpoints/{step}"),
            equilibrium: *equilibrium,
        });
        let plan = Plan {
            run: RUN.into(),
            config: truth.config.clone(),
            order: truth.order.clone(),
            world,
            nodes: None,
            resume,
            checkpoints: disk.checkpoints.iter().map(|(step, (_, e, _))| (Step(*step), *e)).collect(),
            recorded: Step(recorded),
            digested: Step(disk.digested),
            recent: Vec::new(),
            lineage: disk.lineage,
            rollbacks: 0,
            lowered: Default::default(),
            generation: Generation(disk.generation),
            accept_changed_checkpoint: false,
            forming_timeout: Duration::from_secs(60),
            resume_command: "launcher resume runs/x".into(),
        };
        let durable = Arc::new(AtomicU64::new(plan.recorded.0));
        let letterhead = Letterhead {
            run: RUN.into(),
            config: String::new(),
            data_digest: String::new(),
            heartbeat_seconds: truth.config.run.heartbeat_timeout / 4.0,
            durable: durable.clone(),
        };
        let machine = Machine::new(plan.clone()).expect("a plan that holds");
        Self {
            number,
            machine,
            letterhead,
            born: now,
            unwritten: Vec::new(),
            durable,
            plan,
            told: Vec::new(),
            ended: None,
        }
    }

    /// Tells the machine; what is to be done outside.
    ///
    /// # Panics
    /// If a promise is broken.
    pub fn tell(&mut self, event: Event, now: Duration, truth: &Truth, disk: &mut Disk) -> Vec<Effect> {
        let at = now.saturating_sub(self.born);
        let kept = event.clone();
        let decisions = self.machine.handle(event, at);
        if !(matches!(kept, Event::Tick) && decisions.is_empty()) {
            self.told.push((kept, at, inputs::digest(&decisions)));
        }
        let mut effects = Vec::new();
        let opens = decisions.iter().any(|decision| matches!(decision.act, Act::Open { .. }));
        for Decision { act, why } in decisions {
            assert!(!why.is_empty(), "{act:?} without a reason");
            match act {
                Act::Send { to, message } => {
                    check(&message, truth);
                    let message = self.letterhead.message(self.machine.generation(), &message, &why);
                    effects.extend(to.into_iter().map(|on| Effect::Send(on, Box::new(message.clone()))));
                }
                Act::Refuse(on) => {
                    effects.push(Effect::Send(on, Box::new(self.letterhead.refusal(&why))));
                    effects.push(Effect::Close(on));
                }
                Act::Drop(on) => effects.push(Effect::Close(on)),
                Act::Open { generation, .. } => self.unwritten.push(Entry::Generation(generation.0)),
                Act::Step { record, drawn, .. } => {
                    let (expected, samples) = truth.records[record.step.0 as usize];
                    assert_eq!((record, drawn), (expected, samples), "another record");
                    self.unwritten.push(Entry::Step(record, drawn));
                }
                Act::Rewind(step) => self.unwritten.push(Entry::Rewind(step.0)),
                Act::Digest(digest) => {
                    let expected = format!("{:x}", truth.states[digest.step.0 as usize]);
                    assert_eq!(digest.digest, expected, "another digest of step {}", digest.step);
                    self.unwritten.push(Entry::Digest(digest.step.0));
                }
                Act::Prune(steps) => effects.extend(steps.into_iter().map(|step| Effect::Remove(step.0))),
                Act::SetAside(step) => effects.push(Effect::Remove(step.0)),
                Act::Back(back) => {
                    self.flush(disk);
                    disk.lineage = back.lineage;
                    disk.digested = disk.digested.min(back.to.0);
                    effects.push(Effect::RemoveAbove(back.to.0));
                }
                Act::End { failed, .. } => {
                    assert!(self.ended.is_none(), "a second end");
                    self.ended = Some((failed, why));
                }
                Act::Ignore(_)
                | Act::Note(_)
                | Act::Close(_)
                | Act::Lease { .. }
                | Act::Sample(_)
                | Act::Answer { .. } => {}
            }
        }
        if opens {
            self.flush(disk);
        }
        effects
    }

    /// A message off the wire.
    pub fn receive(
        &mut self,
        on: ConnectionId,
        message: TrainerMessage,
        now: Duration,
        truth: &Truth,
        disk: &mut Disk,
    ) -> Vec<Effect> {
        match wire::said(message) {
            Ok(message) => self.tell(Event::Said { connection: on, message }, now, truth, disk),
            Err(why) => panic!("an honest trainer said what makes no sense: {why}"),
        }
    }

    /// The journal catches up.
    pub fn flush(&mut self, disk: &mut Disk) {
        for entry in self.unwritten.drain(..) {
            match entry {
                Entry::Step(record, drawn) => {
                    disk.steps.insert(record.step.0, (record, drawn));
                    self.durable.fetch_max(record.step.0 + 1, Ordering::Relaxed);
                }
                Entry::Rewind(step) => {
                    disk.steps.split_off(&step);
                    disk.digested = disk.digested.min(step);
                    self.durable.store(step, Ordering::Relaxed);
                }
                Entry::Digest(step) => disk.digested = disk.digested.max(step),
                Entry::Generation(generation) => disk.generation = disk.generation.max(generation),
            }
        }
    }

    /// Tells a second machine what this one was told.
    ///
    /// # Panics
    /// If it decides otherwise.
    pub fn replay(&self) {
        let mut machine = Machine::new(self.plan.clone()).expect("a plan that held before");
        for (event, at, decided) in &self.told {
            let decisions = machine.handle(event.clone(), *at);
            assert_eq!(inputs::digest(&decisions), *decided, "replayed, {event:?} led to {decisions:?}");
        }
    }
}

/// Nothing may be sent that an undisturbed run would not have had.
fn check(message: &Message, truth: &Truth) {
    let given = match message {
        Message::Equilibrium(given) | Message::WriteCheckpoint(given) => given,
        Message::Opened(opened) => &opened.given,
        _ => return,
    };
    let expected = truth.equilibrium(given.equilibrium.step);
    assert_eq!(&given.equilibrium, expected, "another equilibrium is sent");
}
