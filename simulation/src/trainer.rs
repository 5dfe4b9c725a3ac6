//! A trainer's process: the real session, and a training loop that does in one number what the real one does in tensors.

use std::collections::BTreeMap;
use std::time::Duration;

use began::lanes::lanes_of;
use began::{Equilibrium, Rank, Step};
use began_proto::v1::trainer_message::Body as Up;
use began_proto::v1::{self as wire, GenerationOpened, Orders, TrainerMessage};
use began_session::{Identity, Input, News, Output, Protocol, Say, Settings};

use crate::truth::{Truth, commit, loss};

/// Where the loop is.
#[derive(Clone, Debug, PartialEq)]
pub enum At {
    /// Waiting to be told.
    Outside,
    /// Waiting for its peers to connect.
    Rendezvous,
    /// Getting the state: from the disk, or from a peer.
    Getting,
    /// Computing the losses of the step.
    Compute,
    /// Waiting for what the step needs.
    Equilibrium,
    /// Waiting for the sum.
    Sum,
    /// Waiting for what belongs to the new state, to do what was ordered.
    Orders(Orders),
    /// Told to hold.
    Holding,
    /// A sum failed; waiting for the halt.
    Severed,
    /// Being halted: what is under way is finished first.
    Leaving,
}

/// What the loop wants of the world.
#[derive(Clone, Debug)]
pub enum Wish {
    /// Be told [`Timer`] after that many milliseconds.
    Later(u64, Timer),
    /// Look for peers.
    Join {
        /// Of this generation.
        generation: u64,
        /// My place in it.
        rank: u32,
        /// How many there are.
        size: u32,
    },
    /// Put my part into a sum.
    Add {
        /// In this generation.
        generation: u64,
        /// My place in it.
        rank: u32,
        /// Whose gradients.
        step: u64,
    },
    /// Leave the group.
    Leave {
        /// Of this generation.
        generation: u64,
    },
    /// Write a checkpoint.
    Write {
        /// Of the state after so many steps.
        step: u64,
        /// The state.
        state: u64,
        /// What the step after it needs.
        equilibrium: Box<Equilibrium>,
    },
    /// Open a stream.
    Connect,
    /// Drop the stream.
    Disconnect,
    /// Send this.
    Send(Box<TrainerMessage>),
    /// The process ends with this code.
    Exit(i32),
}

/// Something that takes time.
#[derive(Clone, Debug, PartialEq)]
pub enum Timer {
    /// The losses of the step are computed.
    Computed(u64, u64),
    /// The state is there.
    Got(u64),
    /// The generation is left.
    Left(u64),
}

/// One life of a trainer.
#[derive(Debug)]
pub struct Trainer {
    /// The real session.
    pub protocol: Protocol,
    /// Where the loop is.
    pub at: At,
    /// The state it holds: its step, and the number.
    pub state: Option<(u64, u64)>,
    opened: Option<(u64, GenerationOpened)>,
    given: BTreeMap<u64, wire::Equilibrium>,
    /// Which generation the timers belong to.
    epoch: u64,
    committed: u64,
    name: String,
}

impl Trainer {
    /// A process that was just started.
    #[must_use]
    pub fn start(place: usize, life: u64, truth: &Truth, now: Duration) -> Self {
        let name = format!("trainer {place} life {life}");
        let hello = wire::Hello {
            version: began_proto::VERSION,
            trainer: name.clone(),
            node: place as u32 / 2,
            local_rank: place as u32 % 2,
            host: "here".into(),
            pid: (100 + place as u64 * 1000 + life) as u32,
            device: "made up".into(),
            software: "made up".into(),
            ..wire::Hello::default()
        };
        let heartbeat = Duration::from_secs_f64(truth.config.run.heartbeat_timeout / 4.0);
        let settings = Settings { patience: Duration::from_secs(60), heartbeat };
        Self {
            protocol: Protocol::new(Identity { hello }, settings, now),
            at: At::Outside,
            state: None,
            opened: None,
            given: BTreeMap::new(),
            epoch: 0,
            committed: 0,
            name,
        }
    }

