//! The coordinator as its peers see it: a real server, real streams, made-up trainers.

mod fake;

use began_proto::v1::control_request::Action;
use began_proto::v1::exchange_request::Op;
use began_proto::v1::trainer_message::Body as Up;
use began_proto::v1::watch_event::Body as Seen;
use began_proto::v1::{
    CheckpointWritten, ControlRequest, Equilibrium, ExchangeGet, ExchangePair, ExchangeRequest, ExchangeSet, Held,
    Hello, LaneLosses, PastStep, Ready, Recalled, StateDigest, StatusRequest, StepLosses, TensorDigest, TrainerMessage,
    WatchRequest,
};
use began_record::{Journal, RunDir};
use coordinator::Coordinator;
use fake::{Result, Run, Trainer, client, ended, hello, stopped};
use std::time::{Duration, Instant};
use tokio::sync::mpsc;
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Code;

#[tokio::test]
async fn two_trainers_go_through_twenty_steps_and_everything_is_on_record() -> Result {
    let run = Run::new(4, |_| {})?;
    let coordinator = run.coordinator(2).await?;
    let address = coordinator.address();
    assert_eq!(run.dir()?.announcement()?.map(|a| a.address), Some(address.to_string()));
    let mut watch = client(address).await?.watch(WatchRequest {}).await?.into_inner();
    // The higher place comes first: ranks follow places, not arrival.
    let mut b = Trainer::join(address, hello(0, 1), &run.path()).await?;
    let mut a = Trainer::join(address, hello(0, 0), &run.path()).await?;
    assert_eq!(a.welcome.data_digest, run.dir()?.manifest()?.data_digest);
    let (first, second) = tokio::join!(a.train(u64::MAX), b.train(u64::MAX));
    for stop in [stopped(first?)?, stopped(second?)?] {
        assert!(!stop.failed && stop.reason.contains("all 20 steps are done"), "{}", stop.reason);
    }
    assert_eq!((a.rank(), b.rank()), (0, 1));
    assert!(a.leases > 0 && b.leases > 0);
    let outcome = ended(coordinator).await?;
    assert_eq!((outcome.failed, outcome.step.0), (false, 20));

    let mut kinds = Vec::new();
    while let Some(event) = watch.next().await {
        match event?.body {
            Some(Seen::Event(event)) => kinds.push(event.kind),
            Some(Seen::Progress(progress)) => {
                assert_eq!((progress.steps, progress.world_size), (20, 2))
            }
            Some(Seen::Ended(end)) => kinds.push(format!("ended {} {}", end.failed, end.step)),
            None => {}
        }
    }
    assert!(kinds.contains(&"generation".to_owned()) && kinds.contains(&"checkpoint".to_owned()));
    assert_eq!(kinds.last().map(String::as_str), Some("ended false 20"));

    run.journal_is_exact_from(0)?;
    let journal = Journal::read(&run.dir()?)?;
    assert_eq!(a.given.map(|given| given.step), Some(20));
    assert_eq!(journal.digests()?.iter().map(|digest| digest.step).collect::<Vec<_>>(), [5, 10, 15, 20]);
    assert_eq!(journal.tensor_digests(began::Step(20), 0)?.len(), 1);
    assert!(!journal.leases()?.is_empty());
    let manifest = run.dir()?.manifest()?;
    assert_eq!((manifest.launches.len(), manifest.launches[0].trainers.len()), (1, 2));
    let checkpoints: Vec<u64> = run.dir()?.checkpoints()?.iter().map(|checkpoint| checkpoint.step.0).collect();
    assert_eq!(checkpoints, [8, 16, 20]);
    assert!(run.dir()?.announcement()?.is_none());
    assert!(std::fs::read_dir(run.dir()?.tensorboard())?.next().is_some());
    Ok(())
}

#[tokio::test]
async fn a_finished_run_ends_at_once_and_says_that_there_is_nothing_to_do() -> Result {
    let run = Run::new(1, |config| config.run.steps = 3)?;
    let coordinator = run.coordinator(1).await?;
    let mut trainer = Trainer::join(coordinator.address(), hello(0, 0), &run.path()).await?;
    stopped(trainer.train(u64::MAX).await?)?;
    assert!(!ended(coordinator).await?.failed);
    let again = ended(run.coordinator(1).await?).await?;
    assert!(!again.failed && again.reason.contains("3 of run.steps = 3"), "{again:?}");
    Ok(())
}

