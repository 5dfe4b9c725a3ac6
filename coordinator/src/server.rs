//! A coordinator over the directory of a run: reads the run, binds the address, serves until the run ends, and leaves
//! everything written.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use began::Step;
use began::order::{OrderError, SampleOrder};
use began_credentials::{Arguments, ArgumentsError};
use began_data::DataError;
use began_proto::v1::DESCRIPTORS;
use began_proto::v1::coordinator_server::CoordinatorServer;

use began_record::{Announcement, Checkpoint, EventRow, Journal, RecordError, RunDir, RunLock, RunManifest, StepRow};
use began_traces::{Attribute, Traces};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tonic::transport::Server;

pub use crate::actor::Outcome;
use crate::actor::{Actor, INCOMING, Input};
use crate::beside::Beside;
use crate::diagnosis::{Collecting, Collector};
use crate::downlink::Downlinks;
use crate::exchange::Exchange;
use crate::gate::turned_away::TurnedAway;
use crate::gate::{self, Limits};
use crate::history::History;
use crate::inputs::InputLog;
use crate::machine::{Action, Machine, Plan, PlanError, Resume};
use crate::meters::Meters;
use crate::page::{self, Page};
use crate::recorder::{Recorder, Recording, wall_clock};
use crate::rights::Rights;
use crate::service::Face;
use crate::spans::Spans;
use crate::watchers::Watchers;
use crate::wire::Letterhead;

/// What clients have to take their last messages in before their connections are cut.
const GRACE: Duration = Duration::from_secs(2);
/// What the record has to be written to the end, tries on a full disk included.
const FLUSH: Duration = Duration::from_secs(10);
/// Calls that may be open on one connection at once: a trainer has a stream and a few exchanges.
const CALLS: u32 = 128;
/// Bytes of a call's headers.
const HEADERS: u32 = 16 << 10;

/// How to start.
#[derive(Clone, Debug)]
pub struct Options {
    /// The directory of the run.
    pub run: PathBuf,
    /// `host:port`; port 0 takes a free one.
    pub listen: String,
    /// Where the page is served, if it is: `host:port`.
    pub http: Option<String>,
    /// Who is let in.
    pub credentials: Arguments,
    /// How many trainers make the world.
    pub world: u32,
    /// On how many nodes, if that is known.
    pub nodes: Option<u32>,
    /// Go on from a checkpoint even if its hashes are wrong.
    pub accept_changed_checkpoint: bool,
    /// How long to wait for the world.
    pub forming_timeout: Duration,
    /// Whether to keep a journal: without one nothing of the run is recorded, and it cannot be recovered.
    pub journal: bool,
}

/// Why a coordinator did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The files of the run.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// The data set.
    #[error("data.path: {0}")]
    Data(#[from] DataError),
    /// The data set has changed since the run was made.
    #[error("the data in {} is not what the run was made with: its digest is {found}, the run's {expected}", path.display())]
    OtherData {
        /// The data set.
        path: PathBuf,
        /// In the run's manifest.
        expected: String,
        /// In the data's.
        found: String,
    },
    /// Images of another size than the network's.
    #[error("the data in {} has images of {found} pixels, model.size is {expected}", path.display())]
    OtherSize {
        /// The data set.
        path: PathBuf,
        /// `model.size`.
        expected: u32,
        /// In the data.
        found: u32,
    },
    /// No order over the data.
    #[error(transparent)]
    Order(#[from] OrderError),
    /// Something in the configuration and the options does not fit.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// The address.
    #[error("cannot listen on {address}: {error}{}", in_use(error))]
    Listen {
        /// As given.
        address: String,
        /// The system's words.
        error: std::io::Error,
    },
    /// The page's address.
    #[error("the page cannot listen on {address}: {error}{}", in_use_http(error))]
    ListenHttp {
        /// As given.
        address: String,
        /// The system's words.
        error: std::io::Error,
    },
    /// What is to prove who may come in, or that nothing is.
    #[error(transparent)]
    Credentials(#[from] ArgumentsError),
    /// Something the system refused.
    #[error("cannot start {what}: {error}")]
    Start {
        /// What was tried.
        what: &'static str,
        /// The words of whoever refused.
        error: String,
    },
}

fn in_use(error: &std::io::Error) -> &'static str {
    advice(error, "; another process listens there, choose another --listen")
}

fn in_use_http(error: &std::io::Error) -> &'static str {
    advice(error, "; another process listens there, choose another --http")
}

