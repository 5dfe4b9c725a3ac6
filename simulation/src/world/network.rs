//! The network: streams that keep their order and nothing else, and what the trainers tell each other.

use ::coordinator::machine::ConnectionId;
use began_proto::v1::TrainerMessage;

use super::{Happening, Stream, World};
use crate::coordinator::Effect;
use crate::peers::{Process, Told};

impl World {
    pub(super) fn up(&mut self, stream: Stream, message: TrainerMessage) {
        let now = self.clock();
        let Some(coordinator) = self.coordinator.as_mut().filter(|c| c.number == stream.life) else { return };
        if self.verbose {
            let text = format!("{:?}", message.body);
            if !text.contains("Heartbeat") {
                eprintln!(
                    "{:>7} ms  trainer {} says g{} {:.300}",
                    self.now, stream.process.0, message.generation, text
                );
            }
        }
        let effects = coordinator.receive(ConnectionId(stream.number), message, now, &self.truth, &mut self.disk);
        self.take_effect(stream.life, effects);
    }

    pub(super) fn take_effect(&mut self, life: u64, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::Send(on, message) => {
                    if self.verbose {
                        eprintln!(
                            "{:>7} ms    to stream {}: g{} {:.300}",
                            self.now,
                            on.0,
                            message.generation,
                            format!("{:?}", message.body)
                        );
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

    pub(super) fn stream(&self, number: u64) -> Option<Stream> {
        self.places.iter().filter_map(|place| place.stream).find(|stream| stream.number == number)
    }

    pub(super) fn latency(&mut self) -> u64 {
        if self.dice.one_in(200) { self.dice.below(700) } else { self.dice.below(12) }
    }

    /// In order, and not before a cut is mended.
    pub(super) fn delay_down(&mut self, stream: Stream) -> u64 {
        let latency = self.latency();
        let open = self.places[stream.process.0].cut_until.saturating_sub(self.now);
        let last = self.last_down.entry(stream).or_default();
        *last = (*last).max(self.now + latency.max(open));
        *last - self.now
    }

    pub(super) fn delay_up(&mut self, stream: Stream) -> u64 {
        let latency = self.latency();
        let open = self.places[stream.process.0].cut_until.saturating_sub(self.now);
        let last = self.last_up.entry(stream).or_default();
        *last = (*last).max(self.now + latency.max(open));
        *last - self.now
    }

    pub(super) fn connect(&mut self, process: Process) {
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

    pub(super) fn tell_peers(&mut self, generation: u64, told: Vec<Told>) {
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
}
