//! A stand-in for the coordinator, to test the launcher: it serves Status, Watch and Control, takes made-up steps and
//! trains nothing. What it does is said by FAKE_COORDINATOR: `finish:N` ends after N steps, `run` goes on until it is
//! asked to stop, `wait` takes no step meanwhile, `mute` never says where it listens, `refuse` ends at once. One that is started again goes on from the
//! journal, or ends at once where FAKE_AGAIN is `refuse`.

use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use began::{Step, StepRecord};
use began_proto::v1::control_request::Action;
use began_proto::v1::coordinator_server::{Coordinator, CoordinatorServer};
use began_proto::v1::watch_event::Body;
use began_proto::v1::{
    ControlRequest, ControlResponse, CoordinatorMessage, Ended, ExchangeRequest, ExchangeResponse, Progress,
    StatusRequest, StatusResponse, TrainerMessage, WatchEvent, WatchRequest,
};
use began_record::{Announcement, DigestRow, Entry, Journal, RunDir, StepRow};
use tokio::net::TcpListener;
use tokio::sync::{Notify, watch};
use tokio_stream::wrappers::{TcpListenerStream, WatchStream};
use tokio_stream::{Stream, StreamExt};
use tonic::{Request, Response, Status, Streaming};

struct Fake {
    run: String,
    news: watch::Receiver<WatchEvent>,
    stop: Arc<Notify>,
}

type Answer<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl Coordinator for Fake {
    type SessionStream = Answer<CoordinatorMessage>;
    type WatchStream = Answer<WatchEvent>;

    async fn session(&self, _: Request<Streaming<TrainerMessage>>) -> Result<Response<Self::SessionStream>, Status> {
        Err(Status::unimplemented("a stand-in"))
    }

    async fn exchange(&self, _: Request<ExchangeRequest>) -> Result<Response<ExchangeResponse>, Status> {
        Err(Status::unimplemented("a stand-in"))
    }

    async fn status(&self, _: Request<StatusRequest>) -> Result<Response<StatusResponse>, Status> {
        let phase = if matches!(self.news.borrow().body, Some(Body::Ended(_))) { "ended" } else { "running" };
        Ok(Response::new(StatusResponse { run: self.run.clone(), phase: phase.into(), ..StatusResponse::default() }))
    }

    async fn watch(&self, _: Request<WatchRequest>) -> Result<Response<Self::WatchStream>, Status> {
        Ok(Response::new(Box::pin(WatchStream::new(self.news.clone()).map(Ok))))
    }

    async fn control(&self, request: Request<ControlRequest>) -> Result<Response<ControlResponse>, Status> {
        let request = request.into_inner();
        match request.action() {
            Action::Note => eprintln!("note: {}", request.reason),
            _ => {
                eprintln!("asked to stop: {}; grace {}", request.reason, request.grace_seconds);
                self.stop.notify_one();
            }
        }
        Ok(Response::new(ControlResponse { step: 1 }))
    }
}

/// The argument behind a flag.
fn argument(flag: &str) -> Result<String> {
    let mut arguments = std::env::args().skip_while(|argument| argument != flag).skip(1);
    arguments.next().with_context(|| flag.to_owned())
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let act = std::env::var("FAKE_COORDINATOR").context("FAKE_COORDINATOR")?;
    let path = PathBuf::from(argument("--run")?);
    eprintln!("a stand-in for the coordinator: {act}");
    let again = argument("--listen")? != "127.0.0.1:0";
    if act == "refuse" || (again && std::env::var("FAKE_AGAIN").is_ok_and(|act| act == "refuse")) {
        eprintln!("error: the port is taken by somebody's cat");
        std::process::exit(1);
    }
    if act == "mute" {
        tokio::time::sleep(Duration::from_secs(600)).await;
    }
    let steps = act.strip_prefix("finish:").map_or(Ok(u64::MAX), str::parse)?;

    let run = RunDir::open(&path)?;
    let mut journal = Journal::create_or_open(&run)?;
    let listener = TcpListener::bind(argument("--listen")?).await?;
    let address = listener.local_addr()?.to_string();
    let (tell, news) = watch::channel(WatchEvent { body: None });
    let stop = Arc::new(Notify::new());
    let fake = Fake { run: run.manifest()?.run, news, stop: Arc::clone(&stop) };
    let server = tonic::transport::Server::builder().add_service(CoordinatorServer::new(fake));
    tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
    run.announce(&Announcement {
        address: address.clone(),
        pid: std::process::id(),
        tls: false,
        credentials: None,
        page: None,
    })?;
    println!("{{\"listening\":\"{address}\"}}");

    let all = run.config()?.run.steps;
    let mut step = journal.steps()?.len() as u64;
    let stopped = loop {
        if step == steps {
            break false;
        }
        let pause = tokio::time::sleep(if act == "wait" { Duration::MAX } else { Duration::from_millis(50) });
        tokio::select! { () = pause => {}, () = stop.notified() => break true }
        let record = StepRecord { step: Step(step), real: 0.5, fake: 0.25, k: 0.0, rate: 1e-4, m_global: 0.5 };
        journal.write(&[Entry::Step(StepRow { record, generation: 1, seconds: 0.05, time: 0.0, drawn: 0 })])?;
        step += 1;
        let progress = Progress { step, steps: all, real: 0.5, fake: 0.25, world_size: 1, ..Progress::default() };
        tell.send_replace(WatchEvent { body: Some(Body::Progress(progress)) });
    };
    if step > 0 {
        let digest = "d16e57".to_owned();
        journal.write(&[Entry::Digest(DigestRow { step, launch: 0, digest, tensors: Vec::new() })])?;
    }
    // A stop for a failure ends the trainers with 3.
    let failed = stopped && std::env::var_os("FAKE_FAILED").is_some();
    let reason = if stopped { "stopped as asked" } else { "all steps are done" }.to_owned();
    tell.send_replace(WatchEvent { body: Some(Body::Ended(Ended { failed, reason, step })) });
    std::fs::write(path.join("ended"), if failed { "3" } else { "0" })?;
    tokio::time::sleep(Duration::from_millis(100)).await;
    run.retract();
    std::process::exit(i32::from(failed));
}
