//! The thread that sums, so that D's gradients travel while G's backward runs.

use std::sync::mpsc::{Sender, channel};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use began::LaneLosses;
use began_proto::v1::Heal;
use tch::{Device, Tensor};
use torch_ext::stream::{Event, Stream};

use crate::heal::hand_around;
use crate::reduce::{Gradient, Partials, Reducer};
use crate::session::Incoming;

/// A finished sum. On a GPU the event is behind it: what uses the gradient comes after that.
#[derive(Debug)]
pub enum Reduced {
    /// D's average gradient.
    Discriminator(Gradient, Event),
    /// G's average gradient, and the losses of all lanes.
    Generator(Gradient, Vec<LaneLosses>, Event),
    /// The state went around, as was ordered.
    Healed,
}

enum Work {
    Discriminator(Partials),
    Generator(Partials, Vec<LaneLosses>),
    Heal(Heal, Vec<Tensor>),
}

/// Something to do, once the device has done what is before the event.
struct Job {
    work: Work,
    after: Event,
}

/// How long the thread may take to end, once its group is left.
const ENDING: Duration = Duration::from_secs(2);
/// How long leaving in good order may take of that.
const LEAVING: Duration = Duration::from_secs(1);

/// The reduction's end of the training loop. Dropping it ends the thread after the sum under way, which whoever leaves a
/// generation calls off before, and waits for that: what the thread had to say is in the inbox then, and its group is left.
pub struct ReductionThread {
    jobs: Option<Sender<Job>>,
    device: Device,
    thread: JoinHandle<()>,
}

impl ReductionThread {
    /// Starts the thread; finished sums land in `inbox`, in the order in which they were asked for.
    ///
    /// # Errors
    /// If no thread can be started, or the device has no stream for it.
    pub fn start(mut reducer: Reducer, device: Device, inbox: Sender<Incoming>) -> Result<Self> {
        let (jobs, queue) = channel::<Job>();
        // Sums go before what computes: the rest of the world waits for them.
        let stream = Stream::new(device, true)?;
        let work = move || {
            tch::set_num_threads(1);
            let _entered = match stream.enter() {
                Ok(entered) => entered,
                Err(error) => return drop(inbox.send(Incoming::Reduced(Err(error.into())))),
            };
            for job in queue {
                let reduced = carry_out(&mut reducer, job, device, stream);
                let failed = reduced.is_err();
                if inbox.send(Incoming::Reduced(reduced)).is_err() || failed {
                    return;
                }
            }
            // Where it was called off this leaves at once.
            reducer.leave(LEAVING);
        };
        let thread = thread::Builder::new().name("reduction".into()).spawn(work);
        Ok(Self { jobs: Some(jobs), device, thread: thread.context("cannot start the reduction's thread")? })
    }

    /// A thread that is gone has said why in the inbox.
    fn ask(&self, work: Work) -> Result<()> {
        let mut after = Event::new(self.device, false)?;
        after.record(Stream::current(self.device)?)?;
        if let Some(jobs) = &self.jobs {
            let _ = jobs.send(Job { work, after });
        }
        Ok(())
    }

    /// Asks for D's average.
    ///
    /// # Errors
    /// If the device fails.
    pub fn discriminator(&self, partials: Partials) -> Result<()> {
        self.ask(Work::Discriminator(partials))
    }

    /// Asks for the state to be handed around; a receiver's tensors are filled.
    ///
    /// # Errors
    /// If the device fails.
    pub fn heal(&self, heal: Heal, state: Vec<Tensor>) -> Result<()> {
        self.ask(Work::Heal(heal, state))
    }

    /// Asks for G's average, and everyone's losses.
    ///
    /// # Errors
    /// If the device fails.
    pub fn generator(&self, partials: Partials, losses: Vec<LaneLosses>) -> Result<()> {
        self.ask(Work::Generator(partials, losses))
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

fn carry_out(reducer: &mut Reducer, job: Job, device: Device, stream: Stream) -> Result<Reduced> {
    job.after.hold_up(stream)?;
    let behind = || -> Result<Event> {
        let mut event = Event::new(device, false)?;
        event.record(stream)?;
        Ok(event)
    };
    // Buffers of the training loop's own stream: their memory stays theirs until the sum is through with it.
    let uses = |partials: &Partials| partials.iter().try_for_each(|(_, tensor)| stream.uses(tensor));
    Ok(match job.work {
        Work::Discriminator(partials) => {
            uses(&partials)?;
            Reduced::Discriminator(reducer.average(partials)?, behind()?)
        }
        Work::Generator(partials, losses) => {
            uses(&partials)?;
            let (gradient, losses) = reducer.average_with_losses(partials, &losses)?;
            Reduced::Generator(gradient, losses, behind()?)
        }
        Work::Heal(heal, state) => {
            heal_over(reducer, &heal, &state)?;
            Reduced::Healed
        }
    })
}

fn heal_over(reducer: &mut Reducer, heal: &Heal, state: &[Tensor]) -> Result<()> {
    let world = reducer.world();
    match reducer.collective() {
        Some(collective) => hand_around(collective, heal, world, state),
        None => bail!("a world of one has nobody to get a state from"),
    }
}
