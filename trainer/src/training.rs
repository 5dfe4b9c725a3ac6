//! The training loop of one trainer in one generation: step after step until the coordinator says otherwise.
//!
//! What the coordinator says is looked at between lanes too, so that a halt is answered within the time of one pass.
//! It waits in one place (the session's inbox), always with a bound. It never writes half a step: the state changes in
//! [`State::commit`] alone, after both sums are there.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow};
use began::tree::Fold;
use began::{Equilibrium, LaneLosses, RunConfig, Step};
use began_data::{DataError, Loader};
use began_proto::v1::{self as wire, Phase};
use began_session::{News, Say};
use tch::{Device, Kind};
use torch_ext::stream::{Event, Stream};

use crate::checkpoint_writer::CheckpointWriter;
use crate::coordination::Coordination;
use crate::digest::digest;
use crate::evaluator::Evaluator;
use crate::feed::{self, Feed};
use crate::flip::Flip;
use crate::images::Measure;
use crate::pool::Pool;
use crate::reduce::{Gradient, Place};
use crate::reduction_thread::{Reduced, ReductionThread};
use crate::session::{Incoming, from_wire, to_wire};
use crate::state::State;
use crate::step::{LanePass, Settings, combine};
use crate::transfer::{PendingLosses, Uploads};

/// How often a wait for data looks up to see what the coordinator says.
const LOOK: Duration = Duration::from_millis(100);
/// How long the end of the run waits for the scores of its last state; less where steps have less time.
const SCORES: Duration = Duration::from_secs(60);

/// What ends a generation for this trainer.
#[derive(Debug)]
pub enum End {
    /// The coordinator calls it off.
    Halt(String),
    /// It ends in order, after a step: a larger one opens.
    Regroup,
    /// The run is over, for this trainer at least.
    Stop(wire::Stop),
    /// The coordinator is gone.
    Lost(String),
    /// A peer is gone, as a failed sum shows; the coordinator has not spoken yet.
    Severed(String),
}

/// Why a wait did not give what it waited for.
enum Interrupt {
    End(End),
    Error(anyhow::Error),
}

impl<E: Into<anyhow::Error>> From<E> for Interrupt {
    fn from(error: E) -> Self {
        Self::Error(error.into())
    }
}

/// What stays the same for a trainer's life.
pub struct Trainer<'a> {
    /// The coordinator, or what stands in for it.
    pub session: &'a dyn Coordination,
    /// The run's configuration.
    pub config: &'a RunConfig,
    /// The run's directory.
    pub run: PathBuf,
    /// The data.
    pub feed: Feed,
    /// The device.
    pub device: Device,
    /// Writes checkpoints; nothing where none are wanted.
    pub writer: Option<Arc<CheckpointWriter>>,
    /// Scores the model; nothing where no scores are wanted.
    pub evaluator: Option<Evaluator>,
    /// A fault that a test asks for.
    pub flip: Option<Flip>,
}

/// One generation's working parts.
pub struct Generation<'a> {
    place: Place,
    loader: Loader,
    reduction: ReductionThread,
    state: &'a mut State,
    d_pool: Pool,
    g_pool: Pool,
    g_fake: usize,
    kind: Kind,
    uploads: Uploads,
    /// What has come in ahead of its use.
    equilibrium: Option<(Equilibrium, wire::Orders)>,
    d_gradient: Option<Gradient>,
    g_gradient: Option<(Gradient, Vec<LaneLosses>)>,
    waited: Duration,
    /// The step it began with.
    first: Step,
    /// When the last losses were sent.
    last: Instant,
}

