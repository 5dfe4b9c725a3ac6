//! The page: the run as a browser, Prometheus and a person's script see it, served over HTTP on a port of its own.
//!
//! It has a thread of its own, and nothing on a step's path ever waits for it: what happens comes over a bounded queue that is
//! tried and not waited for ([`feed`]), and what visitors ask for is answered from its own memory or, on another thread, from the
//! run's files (`past.rs`). The one thing it asks the actor for is how the world stands, at most once a second, while somebody looks.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use axum::body::Bytes;
use began::{RunConfig, Step};
pub use began_credentials::Page as Guard;
use began_proto::v1::{Ended, StatusResponse};
use began_record::{EventRow, RunDir, RunManifest, StepRow};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::{broadcast, mpsc, oneshot};

use crate::actor::{self, Input};
use crate::courtesy;
use crate::gate::turned_away::TurnedAway;
use crate::machine::Action;
use crate::meters::Meters;
use crate::recorder::wall_clock;

mod answers;
mod assets;
mod course;
mod door;
pub mod feed;
mod metrics;
mod past;
mod tally;
mod visitor;
mod world;

use course::Course;
use feed::{Log, News, Taking, frame};
use past::Past;
use tally::Tally;
use visitor::Porter;
use world::World;

/// Steps are told to visitors this often.
const BATCH: Duration = Duration::from_millis(500);
/// The world is looked at this often, while somebody looks.
const LOOK: Duration = Duration::from_secs(1);
/// Messages that a visitor may be behind before it is cut off.
const BEHIND: usize = 256;
/// How long the journal gets to be written before it is read again.
const WRITTEN: Duration = Duration::from_millis(500);
/// Side of the block of generated images in a sample grid; then come two blocks of two columns.
const GRID: u32 = 8;

/// What a page is made of.
#[derive(Debug)]
pub struct Setup {
    /// Where it listens.
    pub listener: TcpListener,
    /// How it is guarded.
    pub guard: Guard,
    /// The run.
    pub run: RunDir,
    /// Its configuration in force, and the text of it.
    pub config: (RunConfig, String),
    /// What ran on what.
    pub manifest: RunManifest,
    /// What happened before.
    pub past: (Vec<StepRow>, Vec<EventRow>),
    /// Trainers that make the world.
    pub world: u32,
    /// The way to the actor.
    pub actor: mpsc::Sender<Input>,
    /// What trainers say of themselves.
    pub meters: Arc<Meters>,
    /// How many steps are in the journal for good.
    pub durable: Arc<AtomicU64>,
    /// Where those go who are turned away.
    pub log: Arc<TurnedAway>,
}