#[tokio::test]
async fn a_stop_on_request_finishes_the_step_and_leaves_a_checkpoint() -> Result {
    let run = Run::new(1, |config| config.run.steps = 1_000_000)?;
    let coordinator = run.coordinator(1).await?;
    let address = coordinator.address();
    let mut trainer = Trainer::join(address, hello(0, 0), &run.path()).await?;
    let asking = async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        let request = ControlRequest { action: Action::Stop.into(), reason: "a test".into(), grace_seconds: 0.0 };
        Result::Ok(client(address).await?.control(request).await?.into_inner().step)
    };
    let (end, asked) = tokio::join!(trainer.train(u64::MAX), asking);
    let stop = stopped(end?)?;
    assert!(!stop.failed && stop.reason.contains("a test"), "{}", stop.reason);
    let outcome = ended(coordinator).await?;
    assert_eq!((outcome.failed, outcome.step.0), (false, asked? + 1));
    assert_eq!(run.dir()?.latest_checkpoint()?.map(|checkpoint| checkpoint.step), Some(outcome.step));
    Ok(())
}

#[tokio::test]
async fn unfit_trainers_are_refused_by_a_sentence() -> Result {
    let run = Run::new(2, |_| {})?;
    let coordinator = run.coordinator(2).await?;
    let address = coordinator.address();
    let refused = |hello| async move {
        Trainer::join(address, hello, std::path::Path::new(""))
            .await
            .err()
            .map(|why| why.to_string())
            .unwrap_or_default()
    };
    let mut old = hello(0, 0);
    old.version = 99;
    assert!(refused(old).await.contains("protocol version 99"));
    let first = Trainer::join(address, hello(0, 0), &run.path()).await?;
    let mut twin = hello(0, 0);
    twin.trainer = "twin".into();
    assert!(refused(twin).await.contains("the place is taken by process 1000"));
    let mut namesake = hello(0, 1);
    namesake.trainer = "trainer-0-0".into();
    assert!(refused(namesake).await.contains("trainer-0-0"));
    let stranger = Trainer::join_run("another", address, hello(0, 1), &run.path()).await;
    assert!(stranger.is_err_and(|why| why.to_string().contains("belongs to run \"another\"")));
    let second = Trainer::join(address, hello(0, 1), &run.path()).await?;
    let status = client(address).await?.status(StatusRequest {}).await?.into_inner();
    assert_eq!((status.phase.as_str(), status.trainers.len(), status.lanes), ("running", 2, 2));
    assert_eq!((status.trainers[1].first_lane, status.trainers[1].end_lane), (1, 2));
    drop((first, second));
    Ok(())
}

#[tokio::test]
async fn the_exchange_serves_the_open_generation_only_and_never_waits_without_end() -> Result {
    let run = Run::new(2, |_| {})?;
    let coordinator = run.coordinator(2).await?;
    let mut client = client(coordinator.address()).await?;
    let mut a = Trainer::join(coordinator.address(), hello(0, 0), &run.path()).await?;
    let ask = |generation, trainer: &str, op| ExchangeRequest {
        run: a.run.clone(),
        generation,
        trainer: trainer.into(),
        op: Some(op),
    };
    let get = |wait_seconds| Op::Get(ExchangeGet { keys: vec!["id".into()], wait_seconds });
    let early = client.exchange(ask(1, "trainer-0-0", get(0.0))).await;
    assert!(early.is_err_and(|status| status.message().contains("no generation is open")));
    let _b = Trainer::join(coordinator.address(), hello(0, 1), &run.path()).await?;
    let set = Op::Set(ExchangeSet { pairs: vec![ExchangePair { key: "id".into(), value: vec![7; 128] }] });
    let began = Instant::now();
    let missing = client.exchange(ask(1, "trainer-0-0", get(0.2))).await?.into_inner();
    assert_eq!(missing.missing, ["id"]);
    assert!(began.elapsed() >= Duration::from_millis(200) && began.elapsed() < Duration::from_secs(2));
    let mut other = client.clone();
    let waiting = ask(1, "trainer-0-1", get(5.0));
    let (found, ()) = tokio::join!(other.exchange(waiting), async {
        let _ = client.exchange(ask(1, "trainer-0-0", set)).await;
    });
    assert_eq!(found?.into_inner().values, [vec![7; 128]]);
    for (generation, trainer) in [(0, "trainer-0-0"), (2, "trainer-0-0"), (1, "nobody")] {
        let refused = client.exchange(ask(generation, trainer, get(0.0))).await;
        assert!(refused.is_err_and(|status| status.code() == Code::FailedPrecondition));
    }
    assert!(a.next().await?.is_some());
    Ok(())
}

