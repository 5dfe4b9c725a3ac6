//! The world of a history: the clock, the network, the processes and the disk.
//!
//! | part | what it does |
//! | --- | --- |
//! | here | the queue of what happens, and the judgement at the end |
//! | `network` | streams between trainers and coordinator, and among trainers |
//! | `processes` | their lives, and what they wish for |
//! | `trouble` | what goes wrong |
//!
//! Everything that happens stands in one queue by its time; whatever happens is drawn from the seed. The network keeps the
//! order of a stream and nothing else; a process that is stopped finds all that came meanwhile when it goes on.

mod network;
mod processes;
mod trouble;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, VecDeque};
use std::time::Duration;

use ::coordinator::machine::{ConnectionId, Event};
use began::Equilibrium;
use began::config::RunConfig;
use began_proto::v1::{CoordinatorMessage, TrainerMessage};
use began_session::Input;

use crate::coordinator::{Disk, Life};
use crate::dice::Dice;
use crate::faults::KINDS;
use crate::peers::{Peers, Process};
use crate::trainer::{Timer, Trainer};
use crate::truth::Truth;

/// After this time nothing goes wrong any more.
const TROUBLE: u64 = 25_000;
/// A history that is not over by then waits without end.
const END: u64 = 400_000;
/// A link that is cut for longer than this loses its stream.
const STREAM_DIES: u64 = 2_000;

#[derive(Clone, Debug)]
enum Happening {
    CoordinatorStarts,
    CoordinatorTick(u64),
    Flush(u64),
    TrainerStarts(usize),
    TrainerTick(Process),
    /// On its way to the coordinator, of that stream.
    Up(Stream, Box<TrainerMessage>),
    UpBroken(Stream),
    Down(Stream, Box<CoordinatorMessage>),
    StreamOpen(Stream),
    StreamBroken(Stream),
    Timer(Process, Timer),
    Connected(Process, u64),
    Sum(Process, u64, u64),
    Severed(Process),
    Written(Process, u64, u64, Box<Equilibrium>),
    Resume(Process),
    Fault,
    Flip,
}

/// A stream between a life of a trainer and a life of the coordinator.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Stream {
    process: Process,
    life: u64,
    number: u64,
}

struct Place {
    life: u64,
    trainer: Option<Trainer>,
    stream: Option<Stream>,
    generation: u64,
    hung: Option<VecDeque<Happening>>,
    cut_until: u64,
    /// Nobody takes it any more.
    aside: bool,
}

/// What came of a history.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// Virtual milliseconds to the end.
    pub ended_at: u64,
    /// Faults by kind.
    pub faults: [u64; KINDS.len()],
    /// Lives of the coordinator.
    pub coordinator_lives: u64,
    /// Generations.
    pub generations: u64,
    /// Events.
    pub events: u64,
}

/// See the module.
pub struct World {
    dice: Dice,
    truth: Truth,
    now: u64,
    queue: BinaryHeap<Reverse<(u64, u64)>>,
    happenings: BTreeMap<u64, Happening>,
    next: u64,
    disk: Disk,
    disk_full_until: u64,
    coordinator: Option<Life>,
    lives: u64,
    places: Vec<Place>,
    peers: Peers,
    /// Taints of sums: a part of a spoilt state is in them.
    taints: BTreeMap<(u64, u64), u64>,
    world: u32,
    faults: [u64; KINDS.len()],
    flips: bool,
    trouble: u64,
    events: u64,
    /// The last message of each stream arrives then, either way.
    last_up: BTreeMap<Stream, u64>,
    last_down: BTreeMap<Stream, u64>,
    verbose: bool,
    result: Option<(bool, String)>,
}