/// A page that is served, until it is dropped.
#[derive(Debug)]
pub struct Page {
    address: SocketAddr,
    secure: bool,
    fingerprint: Option<String>,
    close: Option<oneshot::Sender<()>>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Page {
    /// Serves, on a thread of its own.
    ///
    /// # Errors
    /// If the system refuses something.
    pub fn open(setup: Setup, taking: Taking) -> std::io::Result<Self> {
        let address = setup.listener.local_addr()?;
        let (secure, fingerprint) = (setup.guard.is_secure(), setup.guard.fingerprint().map(str::to_owned));
        // Sockets belong to the runtime they were made in.
        let listener = setup.listener.into_std()?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().max_blocking_threads(4).build()?;
        let porter = Arc::new(Porter { guard: setup.guard, log: setup.log });
        let (config, text) = setup.config;
        let facts = facts(&setup.run, &config, &text, &setup.manifest, setup.world);
        let (steps, events) = setup.past;
        let hall = Arc::new(Hall {
            facts,
            tally: Mutex::new(Tally::of(&events)),
            course: Mutex::new(Course::of(&steps)),
            log: Mutex::new(Log::of(events)),
            windows: AtomicU64::new(0),
            pulse: tokio::sync::Mutex::new(Pulse::default()),
            ended: Mutex::new(None),
            live: broadcast::Sender::new(BEHIND),
            past: Past::new(setup.run, config),
            actor: setup.actor,
            meters: setup.meters,
            durable: setup.durable,
        });
        let (close, closed) = oneshot::channel();
        let work = move || {
            courtesy::give_way(courtesy::LEFT_OVER);
            runtime.block_on(async move {
                let Ok(listener) = TcpListener::from_std(listener) else { return };
                let routes = answers::routes(hall.clone(), porter.clone());
                tokio::select! {
                    () = door::stand(listener, porter, routes) => {}
                    () = hall.clone().take_in(taking) => {}
                    _ = closed => {}
                }
            });
            runtime.shutdown_timeout(Duration::from_millis(100));
        };
        let thread = thread::Builder::new().name("page".into()).spawn(work)?;
        Ok(Self { address, secure, fingerprint, close: Some(close), thread: Some(thread) })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its address for a browser.
    #[must_use]
    pub fn url(&self) -> String {
        format!("{}://{}/", if self.secure { "https" } else { "http" }, self.address)
    }

    /// SHA-256 of its certificate, where it has one.
    #[must_use]
    pub fn fingerprint(&self) -> Option<&str> {
        self.fingerprint.as_deref()
    }
}

impl Drop for Page {
    fn drop(&mut self) {
        drop(self.close.take());
        // It answers nobody for longer than this; a thread that hangs on a dead disk must not hold up the end.
        let until = Instant::now() + Duration::from_millis(500);
        while let Some(thread) = &self.thread
            && !thread.is_finished()
            && Instant::now() < until
        {
            thread::sleep(Duration::from_millis(2));
        }
    }
}

/// What stays the same.
fn facts(
    run: &RunDir,
    config: &RunConfig,
    text: &str,
    manifest: &RunManifest,
    world: u32,
) -> serde_json::Map<String, Value> {
    // The folder and the one it lies in: whose machine's path it is, is nobody's business who looks on.
    let path = std::path::absolute(run.path()).unwrap_or_else(|_| run.path().into());
    let mut parts: Vec<_> = path.components().rev().take(2).collect();
    parts.reverse();
    let name: std::path::PathBuf = parts.into_iter().collect();
    let blocks = json!([
        { "name": "generated", "columns": GRID },
        { "name": "real, reconstruction", "columns": 2 },
        { "name": "generated, reconstruction", "columns": 2 },
    ]);
    let facts = json!({
        "run": manifest.run,
        "name": name.display().to_string(),
        "began": env!("CARGO_PKG_VERSION"),
        "started": wall_clock(),
        "steps": config.run.steps,
        "lanes": config.run.lanes,
        "batch": config.run.batch,
        "size": config.model.size,
        "gamma": config.objective.gamma,
        "seed": config.run.seed,
        "world": world,
        "config": text,
        "grid": { "image": config.model.size, "generated": [GRID, GRID], "blocks": blocks },
    });
    match facts {
        Value::Object(facts) => facts,
        _ => serde_json::Map::new(),
    }
}

/// The last look at the world, and what it was made of.
#[derive(Debug, Default)]
struct Pulse {
    world: World,
    status: Option<(Instant, Arc<StatusResponse>)>,
}

/// What the page knows; shared by all requests, which all run on one thread: no lock is ever waited for long.
#[derive(Debug)]
pub(crate) struct Hall {
    facts: serde_json::Map<String, Value>,
    tally: Mutex<Tally>,
    course: Mutex<Course>,
    log: Mutex<Log>,
    /// Windows of the diagnosis that became whole since the start, and rewinds: changes when the diagnosis may.
    windows: AtomicU64,
    pulse: tokio::sync::Mutex<Pulse>,
    ended: Mutex<Option<Ended>>,
    live: broadcast::Sender<Bytes>,
    past: Past,
    actor: mpsc::Sender<Input>,
    meters: Arc<Meters>,
    durable: Arc<AtomicU64>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Every change is complete before a lock is let go.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Hall {
    fn course(&self) -> MutexGuard<'_, Course> {
        lock(&self.course)
    }

    fn log(&self) -> MutexGuard<'_, Log> {
        lock(&self.log)
    }

    fn tally(&self) -> MutexGuard<'_, Tally> {
        lock(&self.tally)
    }

    fn windows_whole(&self) -> u64 {
        self.windows.load(Ordering::Relaxed)
    }

    fn is_live(&self) -> bool {
        lock(&self.ended).is_none()
    }

    /// Takes news in and passes them on, for as long as there are any.
    async fn take_in(self: Arc<Self>, mut taking: Taking) {
        let mut batch: Vec<StepRow> = Vec::new();
        let mut flush = tokio::time::interval(BATCH);
        flush.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut looked = Instant::now();
        loop {
            tokio::select! {
                news = taking.next() => match news {
                    Some(news) => self.take(news, &mut batch),
                    None => return,
                },
                _ = flush.tick() => {
                    self.tell_steps(&mut batch);
                    if taking.missed() {
                        self.clone().read_again();
                    }
                    if self.live.receiver_count() > 0 && looked.elapsed() >= LOOK - BATCH / 4 {
                        looked = Instant::now();
                        let hall = self.clone();
                        tokio::spawn(async move { hall.look_and_tell().await });
                    }
                }
            }
        }
    }

