//! Batches made ready ahead of the step that needs them.
//!
//! One thread takes plans from an iterator, verifies each shard the first time it is touched, copies and mirrors the
//! pixels, and keeps up to `depth` batches ready. It must never decide which samples a step uses: that is in the
//! plans. Dropping the loader ends its thread, at the latest after the image it is copying or the shard it is
//! hashing; an iterator that blocks holds the thread (never the dropper) until it returns.

use std::collections::HashSet;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TryRecvError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::Builder;
use std::time::{Duration, Instant};

use crate::dataset::DataSet;
use crate::error::DataError;
use crate::shard;

/// One lane's real images of one step: which they are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BatchPlan {
    /// The step they are for.
    pub step: u64,
    /// The lane they are for.
    pub lane: u32,
    /// For each image: shard, index within it, and whether it is mirrored left to right.
    pub samples: Vec<(u32, u64, bool)>,
}

/// One lane's real images of one step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Batch {
    /// The step they are for.
    pub step: u64,
    /// The lane they are for.
    pub lane: u32,
    /// The pixels, `[batch,3,size,size]`, mirrored where the plan says so.
    pub pixels: Vec<u8>,
    /// Which samples these are ([`began::order::drawn_by_lane`]).
    pub drawn: u64,
}

/// The reading end of the thread that makes batches ready.
#[derive(Debug)]
pub struct Loader {
    batches: Receiver<Result<Batch, DataError>>,
    used: SyncSender<Vec<u8>>,
    shared: Arc<Shared>,
    waited: Duration,
    delivered: u64,
}

/// What the thread and its reader both see.
#[derive(Debug)]
struct Shared {
    doing: Mutex<Doing>,
    stop: AtomicBool,
}

/// What the thread is doing, for whoever waits in vain.
#[derive(Clone, Copy, Debug)]
enum Doing {
    Starting,
    Planning { after: Option<(u64, u32)> },
    Verifying { shard: u32, step: u64, lane: u32 },
    Copying { step: u64, lane: u32 },
    Delivering { step: u64, lane: u32 },
    Finished,
}

impl fmt::Display for Doing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Doing::Starting => write!(f, "starting"),
            Doing::Planning { after: None } => write!(f, "waiting for the first plan"),
            Doing::Planning { after: Some((step, lane)) } => {
                write!(f, "waiting for the plan that follows step {step}, lane {lane}")
            }
            Doing::Verifying { shard, step, lane } => {
                let file = shard::file_name(shard as usize);
                write!(f, "hashing {file} for step {step}, lane {lane}")
            }
            Doing::Copying { step, lane } => {
                write!(f, "copying the images of step {step}, lane {lane}")
            }
            Doing::Delivering { step, lane } => write!(f, "handing over step {step}, lane {lane}"),
            Doing::Finished => write!(f, "at the end of its plans"),
        }
    }
}

impl Shared {
    fn set(&self, doing: Doing) {
        *self.doing.lock().unwrap_or_else(PoisonError::into_inner) = doing;
    }

    fn doing(&self) -> Doing {
        *self.doing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }
}

impl Loader {
    /// Starts the thread. `depth`, at least 1, is how many batches it keeps ready.
    ///
    /// # Errors
    /// If the system gives no thread.
    pub fn start(
        data: Arc<DataSet>,
        plans: impl Iterator<Item = BatchPlan> + Send + 'static,
        depth: usize,
    ) -> Result<Loader, DataError> {
        let depth = depth.max(1);
        let (ready, batches) = sync_channel(depth);
        // Room for every buffer in use at once: those ready, one in the making, and a few with the trainer.
        let (used, free) = sync_channel(depth + 4);
        let shared = Arc::new(Shared { doing: Mutex::new(Doing::Starting), stop: AtomicBool::new(false) });
        let worker = Worker { data: Arc::clone(&data), ready, free, shared: Arc::clone(&shared), seen: HashSet::new() };
        Builder::new()
            .name("loader".into())
            .spawn(move || worker.run(plans))
            .map_err(DataError::io("start a thread to read", &data.manifest().shards[0].file))?;
        Ok(Loader { batches, used, shared, waited: Duration::ZERO, delivered: 0 })
    }

