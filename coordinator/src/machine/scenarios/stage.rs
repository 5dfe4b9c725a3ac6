//! A machine with its trainers, driven by hand. What the machine sends them is taken in; what they say, the test decides.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use began::lanes::lanes_of;
use began::{Equilibrium, Generation, Rank, Step};

use super::trainer::Trainer;
use crate::machine::event::*;
use crate::machine::made_up::{RUN, Truth, all_losses, hello, losses, plan};
use crate::machine::{Decisions, Machine, Phase, Plan, Resume, Status};

/// What outlives a coordinator.
#[derive(Clone, Debug, Default)]
pub(super) struct Disk {
    pub(super) recorded: Step,
    pub(super) digested: Step,
    pub(super) generation: Generation,
    pub(super) checkpoints: BTreeMap<Step, Equilibrium>,
    lineage: u64,
    rollbacks: u32,
    lowered: BTreeMap<Step, f64>,
}

impl Disk {
    fn goes_back(&mut self, back: &Back) {
        let Back { to, lineage, rate } = *back;
        self.checkpoints.retain(|other, _| *other <= to);
        self.lineage = lineage;
        self.digested = self.digested.min(to);
        self.lowered.split_off(&to.next());
        if let Some(rate) = rate {
            self.rollbacks += 1;
            self.lowered.insert(to, rate);
            if let Some(equilibrium) = self.checkpoints.get_mut(&to) {
                equilibrium.rate = rate;
            }
        }
    }
}

/// See the module.
pub(super) struct Stage {
    pub(super) machine: Machine,
    pub(super) now: Duration,
    pub(super) plan: Plan,
    pub(super) truth: Truth,
    pub(super) disk: Disk,
    /// Whether every step must be the undisturbed run's: not after a guard has lowered the rate.
    pub(super) exact: bool,
    /// The time that the machine itself took.
    pub(super) spent: Duration,
    trainers: BTreeMap<u32, Trainer>,
    next_stream: u64,
    told: Vec<(Event, Duration, Decisions)>,
}

impl Stage {
    pub(super) fn new(world: u32, lanes: u32, change: impl FnOnce(&mut Plan)) -> Self {
        let plan = plan(world, lanes, change);
        let mut stage = Self {
            machine: Machine::new(plan.clone()).unwrap(),
            now: Duration::ZERO,
            truth: Truth::of(&plan),
            disk: Disk { generation: plan.generation, checkpoints: plan.checkpoints.clone(), ..Disk::default() },
            plan,
            exact: true,
            spent: Duration::ZERO,
            trainers: BTreeMap::new(),
            next_stream: 1_000,
            told: Vec::new(),
        };
        stage.event(Event::Started);
        stage
    }

    /// All trainers are in.
    pub(super) fn formed(world: u32, lanes: u32, change: impl FnOnce(&mut Plan)) -> Self {
        let mut stage = Self::new(world, lanes, change);
        (0..world).for_each(|index| drop(stage.joins(index)));
        assert_eq!(stage.phase(), "running");
        stage
    }

    /// All trainers are in, and have done so many steps.
    pub(super) fn trained(world: u32, lanes: u32, steps: u64, change: impl FnOnce(&mut Plan)) -> Self {
        let mut stage = Self::formed(world, lanes, change);
        (0..steps).for_each(|step| drop(stage.step(step)));
        stage
    }

    // ---- What happens to the machine -----------------------------------------------------------------------------

    pub(super) fn event(&mut self, event: Event) -> Decisions {
        let before = matches!(event, Event::Tick).then(|| format!("{:?}", self.machine));
        let began = Instant::now();
        let decisions = self.machine.handle(event.clone(), self.now);
        self.spent += began.elapsed();
        if let Some(before) = before.filter(|_| decisions.is_empty()) {
            assert_eq!(before, format!("{:?}", self.machine), "a tick that decided nothing has changed something");
        }
        assert!(decisions.iter().all(|decision| !decision.why.is_empty()), "no reason given: {decisions:?}");
        self.told.push((event, self.now, decisions.clone()));
        decisions.iter().for_each(|decision| self.carry_out(&decision.act));
        decisions
    }

