//! Made-up histories by the thousand: trainers, a network and faults drawn from a seed, and what must hold in all of them.
//!
//! | always | |
//! | --- | --- |
//! | the equilibrium | is the undisturbed run's, to the bit, for every step and every trainer |
//! | steps | are recorded once each, in order |
//! | the end | comes, exactly once and last, within a bound |
//! | a refused message | changes nothing |
//! | a trainer lost | costs no step that a healthy survivor held |

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use began::lanes::lanes_of;
use began::{Equilibrium, Generation, Lane, LaneLosses, Rank, Step};

use super::event::*;
use super::made_up::{RUN, hello, loss, losses, plan, truth};
use super::*;

/// Splitmix64: all that a history needs of randomness.
struct Dice(u64);

impl Dice {
    fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, end: u64) -> u64 {
        self.roll() % end
    }

    fn one_in(&mut self, many: u64) -> bool {
        self.below(many) == 0
    }
}

/// What goes wrong in a history.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    Nothing,
    Killed,
    Hung,
    Failed,
    Diverged,
    OtherDigest,
    DiskFull,
    Stopped,
    Late,
}

const FAULTS: [Fault; 9] = [
    Fault::Nothing,
    Fault::Killed,
    Fault::Hung,
    Fault::Failed,
    Fault::Diverged,
    Fault::OtherDigest,
    Fault::DiskFull,
    Fault::Stopped,
    Fault::Late,
];

/// Where a trainer is in its step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum At {
    Outside,
    Compute,
    Reduce,
    Orders,
    Waiting,
    Halted,
    Gone,
}

struct Trainer {
    at: At,
    rank: u32,
    step: Step,
    given: BTreeMap<Step, Given>,
    generation: Generation,
    alive: bool,
    hung: bool,
    heartbeat: Duration,
    /// Messages under way to the machine, with when they arrive: in order, as a stream delivers them.
    up: VecDeque<(Duration, Event)>,
    down: VecDeque<(Duration, Message)>,
    write: Option<(Duration, Step)>,
}

struct World {
    seed: u64,
    dice: Dice,
    machine: Machine,
    now: Duration,
    lanes: u32,
    trainers: Vec<Trainer>,
    /// Who has put its part into the sum of a step.
    reduced: BTreeMap<Step, BTreeSet<u32>>,
    truth: Vec<Equilibrium>,
    recorded: Vec<Step>,
    ended: Option<(bool, String)>,
    fault: Fault,
    victim: usize,
    fault_step: Step,
    asked_to_stop: bool,
}

impl World {
    fn new(seed: u64) -> Self {
        let mut dice = Dice(seed);
        let world = 1 + dice.below(5) as u32;
        let lanes = world + dice.below(5) as u32;
        let generation = Generation(dice.below(3));
        let resume = dice.below(12);
        let plan = plan(world, lanes, |plan| {
            plan.generation = generation;
            plan.config.run.checkpoint_every = dice.below(9);
            plan.config.run.digest_every = dice.below(6);
            plan.config.run.sample_every = dice.below(11);
            if resume > 5 {
                let equilibrium = truth(plan)[resume as usize];
                plan.resume = Some(Resume { path: "checkpoints/x".into(), equilibrium });
                plan.checkpoints = vec![Step(resume)];
            }
        });
        let truth = truth(&plan);
        let trainer = || Trainer {
            at: At::Outside,
            rank: 0,
            step: Step(0),
            given: BTreeMap::new(),
            generation: Generation(0),
            alive: true,
            hung: false,
            heartbeat: Duration::ZERO,
            up: VecDeque::new(),
            down: VecDeque::new(),
            write: None,
        };
        let fault = FAULTS[dice.below(FAULTS.len() as u64) as usize];
        let mut all = Self {
            seed,
            now: Duration::ZERO,
            lanes,
            trainers: (0..world).map(|_| trainer()).collect(),
            reduced: BTreeMap::new(),
            truth,
            recorded: Vec::new(),
            ended: None,
            fault,
            victim: dice.below(world.into()) as usize,
            fault_step: Step(dice.below(30)),
            asked_to_stop: false,
            machine: Machine::new(plan).unwrap(),
            dice,
        };
        all.handle(Event::Started);
        for index in 0..world {
            let late = all.fault == Fault::Late && index as usize == all.victim;
            let delay = Duration::from_millis(if late { 6_000 } else { all.dice.below(500) });
            let message = Said { run: String::new(), generation: Generation(0), body: Body::Hello(hello(index)) };
            let event = Event::Said { connection: ConnectionId(index.into()), message };
            all.trainers[index as usize].up.push_back((delay, event));
        }
        all
    }