    /// The session is told something.
    pub fn session(&mut self, input: Input, now: Duration, world: &mut dyn Surroundings) -> Vec<Wish> {
        let mut wishes = Vec::new();
        let outputs = self.protocol.handle(input, now);
        self.carry_out(outputs, now, world, &mut wishes);
        wishes
    }

    fn say(&mut self, say: Say, now: Duration, world: &mut dyn Surroundings, wishes: &mut Vec<Wish>) {
        let outputs = self.protocol.handle(Input::Say(say), now);
        self.carry_out(outputs, now, world, wishes);
    }

    fn carry_out(&mut self, outputs: Vec<Output>, now: Duration, world: &mut dyn Surroundings, wishes: &mut Vec<Wish>) {
        for output in outputs {
            match output {
                Output::Connect => wishes.push(Wish::Connect),
                Output::Disconnect => wishes.push(Wish::Disconnect),
                Output::Send(message) => wishes.push(Wish::Send(message)),
                Output::Beat => {
                    let step = self.state.map_or(0, |(step, _)| step);
                    let phase = if self.at == At::Compute { wire::Phase::Compute } else { wire::Phase::Reduce };
                    let beat = wire::Heartbeat { phase: phase.into(), phase_seconds: 0.1, step, ..Default::default() };
                    wishes.push(Wish::Send(Box::new(self.protocol.message(Up::Heartbeat(beat)))));
                }
                Output::Lease(_) | Output::ForgetLeases => {}
                Output::Tell(news) => self.hear(news, now, world, wishes),
            }
        }
    }

    fn hear(&mut self, news: News, now: Duration, world: &mut dyn Surroundings, wishes: &mut Vec<Wish>) {
        match news {
            News::Welcome { .. } => {}
            News::Opened(generation, opened) => {
                assert!(
                    matches!(self.at, At::Outside | At::Severed),
                    "{}: generation {generation} is opened while it is {:?}",
                    self.name,
                    self.at
                );
                self.epoch = generation;
                self.given.clear();
                if let Some(equilibrium) = opened.equilibrium {
                    self.given.insert(equilibrium.step, equilibrium);
                }
                wishes.push(Wish::Join { generation, rank: opened.rank, size: opened.world_size });
                self.opened = Some((generation, *opened));
                self.at = At::Rendezvous;
            }
            News::Equilibrium(equilibrium) => {
                self.given.insert(equilibrium.step, *equilibrium);
                self.go_on(now, world, wishes);
            }
            News::Halt(_) => match self.at {
                At::Outside | At::Severed => {
                    self.at = At::Outside;
                    self.say(Say::Held(self.epoch), now, world, wishes);
                }
                At::Leaving => {}
                _ => self.leave(world, wishes),
            },
            News::WriteCheckpoint(equilibrium) => {
                if let Some((step, state)) = self.state {
                    let equilibrium = Box::new(unwire(&equilibrium));
                    wishes.push(Wish::Write { step, state, equilibrium });
                }
            }
            News::Stop(stop) => {
                let code = match (stop.expelled, stop.set_aside, stop.failed) {
                    (_, true, _) => 5,
                    (true, ..) => 4,
                    (_, _, true) => 3,
                    _ => 0,
                };
                wishes.push(Wish::Exit(code));
            }
            News::Refused(_) => wishes.push(Wish::Exit(1)),
            News::Lost(_) => wishes.push(Wish::Exit(3)),
        }
    }

    /// Leaves the generation; the lane under way is finished first.
    fn leave(&mut self, world: &mut dyn Surroundings, wishes: &mut Vec<Wish>) {
        if let Some((generation, _)) = &self.opened {
            wishes.push(Wish::Leave { generation: *generation });
        }
        self.at = At::Leaving;
        wishes.push(Wish::Later(world.dice().below(40), Timer::Left(self.epoch)));
    }