#[tokio::test]
async fn health_and_reflection_answer() -> Result {
    use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient};
    use tonic_reflection::pb::v1::{
        ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
        server_reflection_request::MessageRequest, server_reflection_response::MessageResponse,
    };
    let run = Run::new(1, |_| {})?;
    let coordinator = run.coordinator(1).await?;
    let endpoint = tonic::transport::Endpoint::from_shared(format!("http://{}", coordinator.address()))?;
    let channel = endpoint.connect().await?;
    let request = HealthCheckRequest { service: "began.v1.Coordinator".into() };
    let health = HealthClient::new(channel.clone()).check(request).await?.into_inner();
    assert_eq!(health.status(), ServingStatus::Serving);
    let list = ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::ListServices(String::new())),
    };
    let mut client = ServerReflectionClient::new(channel);
    let mut answers = client.server_reflection_info(tokio_stream::once(list)).await?.into_inner();
    let answer = answers.next().await.ok_or("no answer")??.message_response;
    let Some(MessageResponse::ListServicesResponse(services)) = answer else {
        return Err("no list".into());
    };
    assert!(services.service.iter().any(|service| service.name == "began.v1.Coordinator"));
    Ok(())
}

#[tokio::test]
async fn what_cannot_start_says_why() -> Result {
    let run = Run::new(2, |_| {})?;
    let refused = |options| async move {
        Coordinator::start(&options).await.err().map(|why| why.to_string()).unwrap_or_default()
    };
    assert!(refused(run.options(3)).await.contains("at most 2 trainers"));
    let coordinator = run.coordinator(2).await?;
    let second = refused(run.options(2)).await;
    assert!(second.contains("in use") && second.contains(&std::process::id().to_string()), "{second}");
    let other = Run::new(1, |_| {})?;
    let mut options = other.options(1);
    options.listen = coordinator.address().to_string();
    let taken = refused(options.clone()).await;
    assert!(taken.contains(&options.listen) && taken.contains("another process listens"), "{taken}");
    options.run = "no-such-run".into();
    assert!(refused(options).await.contains("no-such-run is not a run"));
    std::fs::remove_dir_all(other.config.data.path.as_str())?;
    let dataless = refused(other.options(1)).await;
    assert!(dataless.contains(&other.config.data.path), "{dataless}");
    Ok(())
}

#[tokio::test]
async fn hostile_messages_change_nothing() -> Result {
    let run = Run::new(1, |config| config.run.steps = 5)?;
    let coordinator = run.coordinator(1).await?;
    let address = coordinator.address();
    // Losses before hello.
    let (up, sent) = mpsc::channel(8);
    let early = Up::Losses(StepLosses::default());
    up.send(TrainerMessage { run: String::new(), generation: 0, body: Some(early) }).await?;
    let mut down = client(address).await?.session(ReceiverStream::new(sent)).await?.into_inner();
    let closed = down.message().await;
    assert!(closed.is_err_and(|status| status.message().contains("must be a hello")));

    let mut trainer = Trainer::join(address, hello(u32::MAX, u32::MAX), &run.path()).await?;
    while trainer.opened.is_none() {
        trainer.next().await?;
    }
    let lane = |lane, real| LaneLosses { lane, real, fake: f64::NEG_INFINITY, drawn: 0 };
    let losses = |step, lanes| Up::Losses(StepLosses { step, lanes, step_seconds: f64::NAN, waited_seconds: -1.0 });
    let digest =
        |step| Up::Digest(StateDigest { step, digest: "x".repeat(5000), tensors: vec![TensorDigest::default(); 1000] });
    for body in [
        losses(u64::MAX, vec![lane(0, f64::NAN)]),
        losses(0, vec![lane(u32::MAX, f64::NAN)]),
        losses(0, vec![lane(0, 1.0), lane(0, 1.0)]),
        losses(0, vec![]),
        losses(1, vec![lane(0, 1.0)]),
        digest(0),
        digest(u64::MAX),
        Up::Held(Held { step: Some(u64::MAX), digest: None, lineage: u64::MAX }),
        Up::Recalled(Recalled { steps: vec![PastStep::default(); 9], given: vec![Equilibrium::default(); 9] }),
        Up::Ready(Ready { rendezvous_seconds: f64::NAN, heal_seconds: f64::NEG_INFINITY }),
        Up::Checkpoint(CheckpointWritten { step: 3, path: "../../x".into(), ..Default::default() }),
        Up::Hello(hello(0, 0)),
    ] {
        trainer.say(body).await?;
    }
    for (run, generation) in [("other", 1), ("", 1), (trainer.run.as_str(), 0), (trainer.run.as_str(), u64::MAX)] {
        let body = Some(losses(0, vec![lane(0, 1.0)]));
        trainer.up.send(TrainerMessage { run: run.into(), generation, body }).await?;
    }
    // Whoever claims a past that nobody can have had changes nothing either.
    let liar = Hello { generation: u64::MAX, rank: 7, world_size: 3, lineage: u64::MAX, ..hello(5, 5) };
    let refused = Trainer::join(address, liar.clone(), &run.path()).await;
    assert!(
        refused.is_err_and(|why| why.to_string().contains("which no run can reach")),
        "a hello that makes no sense is answered"
    );
    let liar = Hello { generation: 1 << 40, lineage: 0, step: Some(3), given: Some(Equilibrium::default()), ..liar };
    let _liar = Trainer::join(address, liar, &run.path()).await?;
    let stop = stopped(trainer.train(u64::MAX).await?)?;
    assert!(!stop.failed, "{}", stop.reason);
    assert_eq!(trainer.generation, 1);
    assert!(!ended(coordinator).await?.failed);
    Ok(())
}

