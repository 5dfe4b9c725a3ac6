//! `trainer run`: what an agent starts. Joins the coordinator's run and trains until told otherwise.

use std::net::UdpSocket;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use began::RunConfig;
use began_proto::v1::trainer_message::Body as Up;
use began_proto::v1::{self as wire, Phase};
use tch::Device;
use torch_ext::gloo::{Attempt, Group, Member};

use crate::checkpoint;
use crate::collective::{Collective, Gloo};
use crate::coordination::Coordination;
use crate::device::{self, DeviceChoice};
use crate::feed::Feed;
use crate::reduce::{Place, Reducer};
use crate::reduction_thread::ReductionThread;
use crate::session::{Incoming, Session, TooLate, from_wire};
use crate::state::State;
use crate::training::{End, Trainer};

/// The exit code of a trainer that ended because another failed.
pub const VICTIM: u8 = 3;

/// Join a run and train (what an agent starts on a node).
#[derive(Debug, clap::Args)]
pub struct Run {
    /// The coordinator, host:port.
    #[arg(long, env = "BEGAN_COORDINATOR_ADDRESS")]
    coordinator: String,
    /// The run's directory.
    #[arg(long, env = "BEGAN_RUN")]
    run: PathBuf,
    /// Index of this node.
    #[arg(long, env = "BEGAN_NODE")]
    node: u32,
    /// Index of this trainer on its node.
    #[arg(long, env = "BEGAN_LOCAL_RANK")]
    local_rank: u32,
    /// What to compute on.
    #[arg(long, env = "BEGAN_DEVICE", default_value = "auto")]
    device: DeviceChoice,
    /// End when standard input closes: whoever started this is gone.
    #[arg(long)]
    supervised: bool,
}

impl Run {
    /// Trains to the end; the process's exit code.
    ///
    /// # Errors
    /// If this trainer itself cannot go on.
    pub fn run(&self) -> Result<u8> {
        if self.supervised {
            device::end_with_parent()?;
        }
        let (device, name) = device::choose(self.device, self.local_rank)?;
        let hello = wire::Hello {
            version: began_proto::VERSION,
            trainer: format!("node{}-trainer{}-pid{}", self.node, self.local_rank, std::process::id()),
            node: self.node,
            local_rank: self.local_rank,
            host: device::host_name(),
            pid: std::process::id(),
            device: name,
            software: device::software(),
            ..wire::Hello::default()
        };
        let session = match Session::open(&self.coordinator, hello, Duration::from_secs(60)) {
            Ok(session) => session,
            Err(error) => {
                let Some(too_late) = error.downcast_ref::<TooLate>() else { return Err(error) };
                tracing::info!("{too_late}");
                return Ok(if too_late.failed { VICTIM } else { 0 });
            }
        };
        let ended = self.train(&session, device);
        let code = match ended {
            Ok(End::Stop { reason, failed }) => {
                tracing::info!(reason, failed, "the run ended");
                if failed { VICTIM } else { 0 }
            }
            Ok(End::Lost(reason)) => {
                tracing::error!(reason, "the coordinator is gone");
                VICTIM
            }
            Ok(other) => bail!("left the run in the middle: {other:?}"),
            Err(error) => {
                let reason = format!("{error:#}");
                session.send(Up::Failure(wire::Failure { reason, for_all: false }));
                session.close();
                return Err(error);
            }
        };
        session.close();
        Ok(code)
    }