    /// Peers are connected.
    pub fn connected(&mut self, now: Duration, world: &mut dyn Surroundings) -> Vec<Wish> {
        let mut wishes = Vec::new();
        if self.at != At::Rendezvous {
            return wishes;
        }
        let Some((_, opened)) = self.opened.clone() else { return wishes };
        let holds = self.protocol.held() == Some(Step(opened.step)) && opened.checkpoint.is_empty();
        if holds {
            self.ready(now, world, &mut wishes);
        } else {
            self.say(Say::Holds(None), now, world, &mut wishes);
            self.at = At::Getting;
            wishes.push(Wish::Later(world.dice().between(5, 120), Timer::Got(self.epoch)));
        }
        wishes
    }

    fn ready(&mut self, now: Duration, world: &mut dyn Surroundings, wishes: &mut Vec<Wish>) {
        let Some((_, opened)) = self.opened.clone() else { return };
        self.say(Say::Holds(Some(Step(opened.step))), now, world, wishes);
        self.say(Say::Ready(wire::Ready { rendezvous_seconds: 0.01, heal_seconds: 0.01 }), now, world, wishes);
        self.digest(now, world, wishes);
        let orders = Orders { digest: false, ..opened.orders.unwrap_or_default() };
        self.at = At::Orders(orders);
        self.go_on(now, world, wishes);
    }

    fn digest(&mut self, now: Duration, world: &mut dyn Surroundings, wishes: &mut Vec<Wish>) {
        let Some((step, state)) = self.state else { return };
        let digest = format!("{state:x}");
        let tensors = vec![wire::TensorDigest { name: "all".into(), digest: digest.clone() }];
        self.say(Say::Digest(wire::StateDigest { step, digest, tensors }), now, world, wishes);
    }

    /// A timer went off.
    pub fn timer(&mut self, timer: &Timer, now: Duration, world: &mut dyn Surroundings) -> Vec<Wish> {
        let mut wishes = Vec::new();
        match *timer {
            Timer::Computed(epoch, step)
                if epoch == self.epoch
                    && self.at == At::Compute
                    && self.state.is_some_and(|(held, _)| held == step) =>
            {
                self.at = At::Equilibrium;
                self.go_on(now, world, &mut wishes);
            }
            Timer::Got(epoch) if epoch == self.epoch && self.at == At::Getting => {
                let Some((_, opened)) = self.opened.clone() else { return wishes };
                if opened.checkpoint.is_empty() {
                    self.state = Some((opened.step, world.peer_state(opened.step)));
                } else {
                    match world.read_checkpoint(opened.step) {
                        Some(state) => self.state = Some((opened.step, state)),
                        None => {
                            let unusable =
                                wire::CheckpointUnusable { step: opened.step, reason: "its hash is wrong".into() };
                            self.at = At::Severed;
                            wishes.push(Wish::Leave { generation: epoch });
                            self.say(Say::Unusable(unusable), now, world, &mut wishes);
                            return wishes;
                        }
                    }
                }
                self.ready(now, world, &mut wishes);
            }
            Timer::Left(epoch) if epoch == self.epoch && self.at == At::Leaving => {
                self.at = At::Outside;
                self.say(Say::Held(self.epoch), now, world, &mut wishes);
            }
            _ => {}
        }
        wishes
    }

    /// Goes as far as it can.
    fn go_on(&mut self, now: Duration, world: &mut dyn Surroundings, wishes: &mut Vec<Wish>) {
        let Some((generation, opened)) = self.opened.clone() else { return };
        let Some((step, state)) = self.state else { return };
        match self.at.clone() {
            At::Orders(orders) => {
                let needs = orders.digest || orders.checkpoint;
                let Some(given) = self.given.get(&step).copied() else {
                    if !needs {
                        self.after_orders(orders, step, now, world, wishes);
                    }
                    return;
                };
                if orders.digest {
                    self.digest(now, world, wishes);
                }
                if orders.checkpoint && opened.rank == 0 {
                    let equilibrium = Box::new(unwire(&given));
                    wishes.push(Wish::Write { step, state, equilibrium });
                }
                self.after_orders(orders, step, now, world, wishes);
            }
            At::Equilibrium if self.given.contains_key(&step) => {
                let lanes = lanes_of(Rank(opened.rank), opened.world_size, world.truth().config.run.lanes);
                let lane = |lane| {
                    let began::LaneLosses { real, fake, drawn } = loss(step, lane);
                    wire::LaneLosses { lane, real, fake, drawn }
                };
                let losses = wire::StepLosses { step, lanes: lanes.map(lane).collect(), ..Default::default() };
                self.at = At::Sum;
                self.say(Say::Losses(losses), now, world, wishes);
                wishes.push(Wish::Add { generation, rank: opened.rank, step });
            }
            _ => {}
        }
    }

