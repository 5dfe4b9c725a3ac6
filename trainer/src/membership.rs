//! A trainer's part in one generation after the other: it finds its peers, gets the state, trains, and leaves again.
//!
//! The state stays between generations, whole or not at all: before it is overwritten the session is told that none is held.
//! Leaving never waits for a peer.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use began::{Equilibrium, Step};
use began_proto::v1::{self as wire, Phase};
use began_session::{News, Say};

use crate::checkpoint::{self, ReadError};
use crate::collective::{CalledOff, Collective};
use crate::coordination::Coordination;
use crate::peers::{Peers, RENDEZVOUS};
use crate::reduce::{Place, Reducer};
use crate::reduction_thread::{Reduced, ReductionThread};
use crate::session::{Incoming, Session, from_wire};
use crate::state::State;
use crate::training::{End, Trainer};

/// How a generation was left.
#[derive(Debug)]
pub enum Left {
    /// Another will open.
    Again,
    /// That was the last.
    End(End),
}

/// What lasts from one generation to the next.
pub struct Membership<'a> {
    session: &'a Session,
    peers: Peers,
    state: Option<State>,
    /// The generation it is in, or was in last.
    generation: u64,
}

/// Why a wait for peers or for a state ended early.
enum Broken {
    Halted(String),
    Severed(String),
    End(End),
}

impl<'a> Membership<'a> {
    /// Holding nothing yet.
    #[must_use]
    pub fn new(session: &'a Session, peers: Peers) -> Self {
        Self { session, peers, state: None, generation: 0 }
    }

    /// The generation it was in last.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// Writes the held state, which nobody goes on from.
    ///
    /// # Errors
    /// If memory is short.
    pub fn write_held(&self, trainer: &Trainer<'_>, equilibrium: &Equilibrium) -> Result<()> {
        match &self.state {
            Some(state) if state.step == equilibrium.step => trainer.write_checkpoint(state, equilibrium, true),
            _ => bail!("the coordinator ordered step {} to be written, which is not held here", equilibrium.step),
        }
    }

    /// Takes part in a generation, to its end.
    ///
    /// # Errors
    /// If this trainer itself cannot go on.
    pub fn take_part(
        &mut self,
        trainer: &mut Trainer<'_>,
        generation: u64,
        opened: &wire::GenerationOpened,
    ) -> Result<Left> {
        self.generation = generation;
        let place = Place { rank: opened.rank, world: opened.world_size, lanes: trainer.config.run.lanes };
        if place.world == 0 || place.rank >= place.world || place.my_lanes().is_empty() {
            bail!("the coordinator gave rank {} of {} over {} lanes", place.rank, place.world, place.lanes);
        }
        let wire = opened.equilibrium.context("the coordinator opened a generation without an equilibrium")?;
        let equilibrium = from_wire(&wire);
        let started = Instant::now();
        self.session.activity().joins(generation, place.rank, equilibrium.step);
        self.session.activity().enter(Phase::Rendezvous);
        let called_off = CalledOff::new();
        let collective = match self.connect(trainer, generation, place, &called_off)? {
            Ok(collective) => collective,
            Err(broken) => return Ok(self.leave(broken)),
        };
        let rendezvous = started.elapsed();
        let reducer = Reducer::new(place, trainer.config.run.reduce, collective)?;
        let reduction = ReductionThread::start(reducer, trainer.device, self.session.inbox())?;

        let started = Instant::now();
        self.session.activity().enter(Phase::Starting);
        let got = self.get_state(trainer, opened, equilibrium.step, &reduction);
        let state = match got {
            Ok(Got::Held) => self.state.as_mut().context("the state that is held is gone")?,
            Ok(Got::Unusable(reason)) => {
                called_off.stop("there is no state to go on from");
                drop(reduction);
                tracing::warn!(reason, "the checkpoint cannot be used");
                let unusable = wire::CheckpointUnusable { step: equilibrium.step.0, reason };
                self.session.say(Say::Unusable(unusable));
                return Ok(Left::Again);
            }
            Ok(Got::Broken(broken)) => {
                called_off.stop("there is no state to go on from");
                drop(reduction);
                return Ok(self.leave(broken));
            }
            Err(error) => {
                called_off.stop("there is no state to go on from");
                return Err(error);
            }
        };
        let heal = started.elapsed();
        self.session.say(Say::Holds(Some(equilibrium.step)));
        self.session.say(Say::Ready(wire::Ready {
            rendezvous_seconds: rendezvous.as_secs_f64(),
            heal_seconds: heal.as_secs_f64(),
        }));
        tracing::info!(generation, rank = place.rank, world = place.world, step = state.step.0, "training");

        let orders = wire.orders.unwrap_or_default();
        let mut parts = trainer.enter(state, place, (equilibrium, orders), reduction)?;
        let end = trainer.train(&mut parts, opened.orders.unwrap_or_default());
        // Where all leave in order the reduction's thread does so too; else it looks up, ends, and leaves the group with it.
        if !matches!(end, Ok(End::Regroup | End::Stop(_))) {
            called_off.stop("the generation is over");
        }
        drop(parts);
        called_off.stop("the generation is over");
        Ok(match end? {
            End::Halt(reason) => self.leave(Broken::Halted(reason)),
            End::Severed(why) => self.leave(Broken::Severed(why)),
            End::Regroup => {
                tracing::info!("the generation ends in order: more trainers are there");
                self.session.say(Say::Held(self.generation));
                Left::Again
            }
            end @ (End::Stop(_) | End::Lost(_)) => Left::End(end),
        })
    }