    /// Plays the history to its end.
    fn play(&mut self) {
        // Forming, thirty steps, and the bounds of a halt, with room to spare: longer than this, something waits forever.
        let bound = Duration::from_secs(5 + 60 + 20 + 10 + 60 + 20);
        while self.ended.is_none() {
            assert!(self.now < bound, "seed {}: {:?} never ends: {}", self.seed, self.fault, self.machine.reason);
            self.tick();
        }
        // What comes after the end changes nothing.
        for _ in 0..20 {
            self.tick();
        }
        self.judge();
    }

    fn tick(&mut self) {
        self.now += Duration::from_millis(20);
        for index in 0..self.trainers.len() {
            self.live(index);
            while let Some((at, _)) = self.trainers[index].up.front()
                && *at <= self.now
            {
                let Some((_, event)) = self.trainers[index].up.pop_front() else {
                    break;
                };
                self.handle(event);
            }
        }
        if self.dice.one_in(20) {
            self.babble();
        }
        if self.now.as_millis().is_multiple_of(100) {
            self.handle(Event::Tick);
        }
    }

    /// One trainer does what it does in 20 ms.
    fn live(&mut self, index: usize) {
        let now = self.now;
        let trainer = &mut self.trainers[index];
        if !trainer.alive || trainer.hung {
            return;
        }
        if trainer.at != At::Gone && trainer.heartbeat <= now {
            trainer.heartbeat = now + Duration::from_millis(250);
            let beat = Heartbeat { activity: Activity::Compute, seconds: 0.1, step: trainer.step };
            self.say(index, Body::Heartbeat(beat));
        }
        while let Some((at, _)) = self.trainers[index].down.front()
            && *at <= now
        {
            let Some((_, message)) = self.trainers[index].down.pop_front() else {
                break;
            };
            self.hear(index, message);
        }
        if index == self.victim && self.trainers[index].step >= self.fault_step && self.strike(index) {
            return;
        }
        if self.dice.one_in(2) {
            self.work(index);
        }
        if let Some((due, step)) = self.trainers[index].write
            && due <= now
        {
            self.trainers[index].write = None;
            let full = self.fault == Fault::DiskFull && index == self.victim;
            let error = if full { "no space left on device".into() } else { String::new() };
            self.say(index, Body::Checkpoint(Written { step, error }));
        }
    }

    /// The fault of this history, when its time has come; true if the trainer does nothing more.
    fn strike(&mut self, index: usize) -> bool {
        match self.fault {
            Fault::Killed if self.dice.one_in(3) => {
                self.trainers[index].alive = false;
                // What it said last may be lost with it.
                if self.dice.one_in(2) {
                    self.trainers[index].up.clear();
                }
                let event = Event::Broken { connection: ConnectionId(index as u64), reason: "reset".into() };
                let at = self.now + Duration::from_millis(self.dice.below(100));
                self.trainers[index].up.push_back((at, event));
                true
            }
            Fault::Hung if self.dice.one_in(3) => {
                self.trainers[index].hung = true;
                true
            }
            Fault::Failed => {
                self.say(index, Body::Failure("out of memory".into()));
                self.trainers[index].alive = false;
                true
            }
            Fault::Stopped if !self.asked_to_stop => {
                self.asked_to_stop = true;
                let action = [Action::Checkpoint, Action::Sample, Action::Stop][self.dice.below(3) as usize];
                self.handle(Event::Control { ticket: Ticket(0), action: Action::Stop, reason: "a person".into() });
                self.handle(Event::Control { ticket: Ticket(1), action, reason: "another".into() });
                false
            }
            _ => false,
        }
    }

    fn say(&mut self, index: usize, body: Body) {
        let delay = Duration::from_millis(self.dice.below(30));
        let again = self.dice.one_in(30) && matches!(body, Body::Losses { .. } | Body::Held { .. });
        let trainer = &mut self.trainers[index];
        let at = (self.now + delay).max(trainer.up.back().map_or(Duration::ZERO, |(at, _)| *at));
        let message = Said { run: RUN.into(), generation: trainer.generation, body };
        let event = Event::Said { connection: ConnectionId(index as u64), message };
        if again {
            trainer.up.push_back((at, event.clone()));
        }
        trainer.up.push_back((at, event));
    }

