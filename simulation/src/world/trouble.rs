//! What goes wrong, as it is done to the world.

use std::collections::VecDeque;

use super::{Happening, Place, STREAM_DIES, World};
use crate::faults::Fault;

impl World {
    pub(super) fn kill(&mut self, place: usize) {
        self.die(place);
        let delay = if self.dice.one_in(6) { self.dice.between(1_000, 8_000) } else { self.dice.between(200, 1_500) };
        self.at(delay, Happening::TrainerStarts(place));
    }

    pub(super) fn fault(&mut self) {
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

    pub(super) fn kill_coordinator(&mut self) {
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

    pub(super) fn join(&mut self) {
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
    pub(super) fn flip(&mut self) {
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