    /// The next batch, in the order of the plans.
    ///
    /// # Errors
    /// If none is ready within `timeout` (the loader goes on; ask again), if a shard is damaged or a plan asks for
    /// what is not there, or if the plans have ended.
    pub fn next(&mut self, timeout: Duration) -> Result<Batch, DataError> {
        let received = match self.batches.try_recv() {
            Ok(received) => Ok(received),
            Err(TryRecvError::Disconnected) => Err(RecvTimeoutError::Disconnected),
            Err(TryRecvError::Empty) => {
                let start = Instant::now();
                let received = self.batches.recv_timeout(timeout);
                self.waited += start.elapsed();
                received
            }
        };
        match received {
            Ok(batch) => {
                self.delivered += u64::from(batch.is_ok());
                batch
            }
            Err(RecvTimeoutError::Timeout) => {
                Err(DataError::Late { waited: timeout, doing: self.shared.doing().to_string() })
            }
            Err(RecvTimeoutError::Disconnected) => {
                let reason = match self.shared.doing() {
                    Doing::Finished => "there are no more plans".to_owned(),
                    doing => format!("it stopped while it was {doing}"),
                };
                Err(DataError::LoaderEnded { delivered: self.delivered, reason })
            }
        }
    }

    /// How long [`next`](Self::next) has blocked, all calls together: what training waited for data.
    #[must_use]
    pub fn waited(&self) -> Duration {
        self.waited
    }

    /// Gives a batch's buffer back, to be filled again. One too many is simply freed.
    pub fn recycle(&self, pixels: Vec<u8>) {
        let _ = self.used.try_send(pixels);
    }
}

impl Drop for Loader {
    fn drop(&mut self) {
        // Dropping the receiver, next, wakes a thread that waits to hand over.
        self.shared.stop.store(true, Ordering::Relaxed);
    }
}

/// The thread's end.
struct Worker {
    data: Arc<DataSet>,
    ready: SyncSender<Result<Batch, DataError>>,
    free: Receiver<Vec<u8>>,
    shared: Arc<Shared>,
    /// Shards verified by this thread.
    seen: HashSet<u32>,
}

impl Worker {
    fn run(mut self, mut plans: impl Iterator<Item = BatchPlan>) {
        let mut after = None;
        while !self.shared.stopped() {
            self.shared.set(Doing::Planning { after });
            let Some(plan) = plans.next() else {
                self.shared.set(Doing::Finished);
                return;
            };
            let (step, lane) = (plan.step, plan.lane);
            after = Some((step, lane));
            let Some(batch) = self.fill(&plan).transpose() else {
                return;
            };
            let failed = batch.is_err();
            if !failed {
                self.shared.set(Doing::Delivering { step, lane });
            }
            if self.ready.send(batch).is_err() || failed {
                return;
            }
        }
    }

    /// The batch of a plan; none if the loader was dropped meanwhile.
    fn fill(&mut self, plan: &BatchPlan) -> Result<Option<Batch>, DataError> {
        let (step, lane) = (plan.step, plan.lane);
        for &(shard, ..) in &plan.samples {
            if self.shared.stopped() {
                return Ok(None);
            }
            if !self.seen.contains(&shard) {
                self.shared.set(Doing::Verifying { shard, step, lane });
                self.data.verify_shard(shard)?;
                self.seen.insert(shard);
            }
        }
        self.shared.set(Doing::Copying { step, lane });
        let size = self.data.size() as usize;
        let mut pixels = self.free.try_recv().unwrap_or_default();
        pixels.clear();
        pixels.reserve_exact(plan.samples.len() * shard::image_bytes(self.data.size()));
        for &(shard, index, mirrored) in &plan.samples {
            if self.shared.stopped() {
                return Ok(None);
            }
            let image = self.data.image(shard, index)?;
            if mirrored {
                image.chunks_exact(size).for_each(|row| pixels.extend(row.iter().rev()));
            } else {
                pixels.extend_from_slice(image);
            }
        }
        let drawn = began::order::drawn_by_lane(plan.samples.iter().map(|&(shard, index, _)| (shard, index)));
        Ok(Some(Batch { step, lane, pixels, drawn }))
    }
}