impl Trainer<'_> {
    /// Readies what a generation needs.
    ///
    /// # Errors
    /// If memory is short or no thread can be started.
    pub fn enter<'a>(
        &self,
        state: &'a mut State,
        place: Place,
        equilibrium: (Equilibrium, wire::Orders),
        reduction: ReductionThread,
    ) -> Result<Generation<'a>> {
        let loader = self.feed.start(self.config, place, state.step, self.session.leases())?;
        let mut d_pool = Pool::new(place.padded(state.discriminator.parameters.layout.len()));
        let g_pool = Pool::new(place.padded(state.generator.parameters.layout.len()));
        let g_fake = d_pool.take(&state.discriminator.parameters)?;
        let kind = state.discriminator.parameters.kind();
        let first = state.step;
        Ok(Generation {
            place,
            loader,
            reduction,
            state,
            d_pool,
            g_pool,
            g_fake,
            kind,
            uploads: Uploads::new(self.device)?,
            equilibrium: Some(equilibrium),
            d_gradient: None,
            g_gradient: None,
            waited: Duration::ZERO,
            first,
            last: Instant::now(),
        })
    }

    /// Does what is due in the state that the generation begins with, and trains until it ends.
    ///
    /// # Errors
    /// If this trainer itself cannot go on.
    pub fn train(&mut self, generation: &mut Generation<'_>, due: wire::Orders) -> Result<End> {
        if let Some((equilibrium, _)) = generation.equilibrium {
            let digest = digest(generation.state, &equilibrium)?;
            self.send_digest(generation.state, digest);
        }
        if let Some(evaluator) = &self.evaluator {
            evaluator.forget_after(generation.state.step);
        }
        // The digest is always taken; it was just now.
        let end = match self.follow(wire::Orders { digest: false, ..due }, generation) {
            Ok(()) => self.steps(generation, u64::MAX)?,
            Err(Interrupt::End(end)) => Some(end),
            Err(Interrupt::Error(error)) => return Err(error),
        };
        tracing::info!(
            step = generation.state.step.0,
            data_wait_ms = generation.loader.waited().as_millis() as u64,
            "the generation ended for this trainer"
        );
        end.ok_or_else(|| anyhow!("the steps ran out"))
    }

    /// At most `count` steps; how the generation ended, if it did.
    ///
    /// # Errors
    /// If this trainer itself cannot go on.
    pub fn steps(&mut self, generation: &mut Generation<'_>, count: u64) -> Result<Option<End>> {
        for _ in 0..count {
            match self.step(generation) {
                Ok(()) => {}
                Err(Interrupt::End(end)) => return Ok(Some(end)),
                Err(Interrupt::Error(error)) => return Err(error),
            }
        }
        Ok(None)
    }

    /// One step: all my lanes, the sums, the commit, and what was ordered for after it.
    fn step(&mut self, generation: &mut Generation<'_>) -> Result<(), Interrupt> {
        let step = generation.state.step;
        self.session.activity().at_step(step);
        if step.0 >= self.config.run.steps {
            // All is done; the coordinator's word is on its way.
            return Err(Interrupt::End(self.await_stop(generation)?));
        }
        let carry = began::equilibrium::carry(step, self.config.objective.carry_steps);
        let measure = Measure::in_step(self.config, step);
        let settings = Settings { norm: self.config.objective.norm, carry, measure };
        let lanes = generation.place.my_lanes();
        let mut d_fold = Fold::new(generation.place.lanes);
        let mut g_fold = Fold::new(generation.place.lanes);
        let mut pending = Vec::with_capacity(lanes.len());
        let mut losses = Vec::new();
        let mut images = Vec::new();
        let mut now = None;
        for lane in lanes.clone() {
            self.look_up(generation)?;
            let batch = self.next_batch(generation, step, lane)?;
            self.session.activity().enter(Phase::Compute);
            let bytes = generation.uploads.send(feed::bytes(&batch.pixels, self.config.model.size)?)?;
            let x = feed::scaled(&bytes, generation.kind)?;
            let drawn = batch.drawn;
            generation.loader.recycle(batch.pixels);
            let z = generation.uploads.send(feed::noise(self.config, step, lane, generation.kind, Device::Cpu)?)?;
            let g_real = generation.d_pool.take(&generation.state.discriminator.parameters)?;
            let pass = LanePass::run(
                generation.state,
                &x,
                &z,
                settings,
                generation.d_pool.get(g_real),
                generation.d_pool.get(generation.g_fake),
            )?;
            pending.push(pass.losses(drawn)?);
            // The first place that needs k: the coordinator had the whole pass to answer.
            let (equilibrium, _) = match now {
                Some(now) => now,
                None => *now.insert(self.await_equilibrium(generation, step)?),
            };
            combine(generation.d_pool.get(g_real), generation.d_pool.get(generation.g_fake), equilibrium.k)?;
            generation.d_pool.fold(&mut d_fold, lane, g_real)?;
            let last = lane + 1 == lanes.end;
            if last {
                // On a CPU they are there; a GPU is given G's backward first, so that it has work while the host waits.
                if pending.last().is_some_and(|last| matches!(last.is_there(), Ok(true))) {
                    (losses, images) = self.arrived(&mut pending)?;
                    self.report(&losses, lanes.start, step, generation);
                }
                let d_fold = std::mem::replace(&mut d_fold, Fold::new(generation.place.lanes));
                generation.reduction.discriminator(generation.d_pool.partials(d_fold))?;
            }
            self.look_up(generation)?;
            let g = generation.g_pool.take(&generation.state.generator.parameters)?;
            pass.generator_gradient(generation.state, generation.g_pool.get(g))?;
            generation.g_pool.fold(&mut g_fold, lane, g)?;
            if last && losses.is_empty() {
                (losses, images) = self.arrived(&mut pending)?;
                self.report(&losses, lanes.start, step, generation);
            }
        }
        let Some((equilibrium, orders)) = now else {
            return Err(anyhow!("rank {} holds no lanes", generation.place.rank).into());
        };
        generation.reduction.generator(generation.g_pool.partials(g_fold), losses)?;
        // Behind everything that others wait for.
        self.tell_of_images(images, lanes.start, step);
        let (d_gradient, (g_gradient, all)) = self.await_sums(generation)?;
        self.session.activity().enter(Phase::Compute);
        generation.state.commit(&d_gradient, &g_gradient, equilibrium.rate, self.config)?;
        self.session.say(Say::Committed { step, losses: all });
        if step == generation.first {
            committed_once(generation.state.step);
        }
        if let Some(flip) = self.flip.take_if(|flip| flip.is_due(generation.state)) {
            flip.strike(generation.state)?;
        }
        generation.d_pool.give_back_all();
        generation.g_pool.give_back_all();
        generation.g_fake = generation.d_pool.take(&generation.state.discriminator.parameters)?;
        self.follow(orders, generation)
    }

    /// The losses of all lanes so far, once the device has computed them.
    fn arrived(&self, pending: &mut Vec<PendingLosses>) -> Result<(Vec<LaneLosses>, Vec<Option<wire::LaneImages>>)> {
        let patience = Duration::from_secs_f64(self.config.run.step_timeout);
        let all: Vec<_> = pending.drain(..).map(|losses| losses.wait(patience)).collect::<Result<_>>()?;
        Ok(all.into_iter().unzip())
    }

    /// What the diagnosis is told, where this step is one of those that are measured.
    fn tell_of_images(&self, images: Vec<Option<wire::LaneImages>>, first_lane: u32, step: Step) {
        let lanes = (first_lane..).zip(images);
        let lanes: Vec<_> =
            lanes.filter_map(|(lane, images)| images.map(|images| wire::LaneImages { lane, ..images })).collect();
        if !lanes.is_empty() {
            self.session.say(Say::Images(wire::ImageLosses { step: step.0, lanes }));
        }
    }

    fn report(&self, losses: &[LaneLosses], first_lane: u32, step: Step, generation: &mut Generation<'_>) {
        let since = generation.last.elapsed();
        generation.last = Instant::now();
        let waited = std::mem::take(&mut generation.waited);
        let first = generation.first;
        // The first step of a generation has no step before it to measure from.
        let measured = |d: Duration| if step == first { 0.0 } else { d.as_secs_f64() };
        self.session.say(Say::Losses(wire::StepLosses {
            step: step.0,
            lanes: to_wire(first_lane, losses),
            step_seconds: measured(since),
            waited_seconds: measured(waited),
        }));
    }

    /// What the coordinator ordered for after the step that was just committed.
    fn follow(&mut self, orders: wire::Orders, generation: &mut Generation<'_>) -> Result<(), Interrupt> {
        let step = generation.state.step;
        let rank_zero = generation.place.rank == 0;
        if rank_zero {
            let last = step.0 >= self.config.run.steps;
            if last {
                // What is under way makes room: nothing comes after this one.
                self.await_scores(generation)?;
            }
            self.score(generation.state);
            if last {
                // The coordinator waits for the digest; once it has that, the run is over and hears no scores.
                self.await_scores(generation)?;
            }
        }
        if orders.digest || (orders.checkpoint && rank_zero) {
            let (equilibrium, _) = self.await_equilibrium(generation, step)?;
            self.session.activity().enter(Phase::Write);
            if orders.digest {
                let digest = digest(generation.state, &equilibrium)?;
                self.send_digest(generation.state, digest);
            }
            if orders.checkpoint && rank_zero {
                self.write_checkpoint(generation.state, &equilibrium, orders.stop)?;
            }
        }
        if orders.sample && rank_zero {
            self.session.activity().enter(Phase::Write);
            self.draw_samples(generation.state);
        }
        if orders.regroup {
            return Err(Interrupt::End(End::Regroup));
        }
        if orders.stop {
            return Err(Interrupt::End(self.await_stop(generation)?));
        }
        Ok(())
    }

    /// Takes in what has come meanwhile, without waiting.
    fn look_up(&self, generation: &mut Generation<'_>) -> Result<(), Interrupt> {
        while self.take_in(generation, Duration::ZERO)? {}
        Ok(())
    }

    fn next_batch(
        &self,
        generation: &mut Generation<'_>,
        step: Step,
        lane: u32,
    ) -> Result<began_data::Batch, Interrupt> {
        self.session.activity().enter(Phase::Data);
        let patience = Duration::from_secs_f64(self.config.run.step_timeout);
        let started = Instant::now();
        let batch = loop {
            match generation.loader.next(LOOK.min(patience)) {
                Err(DataError::Late { .. }) if started.elapsed() < patience => self.look_up(generation)?,
                Err(DataError::Late { doing, .. }) => return Err(DataError::Late { waited: patience, doing }.into()),
                batch => break batch?,
            }
        };
        if (batch.step, batch.lane) != (step.0, lane) {
            let (step, lane) = (batch.step, batch.lane);
            return Err(anyhow!("the loader gave step {step}, lane {lane} out of turn").into());
        }
        Ok(batch)
    }

    /// Takes what is in the inbox, for at most `patience`.
    fn take_in(&self, generation: &mut Generation<'_>, patience: Duration) -> Result<bool, Interrupt> {
        let Some(incoming) = self.session.next(patience) else { return Ok(false) };
        match incoming {
            Incoming::News(News::Equilibrium(equilibrium)) => {
                let orders = equilibrium.orders.unwrap_or_default();
                generation.equilibrium = Some((from_wire(&equilibrium), orders));
            }
            Incoming::News(News::Halt(reason)) => return Err(Interrupt::End(End::Halt(reason))),
            Incoming::News(News::Stop(stop)) => return Err(Interrupt::End(End::Stop(stop))),
            Incoming::News(News::Refused(reason) | News::Lost(reason)) => {
                return Err(Interrupt::End(End::Lost(reason)));
            }
            Incoming::News(News::Opened(number, _)) => {
                return Err(anyhow!("the coordinator opened generation {number} without ending the one before").into());
            }
            Incoming::News(News::WriteCheckpoint(_)) => {
                return Err(
                    anyhow!("the coordinator ordered a held state to be written in the middle of a step").into()
                );
            }
            Incoming::Reduced(Ok(Reduced::Discriminator(gradient, behind))) => {
                self.comes_before(&gradient, &behind)?;
                generation.d_gradient = Some(gradient);
            }
            Incoming::Reduced(Ok(Reduced::Generator(gradient, losses, behind))) => {
                self.comes_before(&gradient, &behind)?;
                generation.g_gradient = Some((gradient, losses));
            }
            Incoming::Reduced(Err(error)) => return Err(Interrupt::End(End::Severed(format!("{error:#}")))),
            // Of an attempt that was given up, or no news at all.
            Incoming::News(News::Welcome { .. }) | Incoming::Connected(..) | Incoming::Reduced(Ok(Reduced::Healed)) => {
            }
        }
        Ok(true)
    }

    /// What is computed from now on sees the sum, and its memory is kept until that is done.
    fn comes_before(&self, gradient: &Gradient, behind: &Event) -> Result<(), torch_ext::TorchError> {
        let stream = Stream::current(self.device)?;
        behind.hold_up(stream)?;
        stream.uses(&gradient.0)
    }

    /// The coordinator ends a hung step itself, and one that is gone is given up by the session; this bound is for a
    /// coordinator that does neither.
    pub(crate) fn patience(&self) -> Duration {
        let run = &self.config.run;
        Duration::from_secs_f64(run.step_timeout * 1.5 + run.coordinator_wait + 30.0)
    }

    /// Waits until `ready` gives something.
    fn wait_for<T>(
        &self,
        generation: &mut Generation<'_>,
        phase: Phase,
        what: &str,
        mut ready: impl FnMut(&mut Generation<'_>) -> Option<T>,
    ) -> Result<T, Interrupt> {
        if let Some(found) = ready(generation) {
            return Ok(found);
        }
        self.session.activity().enter(phase);
        let started = Instant::now();
        let bound = self.patience();
        loop {
            let left = bound.saturating_sub(started.elapsed());
            if !self.take_in(generation, left)? {
                return Err(anyhow!("waited {:.0} s for {what}", bound.as_secs_f64()).into());
            }
            if let Some(found) = ready(generation) {
                generation.waited += started.elapsed();
                return Ok(found);
            }
        }
    }

    fn await_equilibrium(
        &self,
        generation: &mut Generation<'_>,
        step: Step,
    ) -> Result<(Equilibrium, wire::Orders), Interrupt> {
        let what = format!("the coordinator's equilibrium of step {step}");
        self.wait_for(generation, Phase::Equilibrium, &what, |generation| {
            generation.equilibrium.filter(|(equilibrium, _)| equilibrium.step == step)
        })
    }

    fn await_sums(
        &self,
        generation: &mut Generation<'_>,
    ) -> Result<(Gradient, (Gradient, Vec<LaneLosses>)), Interrupt> {
        self.wait_for(generation, Phase::Reduce, "the sums over all trainers", |generation| {
            match (generation.d_gradient.take(), generation.g_gradient.take()) {
                (Some(d), Some(g)) => Some((d, g)),
                (d, g) => {
                    (generation.d_gradient, generation.g_gradient) = (d, g);
                    None
                }
            }
        })
    }

    /// Waits until no state is being scored, for a while.
    fn await_scores(&self, generation: &mut Generation<'_>) -> Result<(), Interrupt> {
        let Some(evaluator) = &self.evaluator else { return Ok(()) };
        self.session.activity().enter(Phase::Write);
        let started = Instant::now();
        let patience = SCORES.min(Duration::from_secs_f64(self.config.run.step_timeout / 4.0));
        while !evaluator.is_idle(LOOK.min(patience)) && started.elapsed() < patience {
            self.look_up(generation)?;
        }
        Ok(())
    }

    /// Waits for the run's end, which was ordered.
    fn await_stop(&self, generation: &mut Generation<'_>) -> Result<End, Interrupt> {
        match self.wait_for(generation, Phase::Idle, "the coordinator to end the run", |_| None::<()>) {
            Err(Interrupt::End(end)) => Ok(end),
            Err(error) => Err(error),
            Ok(()) => Err(anyhow!("the run was to end here").into()),
        }
    }
}

/// Tells whoever started this process that it has done a step in this generation: the one kind of line on standard output.
fn committed_once(step: Step) {
    use std::io::Write;
    // Nobody may read it.
    let _ = writeln!(std::io::stdout(), "{{\"committed\":{step}}}");
}