impl World {
    /// A history of this seed.
    #[must_use]
    pub fn new(seed: u64, verbose: bool) -> Self {
        let mut dice = Dice(seed ^ 0x5eed);
        let world = 1 + dice.below(5) as u32;
        let mut config = RunConfig::default();
        config.run.lanes = world + dice.below(4) as u32;
        config.run.batch = 2;
        config.run.steps = dice.between(40, 160);
        config.run.checkpoint_every = dice.below(15);
        config.run.digest_every = dice.below(9);
        config.run.sample_every = dice.below(25);
        config.run.keep_checkpoints = 1 + dice.below(3) as u32;
        config.run.heartbeat_timeout = 1.0;
        config.run.step_timeout = 20.0;
        config.run.rejoin_wait = if dice.one_in(3) { dice.below(20) as f64 / 10.0 } else { 0.0 };
        config.run.min_trainers = 1 + dice.below(u64::from(world)) as u32;
        config.optimizer.stall_window = 6;
        config.objective.lambda_k = 0.05;
        // A flip alone: with its trainer dead before the next digest nobody could know.
        let flips = world > 2 && dice.one_in(8);
        if flips {
            config.run.digest_every = config.run.digest_every.max(2);
        }
        let place =
            |_| Place { life: 0, trainer: None, stream: None, generation: 0, hung: None, cut_until: 0, aside: false };
        let mut all = Self {
            truth: Truth::of(config),
            now: 0,
            queue: BinaryHeap::new(),
            happenings: BTreeMap::new(),
            next: 0,
            disk: Disk::default(),
            disk_full_until: 0,
            coordinator: None,
            lives: 0,
            places: (0..world).map(place).collect(),
            peers: Peers::default(),
            taints: BTreeMap::new(),
            world,
            faults: [0; KINDS.len()],
            flips,
            trouble: dice.below(TROUBLE),
            events: 0,
            last_up: BTreeMap::new(),
            last_down: BTreeMap::new(),
            verbose,
            result: None,
            dice,
        };
        all.at(0, Happening::CoordinatorStarts);
        for place in 0..world as usize {
            let delay = all.dice.between(10, 600);
            all.at(delay, Happening::TrainerStarts(place));
        }
        if flips {
            let when = all.dice.between(1_500, 4_000);
            all.at(when, Happening::Flip);
        } else {
            let when = all.dice.between(100, 3_000);
            all.at(when, Happening::Fault);
        }
        all
    }

    fn at(&mut self, delay: u64, happening: Happening) {
        self.happenings.insert(self.next, happening);
        self.queue.push(Reverse((self.now + delay, self.next)));
        self.next += 1;
    }

    fn clock(&self) -> Duration {
        Duration::from_millis(self.now)
    }

    fn alive(&self, process: Process) -> bool {
        let place = &self.places[process.0];
        place.life == process.1 && place.trainer.is_some()
    }

    /// Plays the history to its end.
    ///
    /// # Panics
    /// If a promise is broken.
    pub fn play(&mut self) -> Report {
        while let Some(Reverse((time, number))) = self.queue.pop() {
            let Some(happening) = self.happenings.remove(&number) else { continue };
            self.now = time;
            self.events += 1;
            assert!(self.now < END, "it never ends: {}", self.where_it_stands());
            self.happen(happening);
            if self.result.is_some() {
                break;
            }
        }
        self.judge()
    }

    fn where_it_stands(&self) -> String {
        let status = self.coordinator.as_ref().map(|life| life.machine.status(self.clock().saturating_sub(life.born)));
        let trainers: Vec<String> = self
            .places
            .iter()
            .map(|place| match &place.trainer {
                Some(trainer) => format!("{:?} {:?} {:?}", trainer.at, trainer.state, trainer.protocol.place()),
                None => "dead".into(),
            })
            .collect();
        format!("{status:?}\n{trainers:#?}")
    }

    fn judge(&mut self) -> Report {
        let (failed, why) = self.result.clone().unwrap_or_else(|| panic!("no end: {}", self.where_it_stands()));
        assert!(!failed, "the run failed: {why}");
        if let Some(life) = &mut self.coordinator {
            life.flush(&mut self.disk);
            life.replay();
        }
        let steps = self.truth.config.run.steps;
        let missing: Vec<u64> = (0..steps).filter(|step| !self.disk.steps.contains_key(step)).collect();
        assert!(missing.is_empty(), "steps missing in the journal: {missing:?} of {steps}");
        for (step, row) in &self.disk.steps {
            assert_eq!(row, &self.truth.records[*step as usize], "the journal's step {step}");
        }
        let (state, equilibrium, damaged) = self.disk.checkpoints[&steps];
        assert!(!damaged, "the last checkpoint");
        assert_eq!(state, self.truth.states[steps as usize], "the last state on the disk");
        assert_eq!(equilibrium, self.truth.equilibria[steps as usize]);
        assert_eq!(self.disk.digested, steps, "the last digest");
        Report {
            ended_at: self.now,
            faults: self.faults,
            coordinator_lives: self.lives,
            generations: self.disk.generation,
            events: self.events,
        }
    }