    fn hear(&mut self, index: usize, message: Message) {
        let trainer = &mut self.trainers[index];
        match message {
            Message::Opened(opened) => {
                trainer.rank = opened.rank.0;
                trainer.step = opened.given.equilibrium.step;
                trainer.given.insert(trainer.step, opened.given);
                trainer.generation = self.machine.generation();
                trainer.at = At::Compute;
            }
            Message::Equilibrium(given) => {
                trainer.given.insert(given.equilibrium.step, given);
            }
            Message::Halt if trainer.at != At::Gone => {
                trainer.at = At::Halted;
                let step = trainer.step;
                let before = Step(step.0.saturating_sub(1));
                let all = if step.0 == 0 { vec![] } else { losses(before, 0..self.lanes) };
                self.say(index, Body::Held { step, losses: all });
            }
            Message::WriteCheckpoint(given) => {
                assert_eq!(given.equilibrium, self.truth[trainer.step.0 as usize], "seed {}", self.seed);
                trainer.write = Some((self.now + Duration::from_millis(300), trainer.step));
            }
            Message::Stop { .. } => trainer.at = At::Gone,
            Message::Welcome | Message::Lease(_) | Message::Halt => {}
        }
    }

    fn work(&mut self, index: usize) {
        let world = self.trainers.len();
        let Trainer { at, rank, step, .. } = self.trainers[index];
        match at {
            At::Compute if self.trainers[index].given.contains_key(&step) => {
                let mut own = losses(step, lanes_of(Rank(rank), world as u32, self.lanes));
                if self.fault == Fault::Diverged && index == self.victim && step >= self.fault_step {
                    own[0].1.real = f64::NAN;
                }
                self.say(index, Body::Losses { step, lanes: own });
                self.reduced.entry(step).or_default().insert(rank);
                self.trainers[index].at = At::Reduce;
            }
            At::Reduce if self.reduced.get(&step).is_some_and(|all| all.len() == world) => {
                self.trainers[index].step = step.next();
                self.trainers[index].at = At::Orders;
            }
            At::Orders => {
                let given = &self.trainers[index].given;
                let orders = given[&Step(step.0 - 1)].orders;
                if (orders.digest || orders.checkpoint) && !given.contains_key(&step) {
                    return;
                }
                if orders.digest {
                    let other = self.fault == Fault::OtherDigest && index == self.victim && step >= self.fault_step;
                    let digest = if other { "other".into() } else { format!("digest {step}") };
                    self.say(index, Body::Digest(Digest { step, digest, tensors: vec![] }));
                }
                if rank == 0 && orders.checkpoint {
                    self.trainers[index].write = Some((self.now, step));
                }
                if rank == 0 && orders.sample {
                    self.say(index, Body::Sample(Written { step, error: String::new() }));
                }
                self.trainers[index].at = if orders.stop { At::Waiting } else { At::Compute };
            }
            _ => {}
        }
    }

    /// A message that must be refused, from someone who may or may not be in the run.
    fn babble(&mut self) {
        if self.machine.has_ended() {
            return;
        }
        let connection = ConnectionId(self.dice.below(self.trainers.len() as u64 + 2));
        let generation = self.machine.generation();
        let lane = Lane(self.dice.below(u64::from(self.lanes) + 3) as u32);
        let far = Step(self.machine.step().0 + 2 + self.dice.below(1 << 50));
        let wrong = vec![(lane, LaneLosses { real: -1.0, fake: f64::INFINITY, drawn: 0 })];
        let (body, generation) = match self.dice.below(7) {
            0 => (Body::Losses { step: far, lanes: wrong }, generation),
            1 => (Body::Losses { step: self.machine.step(), lanes: vec![] }, generation),
            2 => {
                let lane = Lane(self.lanes + lane.0);
                (Body::Losses { step: self.machine.step(), lanes: vec![(lane, loss(Step(0), 0))] }, generation)
            }
            3 => (Body::Digest(Digest { step: far, digest: "x".into(), tensors: vec![] }), generation),
            4 => (Body::Checkpoint(Written { step: far, error: String::new() }), generation),
            5 => (Body::Held { step: far, losses: wrong }, generation),
            _ => (Body::Losses { step: self.machine.step(), lanes: wrong }, Generation(generation.0 + 7)),
        };
        let message = Said { run: RUN.into(), generation, body };
        let before = fingerprint(&self.machine);
        let decisions = self.machine.handle(Event::Said { connection, message: message.clone() }, self.now);
        let refused = decisions.iter().all(|decision| matches!(decision.act, Act::Ignore(_)));
        assert!(refused, "seed {}: {message:?} led to {decisions:?}", self.seed);
        assert_eq!(before, fingerprint(&self.machine), "seed {}: {message:?} changed something", self.seed);
    }