    fn carry_out(&mut self, act: &Act) {
        match act {
            Act::Send { to, message } => {
                let generation = self.machine.generation().0;
                for trainer in self.trainers.values_mut().filter(|t| to.contains(&ConnectionId(t.stream))) {
                    trainer.take(message, generation);
                }
            }
            Act::Step { record, .. } => {
                if self.exact {
                    assert_eq!(*record, self.truth.records[record.step.0 as usize], "another step");
                }
                self.disk.recorded = record.step.next();
            }
            Act::Rewind(step) => self.disk.recorded = *step,
            Act::Digest(digest) => self.disk.digested = self.disk.digested.max(digest.step),
            Act::Open { generation, .. } => self.disk.generation = *generation,
            Act::Prune(steps) => self.disk.checkpoints.retain(|step, _| !steps.contains(step)),
            Act::SetAside(step) => self.disk.checkpoints.retain(|other, _| other != step),
            Act::Back(back) => self.disk.goes_back(back),
            _ => {}
        }
    }

    /// Time passes, tick by tick; those in `alive` send heartbeats.
    pub(super) fn pass(&mut self, time: Duration, alive: &[u32], activity: Activity) -> Decisions {
        let end = self.now + time;
        let mut out = Vec::new();
        while self.now < end {
            self.now = (self.now + self.machine.tick_interval()).min(end);
            for &index in alive {
                let beat = Heartbeat { activity, seconds: 0.0, step: Step(0) };
                out.extend(self.say(index, Body::Heartbeat(beat)));
            }
            out.extend(self.event(Event::Tick));
        }
        out
    }

    /// The coordinator is killed, and another is started on what the disk has; `change` is what the disk lacks.
    pub(super) fn restart(&mut self, change: impl FnOnce(&mut Plan)) {
        self.replay();
        self.told.clear();
        let disk = &self.disk;
        let mut plan = self.plan.clone();
        plan.recorded = disk.recorded;
        plan.digested = disk.digested;
        plan.generation = disk.generation;
        plan.checkpoints = disk.checkpoints.clone();
        (plan.lineage, plan.rollbacks, plan.lowered) = (disk.lineage, disk.rollbacks, disk.lowered.clone());
        change(&mut plan);
        let last = plan.checkpoints.range(..=plan.recorded).next_back();
        plan.resume = last.map(|(_, equilibrium)| Resume { path: "checkpoints/x".into(), equilibrium: *equilibrium });
        self.machine = Machine::new(plan.clone()).unwrap();
        self.plan = plan;
        self.now = Duration::ZERO;
        self.event(Event::Started);
    }

    pub(super) fn control(&mut self, action: Action, grace: Duration) -> Decisions {
        self.event(Event::Control { ticket: Ticket(7), action, reason: "a person".into(), grace })
    }

    // ---- What trainers do ----------------------------------------------------------------------------------------

    /// A new process says hello.
    pub(super) fn joins(&mut self, index: u32) -> Decisions {
        let stream = u64::from(index);
        self.trainers.insert(index, Trainer { stream, ..Trainer::default() });
        self.hello(index)
    }

    /// The same process says hello on a new stream, with all it knows.
    pub(super) fn comes_back(&mut self, index: u32) -> Decisions {
        self.next_stream += 1;
        self.trainers.get_mut(&index).unwrap().stream = self.next_stream;
        self.hello(index)
    }

    fn hello(&mut self, index: u32) -> Decisions {
        let returning = self.trainers[&index].returning();
        let run = if returning == Returning::default() { "" } else { RUN };
        let generation = self.trainers[&index].generation;
        self.say_as(index, run, generation, Body::Hello(hello(index), Box::new(returning)))
    }

    /// Says something of the generation it is in.
    pub(super) fn say(&mut self, index: u32, body: Body) -> Decisions {
        let generation = self.trainers.get(&index).map_or(0, |trainer| trainer.generation);
        self.say_as(index, RUN, generation, body)
    }

    pub(super) fn say_as(&mut self, index: u32, run: &str, generation: u64, body: Body) -> Decisions {
        let message = Said { run: run.into(), generation: Generation(generation), body };
        self.event(Event::Said { connection: self.connection(index), message })
    }