    fn happen(&mut self, happening: Happening) {
        // A process that is stopped finds it later.
        let whose = match &happening {
            Happening::TrainerTick(process)
            | Happening::Timer(process, _)
            | Happening::Connected(process, _)
            | Happening::Sum(process, ..)
            | Happening::Severed(process)
            | Happening::Written(process, ..) => Some(*process),
            Happening::Down(stream, _) | Happening::StreamOpen(stream) | Happening::StreamBroken(stream) => {
                Some(stream.process)
            }
            _ => None,
        };
        if let Some(process) = whose {
            if !self.alive(process) {
                return;
            }
            if let Some(hung) = &mut self.places[process.0].hung {
                hung.push_back(happening);
                return;
            }
        }
        match happening {
            Happening::CoordinatorStarts => self.coordinator_starts(),
            Happening::CoordinatorTick(life) => {
                if let Some(tick) = self.tell_coordinator(life, Event::Tick) {
                    self.at(tick.as_millis() as u64, Happening::CoordinatorTick(life));
                }
            }
            Happening::Flush(life) => {
                if let Some(coordinator) = self.coordinator.as_mut().filter(|c| c.number == life) {
                    coordinator.flush(&mut self.disk);
                    self.at(100, Happening::Flush(life));
                }
            }
            Happening::TrainerStarts(place) => self.trainer_starts(place),
            Happening::TrainerTick(process) => {
                self.session(process, Input::Tick);
                self.at(25, Happening::TrainerTick(process));
            }
            Happening::Up(stream, message) => self.up(stream, *message),
            Happening::UpBroken(stream) => {
                let event =
                    Event::Broken { connection: ConnectionId(stream.number), reason: "connection reset".into() };
                self.tell_coordinator(stream.life, event);
            }
            Happening::Down(stream, message) => {
                if self.places[stream.process.0].stream == Some(stream) {
                    self.session(stream.process, Input::Received(message));
                }
            }
            Happening::StreamOpen(stream) => {
                if self.coordinator.as_ref().is_some_and(|life| life.number == stream.life) {
                    self.places[stream.process.0].stream = Some(stream);
                    self.session(stream.process, Input::Opened);
                } else {
                    self.session(stream.process, Input::Broken("connection refused".into()));
                }
            }
            Happening::StreamBroken(stream) => {
                if self.places[stream.process.0].stream == Some(stream) {
                    self.places[stream.process.0].stream = None;
                    self.session(stream.process, Input::Broken("connection reset".into()));
                }
            }
            Happening::Timer(process, timer) => {
                self.with(process, |trainer, now, world| trainer.timer(&timer, now, world));
            }
            Happening::Connected(process, generation) => {
                if self.places[process.0].generation == generation {
                    self.with(process, |trainer, now, world| trainer.connected(now, world));
                }
            }
            Happening::Sum(process, step, taint) => {
                self.with(process, |trainer, now, world| trainer.summed(step, taint, now, world));
            }
            Happening::Severed(process) => self.with(process, |trainer, now, world| trainer.severed(now, world)),
            Happening::Written(process, step, state, equilibrium) => {
                let full = self.now < self.disk_full_until;
                if !full {
                    self.disk.checkpoints.insert(step, (state, *equilibrium, false));
                }
                // The last checkpoint is tried again until there is room.
                if full && step >= self.truth.config.run.steps {
                    return self.at(500, Happening::Written(process, step, state, equilibrium));
                }
                let error = if full { "no space left on device" } else { "" };
                self.with(process, |trainer, now, world| trainer.written(step, error, now, world));
            }
            Happening::Resume(process) => {
                if self.alive(process) {
                    for happening in self.places[process.0].hung.take().unwrap_or_default() {
                        self.happen(happening);
                    }
                }
            }
            Happening::Fault => self.fault(),
            Happening::Flip => self.flip(),
        }
    }
}