    fn handle(&mut self, event: Event) {
        let over = self.ended.is_some();
        let decisions = self.machine.handle(event, self.now);
        let count = decisions.len();
        for (place, Decision { act, why }) in decisions.into_iter().enumerate() {
            assert!(!why.is_empty(), "seed {}: {act:?} without a reason", self.seed);
            match act {
                Act::Send { to, message } => {
                    assert!(!over || matches!(message, Message::Stop { .. }), "seed {}: {message:?}", self.seed);
                    self.check(&message);
                    for ConnectionId(index) in to {
                        let delay = Duration::from_millis(self.dice.below(30));
                        let trainer = &mut self.trainers[index as usize];
                        let at = (self.now + delay).max(trainer.down.back().map_or(Duration::ZERO, |(at, _)| *at));
                        trainer.down.push_back((at, message.clone()));
                    }
                }
                Act::Step { record, .. } => {
                    assert_eq!(record.k, self.truth[record.step.0 as usize].k, "seed {}", self.seed);
                    self.recorded.push(record.step);
                }
                // Nothing that an honest trainer says may be refused while it is in the run.
                Act::Ignore(_) => assert!(why.contains("not in the run"), "seed {}: ignored: {why}", self.seed),
                Act::End { failed, .. } => {
                    assert!(!over && self.ended.is_none(), "seed {}: a second end", self.seed);
                    assert_eq!(place, count - 1, "seed {}: something after the end", self.seed);
                    self.ended = Some((failed, why));
                }
                _ => {}
            }
        }
    }

    fn check(&self, message: &Message) {
        let given = match message {
            Message::Equilibrium(given) | Message::WriteCheckpoint(given) => given,
            Message::Opened(opened) => &opened.given,
            _ => return,
        };
        let expected = self.truth[given.equilibrium.step.0 as usize];
        assert_eq!(given.equilibrium, expected, "seed {}: another equilibrium", self.seed);
    }

    fn judge(&self) {
        let (seed, fault) = (self.seed, self.fault);
        let Some((failed, why)) = &self.ended else { panic!("seed {seed}: no end") };
        let about = || format!("seed {seed}, {fault:?}: {why}");
        let start = self.machine.plan.start().step.0;
        let all: Vec<Step> = (start..start + self.recorded.len() as u64).map(Step).collect();
        assert_eq!(self.recorded, all, "{}", about());
        let highest = Step(start + self.recorded.len() as u64);
        let saved = self.machine.checkpoints.last().copied();
        let steps = self.machine.plan.config.run.steps;
        let struck = self.trainers[self.victim].step >= self.fault_step;
        match fault {
            Fault::Nothing => {
                assert!(!failed && highest == Step(steps) && saved == Some(highest), "{}", about());
            }
            Fault::Stopped => {
                // Asked for before the first step, there is nothing to save.
                assert!(!failed && saved.unwrap_or(Step(start)) == highest, "{}", about());
                assert!(highest == Step(steps) || why.contains("a person"), "{}", about());
            }
            Fault::Late => {
                assert!(*failed && why.contains("trainers came within 5 s") && self.recorded.is_empty(), "{}", about())
            }
            Fault::Diverged if struck => {
                assert!(*failed && why.contains("diverged"), "{}", about())
            }
            Fault::Killed | Fault::Hung | Fault::Failed if *failed => {
                // No step that a healthy survivor held is lost.
                let healthy = self.trainers.iter().filter(|trainer| trainer.alive && !trainer.hung);
                let held = healthy.map(|trainer| trainer.step.0).max().unwrap_or(start);
                assert!(saved.map_or(0, |step| step.0) >= if held > start { held } else { 0 }, "{}", about());
                let named = why.contains("local rank") || why.contains("trainers came within");
                let advised = why.contains("launcher resume") || why.contains("no checkpoint to go on from");
                assert!(advised && named, "{}", about());
            }
            Fault::OtherDigest if *failed => assert!(why.contains("digest"), "{}", about()),
            Fault::DiskFull if *failed => assert!(why.contains("no space left"), "{}", about()),
            _ => assert!(!failed, "{}", about()),
        }
    }
}

/// All of a machine's state that decisions hang on; when each trainer was last heard does not count as such here.
fn fingerprint(machine: &Machine) -> String {
    let mut machine = machine.clone();
    machine.clock = Clock::new(Duration::ZERO);
    for connection in machine.members.connections() {
        if let Some(member) = machine.members.on_mut(connection) {
            member.heard = Duration::ZERO;
        }
    }
    format!("{machine:?}")
}

#[test]
fn in_three_thousand_histories_every_promise_is_kept() {
    let mut ends = BTreeMap::new();
    for seed in 0..3_000 {
        let mut world = World::new(seed);
        world.play();
        let failed = world.ended.as_ref().is_some_and(|(failed, _)| *failed);
        *ends.entry((format!("{:?}", world.fault), failed)).or_insert(0) += 1;
    }
    // The histories are worth something only if faults strike in most of those that have one.
    for fault in ["Killed", "Hung", "Failed", "Diverged", "OtherDigest", "Late"] {
        assert!(ends.get(&(fault.to_owned(), true)).is_some_and(|&count| count > 50), "{fault}: {ends:?}");
    }
}