#[tokio::test]
async fn a_message_over_the_limit_loses_its_sender_and_not_the_coordinator() -> Result {
    let run = Run::new(1, |_| {})?;
    let mut options = run.options(1);
    options.forming_timeout = Duration::from_millis(300);
    let coordinator = Coordinator::start(&options).await?;
    let trainer = Trainer::join(coordinator.address(), hello(0, 0), &run.path()).await?;
    let tensors = vec![TensorDigest { name: "n".repeat(1000), digest: String::new() }; 20_000];
    trainer.say(Up::Digest(StateDigest { step: 0, digest: "d".into(), tensors })).await?;
    let outcome = ended(coordinator).await?;
    assert!(outcome.failed && outcome.reason.contains("rank 0"), "{outcome:?}");
    Ok(())
}

#[tokio::test]
async fn a_run_nobody_joins_ends_and_names_the_missing() -> Result {
    let run = Run::new(4, |_| {})?;
    let mut options = run.options(4);
    options.nodes = Some(2);
    options.forming_timeout = Duration::from_millis(300);
    let coordinator = Coordinator::start(&options).await?;
    let _one = Trainer::join(coordinator.address(), hello(1, 0), &run.path()).await?;
    let outcome = ended(coordinator).await?;
    assert!(outcome.failed && outcome.reason.contains("1 of 4 trainers came"), "{outcome:?}");
    for missing in ["(node 0, local rank 0)", "(node 0, local rank 1)", "(node 1, local rank 1)"] {
        assert!(outcome.reason.contains(missing), "{outcome:?}");
    }
    assert!(!outcome.reason.contains("(node 1, local rank 0)"));
    Ok(())
}

#[tokio::test]
async fn the_answer_to_a_step_comes_within_a_millisecond_at_32_trainers() -> Result {
    // Thirty-two trainers in one process measure their own scheduling too: this is an upper bound, taken generously.
    let run = Run::new(32, |config| {
        config.run.steps = 200;
        config.run.batch = 1;
        config.run.checkpoint_every = 0;
        config.run.digest_every = 0;
        config.run.sample_every = 0;
    })?;
    let coordinator = run.coordinator(32).await?;
    let mut trainers = Vec::new();
    for rank in 0..32 {
        trainers.push(Trainer::join(coordinator.address(), hello(rank / 8, rank % 8), &run.path()).await?);
    }
    let began = Instant::now();
    let mut training = tokio::task::JoinSet::new();
    for mut trainer in trainers {
        training.spawn(async move { trainer.train(u64::MAX).await });
    }
    while let Some(end) = training.join_next().await {
        assert!(!stopped(end??)?.failed);
    }
    let a_step = began.elapsed() / 200;
    assert!(!ended(coordinator).await?.failed);
    assert!(a_step < Duration::from_millis(50), "{a_step:?} a step");
    eprintln!("{a_step:?} a step with 32 trainers in this process");
    let _ = RunDir::open(&run.path())?;
    Ok(())
}