    fn after_orders(
        &mut self,
        orders: Orders,
        step: u64,
        now: Duration,
        world: &mut dyn Surroundings,
        wishes: &mut Vec<Wish>,
    ) {
        if orders.sample && self.opened.as_ref().is_some_and(|(_, opened)| opened.rank == 0) {
            self.say(Say::Sample(wire::SampleWritten { step, ..Default::default() }), now, world, wishes);
        }
        if orders.regroup {
            return self.leave(world, wishes);
        }
        if orders.stop || step >= world.truth().config.run.steps {
            self.at = At::Holding;
            return;
        }
        self.at = At::Compute;
        let pace = world.dice().between(5, 40);
        wishes.push(Wish::Later(pace, Timer::Computed(self.epoch, step)));
    }

    /// The sum of a step is there: the step is committed.
    ///
    /// # Panics
    /// If that gives another state than the undisturbed run's.
    pub fn summed(&mut self, step: u64, taint: u64, now: Duration, world: &mut dyn Surroundings) -> Vec<Wish> {
        let mut wishes = Vec::new();
        let (At::Sum, Some((held, state))) = (&self.at, self.state) else { return wishes };
        if held != step {
            return wishes;
        }
        let Some(given) = self.given.get(&step).copied() else { return wishes };
        let next = commit(state, &unwire(&given)) ^ taint;
        self.state = Some((step + 1, next));
        world.committed(step, next);
        self.committed = step + 1;
        let lanes = world.truth().config.run.lanes;
        let losses = (0..lanes).map(|lane| loss(step, lane)).collect();
        self.say(Say::Committed { step: Step(step), losses }, now, world, &mut wishes);
        self.at = At::Orders(given.orders.unwrap_or_default());
        self.go_on(now, world, &mut wishes);
        wishes
    }

    /// A sum failed, or peers are gone.
    pub fn severed(&mut self, now: Duration, world: &mut dyn Surroundings) -> Vec<Wish> {
        let mut wishes = Vec::new();
        if !matches!(self.at, At::Sum | At::Rendezvous) {
            return wishes;
        }
        self.at = At::Severed;
        wishes.push(Wish::Leave { generation: self.epoch });
        self.say(Say::Severed("connection reset by peer".into()), now, world, &mut wishes);
        wishes
    }

    /// A checkpoint was written, or not.
    pub fn written(&mut self, step: u64, error: &str, now: Duration, world: &mut dyn Surroundings) -> Vec<Wish> {
        let mut wishes = Vec::new();
        let written = wire::CheckpointWritten { step, error: error.into(), ..Default::default() };
        self.say(Say::Checkpoint(written), now, world, &mut wishes);
        wishes
    }
}

/// What a trainer sees of the world.
pub trait Surroundings {
    /// Chance.
    fn dice(&mut self) -> &mut crate::dice::Dice;
    /// The undisturbed run.
    fn truth(&self) -> &Truth;
    /// The state of a step, as a peer holds it.
    fn peer_state(&self, step: u64) -> u64;
    /// The state in a checkpoint, if it can be used.
    fn read_checkpoint(&self, step: u64) -> Option<u64>;
    /// A step was committed.
    fn committed(&mut self, step: u64, state: u64);
}

fn unwire(equilibrium: &wire::Equilibrium) -> Equilibrium {
    let stall = began::equilibrium::Stall {
        sum: equilibrium.stall_sum,
        count: equilibrium.stall_count,
        best: equilibrium.stall_best,
    };
    Equilibrium { step: Step(equilibrium.step), k: equilibrium.k, rate: equilibrium.rate, stall }
}