    pub(super) fn losses_of(&mut self, index: u32, step: u64) -> Decisions {
        let trainer = &self.trainers[&index];
        let own = lanes_of(Rank(trainer.rank), trainer.world, self.plan.config.run.lanes);
        self.say(index, Body::Losses { step: Step(step), lanes: losses(Step(step), own) })
    }

    /// It has the sum of a step, and with it a new state.
    pub(super) fn commits(&mut self, index: u32, step: u64) {
        let losses = all_losses(Step(step), self.plan.config.run.lanes);
        let trainer = self.trainers.get_mut(&index).unwrap();
        let given = trainer.given(Step(step)).expect("an equilibrium to apply");
        trainer.past.push(Past { given, losses });
        trainer.held = Some(Step(step + 1));
    }

    /// Everyone in the generation goes through a step, and does what was ordered for the state after it.
    pub(super) fn step(&mut self, step: u64) -> Decisions {
        let world = self.world();
        let orders = self.orders(world[0], step);
        let mut out = Vec::new();
        for &index in &world {
            out.extend(self.losses_of(index, step));
        }
        world.iter().for_each(|&index| self.commits(index, step));
        out.extend(self.obey(orders, step + 1));
        out
    }

    /// Everyone in the generation does what is ordered for a state.
    pub(super) fn obey(&mut self, orders: Orders, state: u64) -> Decisions {
        let world = self.world();
        let mut out = Vec::new();
        if orders.digest {
            for &index in &world {
                out.extend(self.digest(index, state, "same"));
            }
        }
        if orders.sample {
            out.extend(self.sampled(world[0], state, 0.0));
        }
        if orders.checkpoint {
            out.extend(self.written(world[0], state, ""));
        }
        out
    }

    pub(super) fn digest(&mut self, index: u32, step: u64, digest: &str) -> Decisions {
        self.say(index, Body::Digest(Digest { step: Step(step), digest: digest.into(), tensors: vec![] }))
    }

    pub(super) fn written(&mut self, index: u32, step: u64, error: &str) -> Decisions {
        if error.is_empty() {
            self.disk.checkpoints.insert(Step(step), self.truth.equilibria[step as usize]);
        }
        self.say(index, Body::Checkpoint(Written { step: Step(step), error: error.into() }))
    }

    pub(super) fn sampled(&mut self, index: u32, step: u64, diversity: f64) -> Decisions {
        self.say(index, Body::Sample(Written { step: Step(step), error: String::new() }, diversity))
    }

    /// It leaves its generation, and says what it holds.
    pub(super) fn leaves(&mut self, index: u32) -> Decisions {
        self.leaves_with(index, None)
    }

    pub(super) fn leaves_with(&mut self, index: u32, digest: Option<Digest>) -> Decisions {
        let trainer = self.trainers.get_mut(&index).unwrap();
        trainer.placed = false;
        let body = Body::Held { step: trainer.held, digest, lineage: trainer.lineage };
        self.say(index, body)
    }

    /// A sum fails; it leaves its generation.
    pub(super) fn severed(&mut self, index: u32) -> Decisions {
        self.trainers.get_mut(&index).unwrap().placed = false;
        self.say(index, Body::Severed("connection reset by peer".into()))
    }

    /// It says what led to its state, from this step on.
    pub(super) fn recalls(&mut self, index: u32, from: u64) -> Decisions {
        let trainer = &self.trainers[&index];
        let held = trainer.held.unwrap();
        let known = |past: &&Past| (Step(from)..held).contains(&past.given.equilibrium.step);
        let steps = trainer.past.iter().filter(known).cloned().collect();
        let given = trainer.given.iter().filter(|given| given.equilibrium.step >= held).copied().collect();
        self.say(index, Body::Recalled { steps, given })
    }

    /// Its process is gone.
    pub(super) fn kill(&mut self, index: u32) -> Decisions {
        let connection = self.connection(index);
        self.trainers.remove(&index);
        self.event(Event::Broken { connection, reason: "connection reset".into() })
    }

    // ---- What there is to see ------------------------------------------------------------------------------------

    pub(super) fn status(&self) -> Status {
        self.machine.status(self.now)
    }

