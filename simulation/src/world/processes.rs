//! The processes: how they start, what they are told, what is granted to them, and how they end.

use std::time::Duration;

use ::coordinator::machine::Event;
use began_session::Input;

use super::{Happening, World};
use crate::coordinator::Life;
use crate::dice::Dice;
use crate::peers::Process;
use crate::trainer::{Surroundings, Trainer, Wish};
use crate::truth::Truth;

impl World {
    pub(super) fn coordinator_starts(&mut self) {
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

    pub(super) fn tell_coordinator(&mut self, life: u64, event: Event) -> Option<Duration> {
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

    pub(super) fn trainer_starts(&mut self, place: usize) {
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

    pub(super) fn session(&mut self, process: Process, input: Input) {
        self.with(process, |trainer, now, world| trainer.session(input, now, world));
    }

    /// Lets a trainer act, and grants what it wishes.
    pub(super) fn with(
        &mut self,
        process: Process,
        act: impl FnOnce(&mut Trainer, Duration, &mut dyn Surroundings) -> Vec<Wish>,
    ) {
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

    pub(super) fn grant(&mut self, process: Process, wish: Wish) {
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

    /// A process is gone.
    pub(super) fn die(&mut self, place: usize) {
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
        held.filter(|(held, _)| *held == step)
            .map(|(_, state)| state)
            .next()
            .unwrap_or(self.truth.states[step as usize])
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
