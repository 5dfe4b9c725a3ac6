//! The thread that sums, so that D's gradients travel while G's backward runs.

use std::sync::mpsc::{Sender, channel};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

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

/// How long the thread may take to end, once its group is left.
const ENDING: Duration = Duration::from_secs(2);

/// The reduction's end of the training loop. Dropping it ends the thread after the sum under way, which whoever leaves a
/// generation calls off before, and waits for that: what the thread had to say is in the inbox then, and its group is left.
pub struct ReductionThread {
    jobs: Option<Sender<Job>>,
    thread: JoinHandle<()>,
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
        let thread = thread::Builder::new().name("reduction".into()).spawn(work);
        Ok(Self { jobs: Some(jobs), thread: thread.context("cannot start the reduction's thread")? })
    }

    /// A thread that is gone has said why in the inbox.
    fn ask(&self, job: Job) {
        if let Some(jobs) = &self.jobs {
            let _ = jobs.send(job);
        }
    }

    /// Asks for D's average.
    pub fn discriminator(&self, partials: Partials) {
        self.ask(Job::Discriminator(partials));
    }

    /// Asks for the state to be handed around; a receiver's tensors are filled.
    pub fn heal(&self, heal: Heal, state: Vec<Tensor>) {
        self.ask(Job::Heal(heal, state));
    }

    /// Asks for G's average, and everyone's losses.
    pub fn generator(&self, partials: Partials, losses: Vec<LaneLosses>) {
        self.ask(Job::Generator(partials, losses));
    }
}

impl Drop for ReductionThread {
    fn drop(&mut self) {
        self.jobs = None;
        let started = Instant::now();
        while !self.thread.is_finished() {
            if started.elapsed() > ENDING {
                tracing::warn!("the reduction's thread has not ended within {} s and is left behind", ENDING.as_secs());
                return;
            }
            thread::sleep(Duration::from_millis(1));
        }
    }
}

fn heal_over(reducer: &mut Reducer, heal: &Heal, state: &[Tensor]) -> Result<()> {
    let world = reducer.world();
    match reducer.collective() {
        Some(collective) => hand_around(collective, heal, world, state),
        None => bail!("a world of one has nobody to get a state from"),
    }
}