    pub(super) fn phase(&self) -> &'static str {
        self.status().phase
    }

    pub(super) fn trainer(&mut self, index: u32) -> &mut Trainer {
        self.trainers.get_mut(&index).unwrap()
    }

    /// Those with a place in the open generation, in rank order.
    pub(super) fn world(&self) -> Vec<u32> {
        let now = self.machine.generation().0;
        let placed = self.trainers.iter().filter(|(_, trainer)| trainer.placed && trainer.generation == now);
        let mut ranked: Vec<(u32, u32)> = placed.map(|(&index, trainer)| (trainer.rank, index)).collect();
        ranked.sort_unstable();
        ranked.into_iter().map(|(_, index)| index).collect()
    }

    /// What one was ordered to do in the state after a step.
    pub(super) fn orders(&self, index: u32, step: u64) -> Orders {
        self.trainers[&index].given(Step(step)).expect("an equilibrium").orders
    }

    /// The learning rate one was given for a step.
    pub(super) fn given_rate(&self, index: u32, step: u64) -> f64 {
        self.trainers[&index].given(Step(step)).expect("an equilibrium").equilibrium.rate
    }

    pub(super) fn has(&self, index: u32) -> bool {
        self.trainers.contains_key(&index)
    }

    fn connection(&self, index: u32) -> ConnectionId {
        ConnectionId(self.trainers.get(&index).map_or(u64::from(index), |trainer| trainer.stream))
    }

    /// What was sent to one of them.
    pub(super) fn heard(&self, decisions: &Decisions, index: u32) -> Vec<Message> {
        let connection = self.connection(index);
        let to_it = |decision: &Decision| match &decision.act {
            Act::Send { to, message } if to.contains(&connection) => Some(message.clone()),
            _ => None,
        };
        decisions.iter().filter_map(to_it).collect()
    }

    /// Its place in the generation that was opened.
    pub(super) fn opened(&self, decisions: &Decisions, index: u32) -> Option<Opened> {
        self.heard(decisions, index).into_iter().find_map(|message| match message {
            Message::Opened(opened) => Some(opened),
            _ => None,
        })
    }

    /// Whether a halt was sent to it.
    pub(super) fn halted(&self, decisions: &Decisions, index: u32) -> bool {
        self.heard(decisions, index).iter().any(|message| matches!(message, Message::Halt { .. }))
    }

    pub(super) fn is_there(&self, index: u32) -> bool {
        self.trainers.contains_key(&index)
    }

    /// Whether the whole generation holds this step, and knows what it needs.
    pub(super) fn all_hold(&self, step: u64) -> bool {
        let ready = |index: &u32| {
            let trainer = &self.trainers[index];
            trainer.held == Some(Step(step)) && trainer.given(Step(step)).is_some()
        };
        let open = match &self.machine.phase {
            Phase::Running(running) => running.world.len(),
            _ => 0,
        };
        self.world().len() == open && self.world().iter().all(ready)
    }

    /// Whether it knows what the step after the one it holds needs.
    pub(super) fn could_commit(&self, index: u32) -> bool {
        let trainer = &self.trainers[&index];
        trainer.held.is_some_and(|held| trainer.given(held).is_some())
    }

    pub(super) fn is_idle(&self) -> bool {
        !matches!(self.machine.phase, Phase::Running(_))
    }

    /// A second machine that is told the same decides the same.
    pub(super) fn replay(&self) {
        let mut machine = Machine::new(self.plan.clone()).unwrap();
        let kept = |(event, _, decisions): &&(Event, Duration, Decisions)| {
            !(matches!(event, Event::Tick) && decisions.is_empty())
        };
        for (event, at, decisions) in self.told.iter().filter(kept) {
            assert_eq!(&machine.handle(event.clone(), *at), decisions, "replayed: {event:?} at {at:?}");
        }
        assert_eq!(format!("{machine:?}"), format!("{:?}", self.machine), "replayed, it stands elsewhere");
    }

    /// Everything it was told, with what it decided.
    pub(super) fn told(&self) -> &[(Event, Duration, Decisions)] {
        &self.told
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.replay();
        }
    }
}