    fn take(self: &Arc<Self>, news: News, batch: &mut Vec<StepRow>) {
        match news {
            News::Step(row, images_per_second) => {
                self.course().step(&row);
                self.tally().step(&row, images_per_second);
                batch.push(row);
            }
            News::Rewind(step) => {
                self.tell_steps(batch);
                let exact = self.course().rewind(step.0);
                self.windows.fetch_add(1, Ordering::Relaxed);
                self.tell(|| frame("rewind", &json!({ "step": step.0 })));
                if !exact {
                    self.clone().read_again();
                }
            }
            News::Event(row) => {
                self.tally().event(&row);
                let noted = self.log().note(row);
                self.tell(|| frame("event", &noted));
            }
            News::Window(to) => {
                self.windows.fetch_add(1, Ordering::Relaxed);
                self.tell(|| frame("window", &json!({ "to": to })));
            }
            News::Ended(ended) => {
                self.tell_steps(batch);
                self.tell(|| feed::ended(&ended));
                *lock(&self.ended) = Some(ended);
            }
        }
    }

    fn tell(&self, message: impl FnOnce() -> Bytes) {
        if self.live.receiver_count() > 0 {
            // Nobody there any more is no error.
            let _ = self.live.send(message());
        }
    }

    fn tell_steps(&self, batch: &mut Vec<StepRow>) {
        if !batch.is_empty() {
            self.tell(|| feed::steps(batch));
            batch.clear();
        }
    }

    /// Makes the curves again from the journal, once that has been written.
    fn read_again(self: Arc<Self>) {
        tokio::spawn(async move {
            tokio::time::sleep(WRITTEN).await;
            match self.past.steps().await {
                Ok(steps) => {
                    let mut course = self.course();
                    let mut again = Course::of(&steps);
                    // What has come since is not all in the journal yet.
                    for row in course.recent() {
                        again.step(row);
                    }
                    *course = again;
                }
                Err(error) => tracing::debug!("the page's curves may have a hole: {error}"),
            }
        });
    }

    /// How the run stands, at most a second ago.
    async fn status(&self) -> Result<Arc<StatusResponse>, String> {
        self.look().await.map(|(_, status)| status)
    }

    /// Looks at the world, if the last look is too long ago; whether it is another world.
    async fn look(&self) -> Result<(bool, Arc<StatusResponse>), String> {
        let mut pulse = self.pulse.lock().await;
        if let Some((at, status)) = &pulse.status
            && at.elapsed() < LOOK - BATCH / 2
        {
            return Ok((false, status.clone()));
        }
        let mut status = actor::ask(&self.actor, Input::Status).await.map_err(|why| why.to_string())?;
        self.meters.complete(&mut status.trainers);
        let changed = pulse.world.look(&status, wall_clock());
        let status = Arc::new(status);
        pulse.status = Some((Instant::now(), status.clone()));
        Ok((changed, status))
    }

    async fn look_and_tell(&self) {
        match self.look().await {
            Ok((changed, _)) => {
                let pulse = self.pulse.lock().await;
                if changed {
                    self.tell(|| pulse.world.who.clone());
                }
                self.tell(|| pulse.world.pulse.clone());
            }
            Err(why) => tracing::debug!("the page cannot look at the world: {why}"),
        }
    }

    /// What a new visitor is told at once, and the way to the rest.
    async fn follow(&self) -> (Vec<Bytes>, broadcast::Receiver<Bytes>) {
        let rest = self.live.subscribe();
        let mut first = Vec::new();
        if self.look().await.is_ok_and(|(changed, _)| changed) {
            // Others know another world.
            self.tell(|| self.pulse.try_lock().map(|pulse| pulse.world.who.clone()).unwrap_or_default());
        }
        let pulse = self.pulse.lock().await;
        first.extend([pulse.world.who.clone(), pulse.world.pulse.clone()]);
        drop(pulse);
        first.extend(self.course().last().map(|row| feed::steps(&[*row])));
        first.extend(lock(&self.ended).as_ref().map(feed::ended));
        (first, rest)
    }

    async fn order(&self, action: Action, reason: String) -> Result<Result<Step, String>, String> {
        let question = |reply| Input::Control { action, reason, grace: Duration::ZERO, reply };
        actor::ask(&self.actor, question).await.map_err(|why| why.to_string())
    }
}
