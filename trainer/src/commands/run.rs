//! `trainer run`: what an agent starts. Joins the coordinator's run and trains, generation after generation, until told otherwise.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, bail};
use began::RunConfig;
use began_credentials::{Arguments as Credentials, Role};
use began_data::DataError;
use began_proto::v1::{self as wire, Phase};
use began_session::{News, Say};
use began_traces::{Attribute, Traces};
use tch::Device;

use crate::arithmetic::Arithmetic;
use crate::checkpoint_writer::CheckpointWriter;
use crate::coordination::Coordination;
use crate::device::{self, DeviceChoice};
use crate::evaluator::Evaluator;
use crate::feed::Feed;
use crate::flip::Flip;
use crate::membership::{Left, Membership};
use crate::peers::{Backend, Peers};
use crate::session::{Incoming, Session, TooLate, from_wire};
use crate::training::{End, Trainer};

/// The exit code of a trainer that ended because another failed.
pub const VICTIM: u8 = 3;
/// The exit code of a trainer that was put out of a run which goes on: another may take its place.
pub const EXPELLED: u8 = 4;
/// The exit code of a trainer that was set aside: nobody may take its place.
pub const SET_ASIDE: u8 = 5;

/// How long to look for the coordinator at the start.
const FIRST_PATIENCE: Duration = Duration::from_secs(60);
/// How long writing checkpoints may take once the run is over.
const LAST_WRITES: Duration = Duration::from_secs(60);

