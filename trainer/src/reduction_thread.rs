//! The thread that sums, so that D's gradients travel while G's backward runs.

use std::sync::mpsc::{Sender, channel};
use std::thread;

use anyhow::{Context, Result, bail};
use began::LaneLosses;
use began_proto::v1::Heal;
use tch::Tensor;

use crate::heal::hand_around;
use crate::reduce::{Gradient, Partials, Reducer};
use crate::session::Incoming;

/// A finished sum.
#[derive(Debug)]
pub enum Reduced {
    /// D's average gradient.
    Discriminator(Gradient),
    /// G's average gradient, and the losses of all lanes.
    Generator(Gradient, Vec<LaneLosses>),
    /// The state went around, as was ordered.
    Healed,
}

enum Job {
    Discriminator(Partials),
    Generator(Partials, Vec<LaneLosses>),
    Heal(Heal, Vec<Tensor>),
}

/// The reduction's end of the training loop. Dropping it ends the thread after the sum under way.
pub struct ReductionThread {
    jobs: Sender<Job>,
}

impl ReductionThread {
    /// Starts the thread; finished sums land in `inbox`, in the order in which they were asked for.
    ///
    /// # Errors
    /// If no thread can be started.
    pub fn start(mut reducer: Reducer, inbox: Sender<Incoming>) -> Result<Self> {
        let (jobs, queue) = channel();
        let work = move || {
            tch::set_num_threads(1);
            for job in queue {
                let reduced = match job {
                    Job::Discriminator(partials) => reducer.average(partials).map(Reduced::Discriminator),
                    Job::Generator(partials, losses) => reducer
                        .average_with_losses(partials, &losses)
                        .map(|(gradient, losses)| Reduced::Generator(gradient, losses)),
                    Job::Heal(heal, state) => heal_over(&mut reducer, &heal, &state).map(|()| Reduced::Healed),
                };
                let failed = reduced.is_err();
                if inbox.send(Incoming::Reduced(reduced)).is_err() || failed {
                    return;
                }
            }
        };
        thread::Builder::new().name("reduction".into()).spawn(work).context("cannot start the reduction's thread")?;
        Ok(Self { jobs })
    }

    /// Asks for D's average. A thread that is gone has said why in the inbox.
    pub fn discriminator(&self, partials: Partials) {
        let _ = self.jobs.send(Job::Discriminator(partials));
    }

    /// Asks for the state to be handed around; a receiver's tensors are filled.
    pub fn heal(&self, heal: Heal, state: Vec<Tensor>) {
        let _ = self.jobs.send(Job::Heal(heal, state));
    }

    /// Asks for G's average, and everyone's losses.
    pub fn generator(&self, partials: Partials, losses: Vec<LaneLosses>) {
        let _ = self.jobs.send(Job::Generator(partials, losses));
    }
}

fn heal_over(reducer: &mut Reducer, heal: &Heal, state: &[Tensor]) -> Result<()> {
    let world = reducer.world();
    match reducer.collective() {
        Some(collective) => hand_around(collective, heal, world, state),
        None => bail!("a world of one has nobody to get a state from"),
    }
}