    /// Says how the generation was left.
    fn leave(&self, broken: Broken) -> Left {
        match broken {
            Broken::Halted(reason) => {
                tracing::warn!(reason, step = self.state.as_ref().map(|state| state.step.0), "halted");
                self.session.say(Say::Held(self.generation));
                Left::Again
            }
            Broken::Severed(why) => {
                tracing::warn!(why, "the peers are lost; waiting for the coordinator's word");
                self.session.say(Say::Severed(why));
                Left::Again
            }
            Broken::End(end) => Left::End(end),
        }
    }

    /// The next thing in the inbox that a wait for `what` ends with; `ready` picks it.
    fn wait<T>(
        &self,
        what: &str,
        bound: Duration,
        mut ready: impl FnMut(Incoming) -> Option<Result<T>>,
    ) -> Result<T, Broken> {
        let started = Instant::now();
        loop {
            let Some(incoming) = self.session.next(bound.saturating_sub(started.elapsed())) else {
                return Err(Broken::Severed(format!("waited {:.0} s for {what}", bound.as_secs_f64())));
            };
            match incoming {
                Incoming::News(News::Halt(reason)) => return Err(Broken::Halted(reason)),
                Incoming::News(News::Stop(stop)) => return Err(Broken::End(End::Stop(stop))),
                Incoming::News(News::Lost(reason) | News::Refused(reason)) => {
                    return Err(Broken::End(End::Lost(reason)));
                }
                other => match ready(other) {
                    Some(Ok(found)) => return Ok(found),
                    Some(Err(error)) => return Err(Broken::Severed(format!("{what}: {error:#}"))),
                    None => {}
                },
            }
        }
    }

    fn connect(
        &self,
        trainer: &Trainer<'_>,
        generation: u64,
        place: Place,
        called_off: &CalledOff,
    ) -> Result<Result<Option<Box<dyn Collective>>, Broken>> {
        if place.world == 1 {
            return Ok(Ok(None));
        }
        let exchange = match self.session.exchange(generation) {
            Ok(exchange) => exchange,
            Err(error) => return Ok(Err(Broken::Severed(format!("{error:#}")))),
        };
        let inbox = self.session.inbox();
        let deliver = move |group| {
            // A loop that is gone has no use for it.
            let _ = inbox.send(Incoming::Connected(generation, group));
        };
        // Dropped on every way out but one, which calls it off.
        let operation = Duration::from_secs_f64(trainer.config.run.step_timeout);
        let connecting = self.peers.connect(exchange, place, operation, called_off, deliver)?;
        let what = format!("the {} peers of generation {generation} to connect", place.world - 1);
        let group = self.wait(&what, RENDEZVOUS + Duration::from_secs(5), |incoming| match incoming {
            Incoming::Connected(number, group) if number == generation => Some(group),
            _ => None,
        });
        Ok(group.map(|group| {
            connecting.delivered();
            Some(group)
        }))
    }

    /// Sees to it that the state of `step` is held.
    fn get_state(
        &mut self,
        trainer: &Trainer<'_>,
        opened: &wire::GenerationOpened,
        step: Step,
        reduction: &ReductionThread,
    ) -> Result<Got> {
        let heal = opened.heal.clone().unwrap_or_default();
        let held = self.state.as_ref().is_some_and(|state| state.step == step);
        if !opened.checkpoint.is_empty() {
            self.session.say(Say::Holds(None));
            self.state = None;
            let folder = trainer.run.join(&opened.checkpoint);
            let identity = &self.session.welcome.run;
            let accept = opened.accept_changed_checkpoint;
            let (state, _) = match checkpoint::read(&folder, identity, trainer.config, trainer.device, accept) {
                Ok(read) => read,
                Err(ReadError::Unusable(error)) => return Ok(Got::Unusable(format!("{error:#}"))),
                Err(ReadError::Here(error)) => return Err(error),
            };
            if state.step != step {
                let found = state.step;
                return Ok(Got::Unusable(format!("{} holds step {found}, not {step}", folder.display())));
            }
            self.state = Some(state);
        } else if heal.receives {
            self.session.say(Say::Holds(None));
            let mut state = match self.state.take() {
                Some(state) => state,
                None => State::initial(trainer.config, trainer.device)?,
            };
            if let Err(broken) = self.hand_around(trainer, &heal, &state, reduction) {
                return Ok(Got::Broken(broken));
            }
            state.refresh()?;
            state.step = step;
            self.state = Some(state);
            return Ok(Got::Held);
        } else if !held && step.0 == 0 {
            self.session.say(Say::Holds(None));
            self.state = Some(State::initial(trainer.config, trainer.device)?);
        } else if !held {
            let found = self.state.as_ref().map(|state| state.step.0);
            bail!("the coordinator goes on from step {step}, which is not held here ({found:?}) and does not come");
        }
        if heal.rounds > 0
            && let Some(state) = &self.state
            && let Err(broken) = self.hand_around(trainer, &heal, state, reduction)
        {
            return Ok(Got::Broken(broken));
        }
        Ok(Got::Held)
    }

    fn hand_around(
        &self,
        trainer: &Trainer<'_>,
        heal: &wire::Heal,
        state: &State,
        reduction: &ReductionThread,
    ) -> Result<(), Broken> {
        reduction.heal(heal.clone(), state.flat()).map_err(|error| Broken::Severed(format!("{error:#}")))?;
        self.wait("the state to go around", trainer.patience(), |incoming| match incoming {
            Incoming::Reduced(Ok(Reduced::Healed)) => Some(Ok(())),
            Incoming::Reduced(Err(error)) => Some(Err(error)),
            _ => None,
        })
    }
}

/// What came of the attempt to hold a state.
enum Got {
    Held,
    Unusable(String),
    Broken(Broken),
}