/// Join a run and train (what an agent starts on a node).
#[derive(Debug, clap::Args)]
pub struct Run {
    /// The coordinator, host:port.
    #[arg(long, env = "BEGAN_COORDINATOR_ADDRESS")]
    coordinator: String,
    #[command(flatten)]
    credentials: Credentials,
    /// The run's directory.
    #[arg(long, env = "BEGAN_RUN")]
    run: PathBuf,
    /// Index of this node.
    #[arg(long, env = "BEGAN_NODE")]
    node: u32,
    /// Index of this trainer on its node.
    #[arg(long, env = "BEGAN_LOCAL_RANK")]
    local_rank: u32,
    /// This host's address that the other trainers can reach; the one on the way to the coordinator if not given.
    #[arg(long, env = "BEGAN_HOST", value_name = "IP")]
    host: Option<std::net::IpAddr>,
    /// What to compute on.
    #[arg(long, env = "BEGAN_DEVICE", default_value = "auto")]
    device: DeviceChoice,
    /// Compute on the first GPU there is, as all trainers of this node do.
    #[arg(long)]
    share_gpu: bool,
    /// What carries gradients between trainers.
    #[arg(long, env = "BEGAN_BACKEND", default_value = "auto")]
    backend: Backend,
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
        let credentials = self.credentials.client(Role::Trainer)?;
        let (device, name) = device::choose(self.device, if self.share_gpu { 0 } else { self.local_rank })?;
        let peers = Peers::new(self.backend, device, &self.coordinator, self.host)?;
        let software =
            [Some(device::software()), peers.software()].into_iter().flatten().collect::<Vec<_>>().join(", ");
        let hello = wire::Hello {
            version: began_proto::VERSION,
            trainer: format!("node{}-trainer{}-pid{}", self.node, self.local_rank, std::process::id()),
            node: self.node,
            local_rank: self.local_rank,
            host: device::host_name(),
            pid: std::process::id(),
            device: name,
            software,
            ..wire::Hello::default()
        };
        let session = match Session::open(&self.coordinator, credentials, Some(self.run.clone()), hello, FIRST_PATIENCE)
        {
            Ok(session) => session,
            Err(error) => {
                let Some(too_late) = error.downcast_ref::<TooLate>() else { return Err(error) };
                tracing::info!("{too_late}");
                return Ok(if too_late.failed { VICTIM } else { 0 });
            }
        };
        session.activity().computes_on(device);
        self.trace(&session);
        let mut writer = None;
        let ended = self.train(&session, device, peers, &mut writer);
        if let Err(error) = &ended {
            let for_all = error.downcast_ref::<DataError>().is_some_and(is_the_data);
            session.say(Say::Failure(wire::Failure { reason: format!("{error:#}"), for_all }));
        }
        if let Some(writer) = &writer
            && !writer.finish(LAST_WRITES)
        {
            tracing::warn!("a checkpoint is still being written {} s after the end", LAST_WRITES.as_secs());
        }
        let code = match ended {
            Ok(End::Stop(wire::Stop { reason, failed, expelled, set_aside })) => {
                tracing::info!(reason, failed, expelled, set_aside, "the end of this trainer");
                match (set_aside, expelled, failed) {
                    (true, ..) => SET_ASIDE,
                    (_, true, _) => EXPELLED,
                    (.., true) => VICTIM,
                    _ => 0,
                }
            }
            Ok(End::Lost(reason)) => {
                tracing::error!(reason, "the coordinator is gone");
                EXPELLED
            }
            Ok(other) => bail!("left the run in the middle: {other:?}"),
            Err(error) => {
                session.close();
                return Err(error);
            }
        };
        session.close();
        Ok(code)
    }

    /// Spans of what it does, if the environment asks for them.
    fn trace(&self, session: &Session) {
        let about = vec![
            Attribute::new("began.run", session.welcome.run.clone()),
            Attribute::new("began.node", i64::from(self.node)),
            Attribute::new("began.local_rank", i64::from(self.local_rank)),
            Attribute::new("host.name", device::host_name()),
            Attribute::new("process.pid", i64::from(std::process::id())),
        ];
        if let Some(traces) = Traces::from_environment("began-trainer", about) {
            session.activity().is_traced(traces, &session.welcome.run);
        }
    }

    /// The writer is handed out, so that how it ended is said before what is being written is waited for.
    fn train(
        &self,
        session: &Session,
        device: Device,
        peers: Peers,
        out: &mut Option<Arc<CheckpointWriter>>,
    ) -> Result<End> {
        let config = RunConfig::default().overlay(&session.welcome.config, "the coordinator's run.toml")?;
        config.validate()?;
        Arithmetic::new(config.run.precision, device)?.switch()?;
        session.set_patience(Duration::from_secs_f64(config.run.coordinator_wait));
        let feed = Feed::open(&config, &session.welcome.data_digest)?;
        let reports = session.reporter();
        let report = Box::new(move |written| reports(Say::Checkpoint(written)));
        let writer = CheckpointWriter::start(self.run.clone(), session.welcome.run.clone(), config.clone(), report)?;
        let writer = out.insert(Arc::new(writer)).clone();
        let reports = session.reporter();
        let report = Box::new(move |done| reports(Say::Evaluated(done)));
        let evaluator = Evaluator::start(&config, feed.data.clone(), device, report)?;
        let flip = Flip::for_trainer(self.node, self.local_rank);
        let (run, writer) = (self.run.clone(), Some(writer));
        let mut trainer = Trainer { session, config: &config, run, feed, device, writer, evaluator, flip };
        let mut membership = Membership::new(session, peers);
        loop {
            session.activity().enter(Phase::Idle);
            let end = match self.await_generation(session, &trainer, &mut membership)? {
                Ok((generation, opened)) => membership.take_part(&mut trainer, generation, &opened)?,
                Err(end) => return Ok(end),
            };
            match end {
                Left::Again => {}
                Left::End(end) => return Ok(end),
            }
        }
    }

    /// Outside any generation: answers what the coordinator asks, until it opens one.
    fn await_generation(
        &self,
        session: &Session,
        trainer: &Trainer<'_>,
        membership: &mut Membership<'_>,
    ) -> Result<Result<(u64, wire::GenerationOpened), End>> {
        // The coordinator bounds this itself; a coordinator that is gone is bounded by the session.
        let patience = Duration::from_secs(3600);
        loop {
            match session.next(patience) {
                Some(Incoming::News(News::Opened(generation, opened))) => return Ok(Ok((generation, *opened))),
                Some(Incoming::News(News::Halt(reason))) => {
                    tracing::warn!(reason, "halted");
                    session.say(Say::Held(membership.generation()));
                }
                Some(Incoming::News(News::WriteCheckpoint(equilibrium))) => {
                    membership.write_held(trainer, &from_wire(&equilibrium))?;
                }
                Some(Incoming::News(News::Stop(stop))) => return Ok(Err(End::Stop(stop))),
                Some(Incoming::News(News::Lost(reason) | News::Refused(reason))) => return Ok(Err(End::Lost(reason))),
                // Of a generation that was left.
                Some(
                    Incoming::Connected(..)
                    | Incoming::Reduced(_)
                    | Incoming::News(News::Equilibrium(_) | News::Welcome { .. }),
                ) => {}
                None => bail!("no generation was opened within {} s", patience.as_secs()),
            }
        }
    }
}

/// Whether an error of the data is one that every trainer would meet: the data itself is damaged.
fn is_the_data(error: &DataError) -> bool {
    !matches!(error, DataError::Late { .. } | DataError::LoaderEnded { .. })
}