fn advice(error: &std::io::Error, in_use: &'static str) -> &'static str {
    match error.kind() {
        std::io::ErrorKind::AddrInUse => in_use,
        std::io::ErrorKind::AddrNotAvailable => "; this machine does not have that address",
        std::io::ErrorKind::InvalidInput => "; an address has the form HOST:PORT, with a port up to 65535",
        _ => "",
    }
}

/// A coordinator that is listening.
#[derive(Debug)]
pub struct Coordinator {
    run: RunDir,
    address: SocketAddr,
    inputs: mpsc::Sender<Input>,
    outcome: oneshot::Receiver<Outcome>,
    recording: Recording,
    collecting: Collecting,
    traces: Option<Traces>,
    actor: JoinHandle<()>,
    server: JoinHandle<Result<(), tonic::transport::Error>>,
    guarded: &'static str,
    page: Option<Page>,
    turned_away: Arc<TurnedAway>,
    shut_down: oneshot::Sender<()>,
    _lock: RunLock,
}

/// Asks a running coordinator for things, from the same process.
#[derive(Clone, Debug)]
pub struct Handle(mpsc::Sender<Input>);

impl Handle {
    /// Finish the step, write a checkpoint, end.
    pub async fn stop(&self, reason: &str) {
        let (reply, _) = oneshot::channel();
        let reason = reason.into();
        let _ = self.0.send(Input::Control { action: Action::Stop, reason, grace: Duration::ZERO, reply }).await;
    }

    /// End at once.
    pub async fn abort(&self, reason: &str) {
        let _ = self.0.send(Input::Abort(reason.into())).await;
    }
}

impl Coordinator {
    /// Reads the run, takes its lock and listens.
    ///
    /// # Errors
    /// If the run, its data or the address cannot be used.
    pub async fn start(options: &Options) -> Result<Self, StartError> {
        let run = RunDir::open(&options.run)?;
        let lock = run.lock()?;
        let config_text = std::fs::read_to_string(run.path().join("run.toml"))
            .map_err(RecordError::io("read", run.path().join("run.toml")))?;
        let manifest = run.manifest()?;
        let (mut journal, salvaged) = Journal::open_or_salvage(&run)?;
        let mut warnings: Vec<String> = salvaged.into_iter().collect();
        if !options.accept_changed_checkpoint {
            match run.set_aside_damaged_checkpoints(&manifest.run) {
                Ok(passed_over) => warnings.extend(passed_over),
                Err(error @ RecordError::OtherRun { .. }) => return Err(error.into()),
                // Trainers may hold what no checkpoint does; a trainer that is to begin with one looks at it again.
                Err(error) => warnings.push(format!("no checkpoint of the run can be used: {error}")),
            }
        }
        let past = (journal.steps()?, journal.events()?);
        let plan = plan(&run, &manifest, &past, options)?;
        let config = plan.config.clone();
        let world = plan.world;
        let durable = Arc::new(AtomicU64::new(plan.recorded.0));
        let kept = postcard::to_stdvec(&plan)
            .map_err(|error| StartError::Start { what: "the journal of decisions", error: error.to_string() })?;
        let (lineage, recent) = (plan.lineage, plan.recent.clone());
        let scored = journal.evaluations()?;
        let machine = Machine::new(plan)?;

        let cannot_listen = |error| StartError::Listen { address: options.listen.clone(), error };
        // Looked at before anything listens: off this machine nothing ever does so in plain text.
        let at: Vec<SocketAddr> = tokio::net::lookup_host(&options.listen).await.map_err(cannot_listen)?.collect();
        let guard = options.credentials.server(&at)?;
        let listener = TcpListener::bind(&at[..]).await.map_err(cannot_listen)?;
        let address = listener.local_addr().map_err(cannot_listen)?;
        let http = match &options.http {
            Some(http) => Some(listen_for_page(http, &options.credentials).await?),
            None => None,
        };

        let start = journal.start(wall_clock(), &kept)?;
        let (inputs, taken) = mpsc::channel(INCOMING);
        let complaints = inputs.clone();
        // Tried, not waited for: the record's complaints must not stop the record.
        let trouble = Box::new(move |text: String| drop(complaints.try_send(Input::Trouble(text))));
        let (recorder, recording) = Recorder::start(run.clone(), journal, start, durable.clone(), trouble)
            .map_err(|error| StartError::Start { what: "the recorder's thread", error: error.to_string() })?;

        let recorder = if options.journal { recorder } else { recorder.silenced() };
        let (feed, taking) = if http.is_some() { page::feed::feed() } else { page::feed::nobody() };
        let watchers = Arc::new(Watchers::default());
        let beside = Beside { recorder, watchers: watchers.clone(), page: feed };
        let (diagnosis, collecting) = Collector::start(config.clone(), lineage, (&recent, &scored), beside.clone())
            .map_err(|error| StartError::Start { what: "the diagnosis' thread", error: error.to_string() })?;
        let exchange = Arc::new(Exchange::new(manifest.run.clone()));
        let letterhead = Letterhead {
            run: manifest.run.clone(),
            config: config_text.clone(),
            data_digest: manifest.data_digest.clone(),
            heartbeat_seconds: config.run.heartbeat_timeout / 4.0,
            durable: durable.clone(),
        };
        let about = vec![Attribute::new("began.run", manifest.run.clone())];
        let traces = Traces::from_environment("began-coordinator", about);
        let actor = Actor {
            machine,
            letterhead,
            exchange: exchange.clone(),
            beside,
            diagnosis: diagnosis.clone(),
            spans: traces.clone().map(|traces| Spans::new(traces, manifest.run.clone())),
            inputs: InputLog::default(),
            launch: manifest.launches.len() as u32,
            steps: config.run.steps,
            lanes: config.run.lanes,
            world,
        };
        for warning in warnings {
            let _ = inputs.try_send(Input::Trouble(warning));
        }
        let (told, outcome) = oneshot::channel();
        let actor = tokio::spawn(actor.run(taken, told));
        let turned_away = Arc::new(TurnedAway::new(complaint(inputs.clone())));
        let meters = Arc::new(Meters::default());
        let face = Face::new(inputs.clone(), exchange, watchers, turned_away.clone(), diagnosis, meters.clone());
        let page = match http {
            None => None,
            Some((listener, guard)) => {
                let setup = page::Setup {
                    listener,
                    guard,
                    run: run.clone(),
                    config: (config, config_text),
                    manifest,
                    past,
                    world,
                    actor: inputs.clone(),
                    meters: meters.clone(),
                    durable,
                    log: turned_away.clone(),
                };
                let cannot = |error: std::io::Error| StartError::Start { what: "the page", error: error.to_string() };
                Some(Page::open(setup, taking).map_err(cannot)?)
            }
        };
        let (shut_down, asked) = oneshot::channel();
        let guarded = guard.in_words();
        let tls = guard.is_secure();
        let limits = Limits::of(world, most_files());
        let incoming = gate::open(listener, guard, limits, turned_away.clone(), &meters);
        let server = serve(incoming, face, turned_away.clone(), asked).await?;
        let credentials = options.credentials.folder();
        run.announce(&Announcement {
            address: address.to_string(),
            pid: std::process::id(),
            tls,
            credentials,
            page: page.as_ref().map(Page::url),
        })?;
        Ok(Self {
            run,
            address,
            inputs,
            outcome,
            recording,
            collecting,
            traces,
            actor,
            server,
            guarded,
            page,
            turned_away,
            shut_down,
            _lock: lock,
        })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// How those who come prove who they are, in words.
    #[must_use]
    pub fn guarded_by(&self) -> &'static str {
        self.guarded
    }

    /// The page, if one is served.
    #[must_use]
    pub fn page(&self) -> Option<&Page> {
        self.page.as_ref()
    }

    /// A handle to ask it for things.
    #[must_use]
    pub fn handle(&self) -> Handle {
        Handle(self.inputs.clone())
    }

    /// Waits for the run to end, writes everything down and shuts the server down. Takes at most the time to flush and a
    /// grace for clients, once the run has ended.
    pub async fn finished(self) -> Outcome {
        let Self {
            run,
            outcome,
            recording,
            collecting,
            traces,
            actor,
            mut server,
            page,
            shut_down,
            turned_away,
            _lock,
            ..
        } = self;
        let outcome = outcome.await.unwrap_or_else(|_| Outcome {
            failed: true,
            reason: "the coordinator's own task ended: this is a defect of the coordinator".into(),
            step: Step(0),
        });
        let flushed = tokio::task::spawn_blocking(move || {
            collecting.finish(GRACE);
            recording.finish(FLUSH);
            if let Some(traces) = traces {
                traces.finish();
            }
        });
        let _ = flushed.await;
        let _ = shut_down.send(());
        // Streams end behind their last message; who does not read is cut off.
        if tokio::time::timeout(GRACE, &mut server).await.is_err() {
            server.abort();
        }
        actor.abort();
        drop(page);
        run.retract();
        if let Some(total) = turned_away.total() {
            tracing::info!("{total}");
        }
        outcome
    }
}

/// Where the page listens, and how it is guarded.
async fn listen_for_page(http: &str, credentials: &Arguments) -> Result<(TcpListener, page::Guard), StartError> {
    let cannot_listen = |error| StartError::ListenHttp { address: http.into(), error };
    let at: Vec<SocketAddr> = tokio::net::lookup_host(http).await.map_err(cannot_listen)?.collect();
    let guard = credentials.page(&at)?;
    Ok((TcpListener::bind(&at[..]).await.map_err(cannot_listen)?, guard))
}

/// Puts together what the machine starts from.
fn plan(
    run: &RunDir,
    manifest: &RunManifest,
    (steps, events): &(Vec<StepRow>, Vec<EventRow>),
    options: &Options,
) -> Result<Plan, StartError> {
    let config = run.config()?;
    let path = Path::new(&config.data.path);
    let data = began_data::Manifest::load(path)?;
    if data.digest != manifest.data_digest {
        let (expected, found) = (manifest.data_digest.clone(), data.digest);
        return Err(StartError::OtherData { path: path.into(), expected, found });
    }
    if data.size != config.model.size {
        return Err(StartError::OtherSize { path: path.into(), expected: config.model.size, found: data.size });
    }
    if config.run.lanes == 0 {
        return Err(PlanError::NoLanes.into());
    }
    let order = SampleOrder::new(config.run.seed, data.shard_samples(), config.run.lanes, config.run.batch)?;
    let history = History::of(events);
    // What a step back has made void may still lie there, if the coordinator died right after it decided that.
    let steps: Vec<_> = steps.iter().filter(|row| history.allows(row.record.step.next())).collect();
    let mut checkpoints = run.checkpoints().unwrap_or_default();
    checkpoints.retain(|checkpoint| history.allows(checkpoint.step));
    for checkpoint in &mut checkpoints {
        checkpoint.state.equilibrium = history.apply(checkpoint.state.equilibrium);
    }
    let recorded = steps.last().map_or(Step(0), |row| row.record.step.next());
    // A checkpoint that is ahead of the journal would leave a hole in it, unless the journal itself was lost.
    let last = checkpoints.iter().rfind(|checkpoint| checkpoint.step <= recorded).or(checkpoints.last());
    let resume = last.map(|Checkpoint { path, state, .. }| Resume {
        path: path.to_string_lossy().into_owned(),
        equilibrium: state.equilibrium,
    });
    let reach = began::guard::Watch::reach(&config.guard, 20 * config.run.checkpoint_every.clamp(1, 50_000));
    let known = &steps[steps.len().saturating_sub(reach)..];
    Ok(Plan {
        recorded,
        digested: history.agreed,
        recent: known.iter().map(|row| row.record).collect(),
        lineage: history.lineage,
        rollbacks: history.rollbacks,
        lowered: history.lowered,
        run: manifest.run.clone(),
        order,
        world: options.world,
        nodes: options.nodes,
        resume,
        checkpoints: checkpoints.iter().map(|checkpoint| (checkpoint.step, checkpoint.state.equilibrium)).collect(),
        // Generations count on over launches, so that the journal can tell them apart.
        generation: history.generation,
        accept_changed_checkpoint: options.accept_changed_checkpoint,
        forming_timeout: options.forming_timeout,
        resume_command: format!("launcher resume {}", run.path().display()),
        config,
    })
}

/// Says something in the log and, if there is room, in the journal.
fn complaint(inputs: mpsc::Sender<Input>) -> Box<dyn Fn(String) + Send + Sync> {
    Box::new(move |text| {
        if let Err(error) = inputs.try_send(Input::Trouble(text))
            && let Input::Trouble(text) = error.into_inner()
        {
            tracing::warn!("{text}");
        }
    })
}

/// How many files this process may have open, after asking for as many as it may ask for.
fn most_files() -> u64 {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) else { return 1024 };
    match setrlimit(Resource::RLIMIT_NOFILE, hard, hard) {
        Ok(()) => hard,
        Err(_) => soft,
    }
}

async fn serve(
    incoming: gate::Incoming,
    face: Face,
    turned_away: Arc<TurnedAway>,
    shut_down: oneshot::Receiver<()>,
) -> Result<JoinHandle<Result<(), tonic::transport::Error>>, StartError> {
    let service = CoordinatorServer::new(face)
        .max_decoding_message_size(began_proto::MAX_MESSAGE)
        .max_encoding_message_size(began_proto::MAX_MESSAGE);
    let (health, health_service) = tonic_health::server::health_reporter();
    health.set_serving::<CoordinatorServer<Face>>().await;
    let reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(DESCRIPTORS)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        .build_v1()
        .map_err(|error| StartError::Start { what: "gRPC reflection", error: error.to_string() })?;
    let router = Server::builder()
        .max_concurrent_streams(CALLS)
        .http2_max_header_list_size(HEADERS)
        .layer(Rights(turned_away))
        .layer(Downlinks)
        .add_service(service)
        .add_service(health_service)
        .add_service(reflection);
    let until = async move {
        // An error is the sender gone: then there is nobody left to serve for.
        let _ = shut_down.await;
    };
    Ok(tokio::spawn(router.serve_with_incoming_shutdown(incoming, until)))
}