    fn train(&self, session: &Session, device: Device) -> Result<End> {
        let config = RunConfig::default().overlay(&session.welcome.config, "the coordinator's run.toml")?;
        config.validate()?;
        let feed = Feed::open(&config, &session.welcome.data_digest)?;
        let mut trainer =
            Trainer { session, config: &config, run: self.run.clone(), feed, device, last_losses: Vec::new() };
        session.activity().enter(Phase::Idle);
        let (generation, opened) = match self.await_generation(session)? {
            Ok(opened) => opened,
            Err(end) => return Ok(end),
        };
        let place = Place { rank: opened.rank, world: opened.world_size, lanes: config.run.lanes };
        if place.world == 0 || place.rank >= place.world || place.my_lanes().is_empty() {
            bail!("the coordinator gave rank {} of {} over {} lanes", place.rank, place.world, place.lanes);
        }
        session.enter_generation(generation);
        session.activity().enter(Phase::Starting);
        let wire = opened.equilibrium.context("the coordinator opened a generation without an equilibrium")?;
        let equilibrium = from_wire(&wire);
        let mut state = self.load(&opened, &config, &session.welcome.run, device)?;
        if state.step != equilibrium.step {
            bail!("the checkpoint holds step {}, the coordinator goes on from step {}", state.step, equilibrium.step);
        }

        session.activity().enter(Phase::Rendezvous);
        let called_off = Arc::new(AtomicBool::new(false));
        let collective = self.connect(session, generation, place, &config, &called_off, device)?;
        let reducer = Reducer::new(place, config.run.reduce, collective)?;
        let reduction = ReductionThread::start(reducer, session.inbox())?;
        tracing::info!(generation, rank = place.rank, world = place.world, step = state.step.0, "training");
        let orders = wire.orders.unwrap_or_default();
        let mut end = trainer.train(&mut trainer.enter(&mut state, place, (equilibrium, orders), reduction)?)?;
        called_off.store(true, Ordering::Release);
        if let End::Severed(why) = &end {
            tracing::warn!(why, "a sum failed; waiting for the coordinator's word");
            end = trainer.severed(why)?;
        }
        if let End::Halt(reason) = &end {
            tracing::warn!(reason, step = state.step.0, "halted");
            end = trainer.held(&state)?;
        }
        Ok(end)
    }

    fn await_generation(&self, session: &Session) -> Result<Result<(u64, wire::GenerationOpened), End>> {
        // The coordinator bounds this itself, by the time it gives a world to form.
        let patience = Duration::from_secs(3600);
        match session.next(patience) {
            Some(Incoming::Opened(generation, opened)) => Ok(Ok((generation, opened))),
            Some(Incoming::Stop { reason, failed }) => Ok(Err(End::Stop { reason, failed })),
            Some(Incoming::Halt(reason)) => Ok(Err(End::Stop { reason, failed: true })),
            Some(Incoming::Lost(reason)) => Ok(Err(End::Lost(reason))),
            Some(other) => bail!("expected a generation, got {other:?}"),
            None => bail!("no generation was opened within {} s", patience.as_secs()),
        }
    }

    fn load(&self, opened: &wire::GenerationOpened, config: &RunConfig, run: &str, device: Device) -> Result<State> {
        if opened.checkpoint.is_empty() {
            return State::initial(config, device);
        }
        let folder = self.run.join(&opened.checkpoint);
        let (state, _) = checkpoint::read(&folder, run, config, device, opened.accept_changed_checkpoint)?;
        Ok(state)
    }

    fn connect(
        &self,
        session: &Session,
        generation: u64,
        place: Place,
        config: &RunConfig,
        called_off: &Arc<AtomicBool>,
        device: Device,
    ) -> Result<Option<Box<dyn Collective>>> {
        if place.world == 1 {
            return Ok(None);
        }
        if device.is_cuda() {
            bail!("several GPUs reduce over NCCL, which this version does not have yet; train on one GPU or on CPUs");
        }
        let address = local_address(&self.coordinator)?;
        let operation = Duration::from_secs_f64(config.run.step_timeout);
        let store = Arc::new(session.exchange(generation));
        let Place { rank, world, .. } = place;
        let member = Member { rank, world, address, connect: Duration::from_secs(30), operation };
        let group = Group::connect(store, &member, &Attempt::default())
            .with_context(|| format!("rank {rank} could not connect to its {} peers", world - 1))?;
        Ok(Some(Box::new(Gloo::new(group, called_off.clone()))))
    }
}

/// This host's address on the way to the coordinator: the one that other nodes can reach too.
fn local_address(coordinator: &str) -> Result<String> {
    let socket = UdpSocket::bind("0.0.0.0:0").or_else(|_| UdpSocket::bind("[::]:0"));
    let found = socket.and_then(|socket| {
        socket.connect(coordinator)?;
        socket.local_addr()
    });
    Ok(found.with_context(|| format!("no route to the coordinator at {coordinator}"))?.ip().to_string())
}
