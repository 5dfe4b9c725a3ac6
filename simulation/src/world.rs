//! The world of a history: the clock, the network, the processes and the disk.
//!
//! Everything that happens stands in one queue by its time; whatever happens is drawn from the seed. The network keeps the
//! order of a stream and nothing else; a process that is stopped finds all that came meanwhile when it goes on.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, VecDeque};
use std::time::Duration;

use ::coordinator::machine::{ConnectionId, Event};
use began::Equilibrium;
use began::config::RunConfig;
use began_proto::v1::{CoordinatorMessage, TrainerMessage};
use began_session::Input;

use crate::coordinator::{Disk, Effect, Life};
use crate::dice::Dice;
use crate::faults::{Fault, KINDS};
use crate::peers::{Peers, Process, Told};
use crate::trainer::{Surroundings, Timer, Trainer, Wish};
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
    Mend(usize),
    Fault,
    DiskMended,
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
#[derive(Clone, Debug)]
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
        let place = |_| Place {
            life: 0,
            trainer: None,
            stream: None,
            generation: 0,
            hung: None,
            cut_until: 0,
            aside: false,
        };
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
            Happening::Mend(_) | Happening::DiskMended => {}
            Happening::Fault => self.fault(),
            Happening::Flip => self.flip(),
        }
    }

    fn coordinator_starts(&mut self) {
        self.lives += 1;
        let number = self.lives;
        let now = self.clock();
        let life = Life::start(number, &self.truth, &mut self.disk, self.world, now);
        if self.verbose {
            eprintln!("{:>7} ms  coordinator life {number}", self.now);
        }
        self.coordinator = Some(life);
        self.tell_coordinator(number, Event::Started);
        self.at(25, Happening::CoordinatorTick(number));
        self.at(100, Happening::Flush(number));
    }

    fn tell_coordinator(&mut self, life: u64, event: Event) -> Option<Duration> {
        let now = self.clock();
        let coordinator = self.coordinator.as_mut().filter(|c| c.number == life)?;
        if self.verbose && !matches!(event, Event::Tick) {
            let text = format!("{event:?}");
            if !text.contains("Heartbeat") {
                eprintln!("{:>7} ms  {:.400}", self.now, text);
            }
        }
        let effects = coordinator.tell(event, now, &self.truth, &mut self.disk);
        let tick = coordinator.machine.tick_interval();
        self.take_effect(life, effects);
        Some(tick)
    }

    fn up(&mut self, stream: Stream, message: TrainerMessage) {
        let now = self.clock();
        let Some(coordinator) = self.coordinator.as_mut().filter(|c| c.number == stream.life) else { return };
        if self.verbose {
            let text = format!("{:?}", message.body);
            if !text.contains("Heartbeat") {
                eprintln!("{:>7} ms  trainer {} says g{} {:.300}", self.now, stream.process.0, message.generation, text);
            }
        }
        let effects = coordinator.receive(ConnectionId(stream.number), message, now, &self.truth, &mut self.disk);
        self.take_effect(stream.life, effects);
    }

    fn take_effect(&mut self, life: u64, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::Send(on, message) => {
                    if self.verbose {
                        eprintln!("{:>7} ms    to stream {}: g{} {:.300}", self.now, on.0, message.generation, format!("{:?}", message.body));
                    }
                    if let Some(stream) = self.stream(on.0) {
                        let delay = self.delay_down(stream);
                        self.at(delay, Happening::Down(stream, message));
                    }
                }
                Effect::Close(on) => {
                    if let Some(stream) = self.stream(on.0) {
                        let delay = self.delay_down(stream);
                        self.at(delay, Happening::StreamBroken(stream));
                    }
                }
                Effect::Remove(step) => drop(self.disk.checkpoints.remove(&step)),
                Effect::RemoveAbove(step) => drop(self.disk.checkpoints.split_off(&(step + 1))),
            }
        }
        let Some(coordinator) = self.coordinator.as_ref().filter(|c| c.number == life) else { return };
        if let Some(ended) = &coordinator.ended {
            self.result = Some(ended.clone());
        }
    }

    fn stream(&self, number: u64) -> Option<Stream> {
        self.places.iter().filter_map(|place| place.stream).find(|stream| stream.number == number)
    }

    fn latency(&mut self) -> u64 {
        if self.dice.one_in(200) { self.dice.below(700) } else { self.dice.below(12) }
    }

    /// In order, and not before a cut is mended.
    fn delay_down(&mut self, stream: Stream) -> u64 {
        let latency = self.latency();
        let open = self.places[stream.process.0].cut_until.saturating_sub(self.now);
        let last = self.last_down.entry(stream).or_default();
        *last = (*last).max(self.now + latency.max(open));
        *last - self.now
    }

    fn delay_up(&mut self, stream: Stream) -> u64 {
        let latency = self.latency();
        let open = self.places[stream.process.0].cut_until.saturating_sub(self.now);
        let last = self.last_up.entry(stream).or_default();
        *last = (*last).max(self.now + latency.max(open));
        *last - self.now
    }

    fn trainer_starts(&mut self, place: usize) {
        if self.places[place].trainer.is_some() || self.places[place].aside {
            return;
        }
        let now = self.clock();
        let spot = &mut self.places[place];
        spot.life += 1;
        spot.generation = 0;
        spot.hung = None;
        spot.trainer = Some(Trainer::start(place, spot.life, &self.truth, now));
        let process = (place, spot.life);
        self.at(0, Happening::TrainerTick(process));
    }

    fn session(&mut self, process: Process, input: Input) {
        self.with(process, |trainer, now, world| trainer.session(input, now, world));
    }

    /// Lets a trainer act, and grants what it wishes.
    fn with(&mut self, process: Process, act: impl FnOnce(&mut Trainer, Duration, &mut dyn Surroundings) -> Vec<Wish>) {
        if !self.alive(process) {
            return;
        }
        let now = self.clock();
        let Some(mut trainer) = self.places[process.0].trainer.take() else { return };
        let wishes = act(&mut trainer, now, self);
        self.places[process.0].trainer = Some(trainer);
        for wish in wishes {
            self.grant(process, wish);
        }
    }

    fn grant(&mut self, process: Process, wish: Wish) {
        if !self.alive(process) {
            return;
        }
        match wish {
            Wish::Later(delay, timer) => self.at(delay, Happening::Timer(process, timer)),
            Wish::Join { generation, rank, size } => {
                self.places[process.0].generation = generation;
                let told = self.peers.join(generation, rank, size as usize, process);
                self.tell_peers(generation, told);
            }
            Wish::Add { generation, rank, step } => {
                if let Some((_, state)) = self.places[process.0].trainer.as_ref().and_then(|trainer| trainer.state)
                    && state != self.truth.states[step as usize]
                {
                    *self.taints.entry((generation, step)).or_default() ^= state | 1;
                }
                let told = self.peers.add(generation, rank, step);
                self.tell_peers(generation, told);
            }
            Wish::Leave { generation } => {
                let told = self.peers.leave(generation, process, true);
                self.tell_peers(generation, told);
            }
            Wish::Write { step, state, equilibrium } => {
                let delay = self.dice.between(5, 300);
                self.at(delay, Happening::Written(process, step, state, equilibrium));
            }
            Wish::Connect => self.connect(process),
            Wish::Disconnect => {
                if let Some(stream) = self.places[process.0].stream.take() {
                    let delay = self.delay_up(stream);
                    self.at(delay, Happening::UpBroken(stream));
                }
            }
            Wish::Send(message) => {
                if let Some(stream) = self.places[process.0].stream {
                    let delay = self.delay_up(stream);
                    if self.dice.one_in(60) {
                        self.at(delay, Happening::Up(stream, message.clone()));
                    }
                    self.at(delay, Happening::Up(stream, message));
                }
            }
            Wish::Exit(code) => {
                self.die(process.0);
                if code == 5 {
                    self.places[process.0].aside = true;
                } else if code != 0 && code != 3 {
                    let delay = self.dice.between(200, 1_500);
                    self.at(delay, Happening::TrainerStarts(process.0));
                }
            }
        }
    }

    fn connect(&mut self, process: Process) {
        let life = self.lives;
        self.next += 1;
        let stream = Stream { process, life, number: self.next };
        let cut = self.now < self.places[process.0].cut_until;
        if cut || self.coordinator.is_none() {
            // Refused, or nothing answers.
            self.places[process.0].stream = Some(stream);
            let delay = if cut { 1_000 } else { self.dice.below(10) };
            return self.at(delay, Happening::StreamBroken(stream));
        }
        let delay = self.latency();
        self.at(delay, Happening::StreamOpen(stream));
    }

    fn tell_peers(&mut self, generation: u64, told: Vec<Told>) {
        let taint = |world: &Self, step| world.taints.get(&(generation, step)).copied().unwrap_or_default();
        // Those who are cut off hear it when they are not any more; and nobody hears of their part before.
        let cut = |told: &Told| {
            let (Told::Connected(process) | Told::Sum(process, _) | Told::Severed(process)) = told;
            self.places[process.0].cut_until
        };
        let all_reach = told.iter().map(cut).max().unwrap_or_default();
        for told in told {
            let wait = all_reach.saturating_sub(self.now);
            let delay = wait + self.dice.below(25);
            match told {
                Told::Connected(process) => self.at(delay, Happening::Connected(process, generation)),
                Told::Sum(process, step) => {
                    let taint = taint(self, step);
                    self.at(delay, Happening::Sum(process, step, taint));
                }
                Told::Severed(process) => self.at(delay, Happening::Severed(process)),
            }
        }
    }

    /// A process is gone.
    fn die(&mut self, place: usize) {
        let process = (place, self.places[place].life);
        if self.places[place].trainer.take().is_none() {
            return;
        }
        self.places[place].hung = None;
        if let Some(stream) = self.places[place].stream.take() {
            let delay = self.delay_up(stream);
            self.at(delay, Happening::UpBroken(stream));
        }
        let generation = self.places[place].generation;
        let told = self.peers.leave(generation, process, false);
        self.tell_peers(generation, told);
        // Of the sums that are on their way, some do not arrive any more: a part of each came from the dead.
        let mut lost = Vec::new();
        for (&number, happening) in &self.happenings {
            if let Happening::Sum(other, ..) = happening
                && self.places[other.0].generation == generation
                && self.dice.one_in(2)
            {
                lost.push((number, *other));
            }
        }
        for (number, other) in lost {
            self.happenings.insert(number, Happening::Severed(other));
        }
    }

    fn kill(&mut self, place: usize) {
        self.die(place);
        let delay = if self.dice.one_in(6) { self.dice.between(1_000, 8_000) } else { self.dice.between(200, 1_500) };
        self.at(delay, Happening::TrainerStarts(place));
    }

    fn fault(&mut self) {
        let fault = Fault::draw(&mut self.dice, self.places.len());
        self.faults[fault.kind()] += 1;
        if self.verbose {
            eprintln!("{:>7} ms  FAULT {fault:?}", self.now);
        }
        match fault {
            Fault::Kill(place) => self.kill(place),
            Fault::KillTwo(one, other) => {
                self.kill(one);
                self.kill(other);
            }
            Fault::KillAll => (0..self.places.len()).for_each(|place| self.kill(place)),
            Fault::Hang(place, time) => {
                let process = (place, self.places[place].life);
                if self.alive(process) && self.places[place].hung.is_none() {
                    self.places[place].hung = Some(VecDeque::new());
                    self.at(time, Happening::Resume(process));
                }
            }
            Fault::Cut(place, time) => {
                self.places[place].cut_until = self.places[place].cut_until.max(self.now + time);
                if time > STREAM_DIES
                    && let Some(stream) = self.places[place].stream
                {
                    self.at(STREAM_DIES, Happening::StreamBroken(stream));
                    self.at(time.max(10_000), Happening::UpBroken(stream));
                }
                self.at(time, Happening::Mend(place));
            }
            Fault::Break(place) => {
                if let Some(stream) = self.places[place].stream {
                    let delay = self.latency();
                    self.at(delay, Happening::StreamBroken(stream));
                    let delay = self.delay_up(stream);
                    self.at(delay, Happening::UpBroken(stream));
                }
            }
            Fault::Coordinator => self.kill_coordinator(),
            Fault::DiskFull(time) => {
                self.disk_full_until = self.disk_full_until.max(self.now + time);
                self.at(time, Happening::DiskMended);
            }
            Fault::Tear => {
                if let Some((step, mut last)) = self.disk.checkpoints.pop_last() {
                    // What is damaged after the end is nobody's here.
                    last.2 = step < self.truth.config.run.steps;
                    self.disk.checkpoints.insert(step, last);
                }
            }
            Fault::Join => self.join(),
        }
        let next = if self.dice.one_in(4) { self.dice.below(300) } else { self.dice.between(300, 4_000) };
        if self.now + next < self.trouble {
            self.at(next, Happening::Fault);
        }
    }

    fn kill_coordinator(&mut self) {
        if let Some(life) = self.coordinator.take() {
            life.replay();
            // The next one may not know of a generation that this one opened last; both cannot go on under one coordinator.
            self.peers.newest = 0;
            for place in 0..self.places.len() {
                if let Some(stream) = self.places[place].stream {
                    let delay = self.latency();
                    self.at(delay, Happening::StreamBroken(stream));
                }
            }
            let delay = self.dice.between(50, 2_500);
            self.at(delay, Happening::CoordinatorStarts);
        }
    }

    fn join(&mut self) {
        if self.places.len() > 8 {
            return;
        }
        self.places.push(Place {
            life: 0,
            trainer: None,
            stream: None,
            generation: 0,
            hung: None,
            cut_until: 0,
            aside: false,
        });
        let place = self.places.len() - 1;
        self.at(1, Happening::TrainerStarts(place));
    }

    /// One bit of one trainer's state.
    fn flip(&mut self) {
        self.faults[10] += 1;
        let place = self.dice.below(self.places.len() as u64) as usize;
        let bit = self.dice.below(60);
        if self.verbose {
            eprintln!("{:>7} ms  FLIP of bit {bit} at trainer {place}", self.now);
        }
        if let Some(state) = self.places[place].trainer.as_mut().and_then(|trainer| trainer.state.as_mut()) {
            state.1 ^= 1 << bit;
        }
    }
}

impl Surroundings for World {
    fn dice(&mut self) -> &mut Dice {
        &mut self.dice
    }

    fn truth(&self) -> &Truth {
        &self.truth
    }

    fn peer_state(&self, step: u64) -> u64 {
        if step == 0 {
            return self.truth.states[0];
        }
        let held = self.places.iter().filter_map(|place| place.trainer.as_ref()?.state);
        held.filter(|(held, _)| *held == step).map(|(_, state)| state).next().unwrap_or(self.truth.states[step as usize])
    }

    fn read_checkpoint(&self, step: u64) -> Option<u64> {
        if step == 0 {
            return Some(self.truth.states[0]);
        }
        self.disk.checkpoints.get(&step).filter(|(.., damaged)| !damaged).map(|(state, ..)| *state)
    }

    fn committed(&mut self, step: u64, state: u64) {
        if !self.flips {
            assert_eq!(state, self.truth.states[step as usize + 1], "step {step} was committed to another state");
        }
    }
}
