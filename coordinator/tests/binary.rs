//! The binary as the launcher sees it: one line on stdout, exit codes, signals and stdin.

mod fake;

use std::time::Duration;

use began_proto::v1::StatusRequest;
use fake::process::Process;
use fake::{Result, Run, Trainer, client, hello};
use nix::sys::signal::Signal;

#[tokio::test]
async fn sigterm_stops_the_run_gracefully_with_exit_code_0() -> Result {
    let run = Run::new(1, |config| config.run.steps = 1_000_000)?;
    let mut process = Process::start(&run, 1, &[])?;
    let address = process.address()?;
    let mut trainer = Trainer::join(&address, hello(0, 0), &run.path()).await?;
    let training = tokio::spawn(async move { trainer.train(u64::MAX).await.map(|end| format!("{end:?}")) });
    tokio::time::sleep(Duration::from_millis(100)).await;
    process.signal(Signal::SIGTERM)?;
    let (status, errors) = process.end().await?;
    assert_eq!(status.code(), Some(0), "{errors}");
    assert!(training.await??.contains("SIGTERM"));
    assert!(run.dir()?.latest_checkpoint()?.is_some() && run.dir()?.announcement()?.is_none());
    Ok(())
}

#[tokio::test]
async fn a_second_sigterm_ends_it_at_once_with_exit_code_1_and_the_reason_last() -> Result {
    let run = Run::new(1, |_| {})?;
    let mut process = Process::start(&run, 1, &[])?;
    let address = process.address()?;
    // It joins and then does nothing: a graceful stop would wait for its step.
    let _idle = Trainer::join(&address, hello(0, 0), &run.path()).await?;
    process.signal(Signal::SIGTERM)?;
    tokio::time::sleep(Duration::from_millis(200)).await;
    process.signal(Signal::SIGTERM)?;
    let (status, errors) = process.end().await?;
    let last = errors.lines().last().unwrap_or_default();
    assert_eq!(status.code(), Some(1), "{errors}");
    assert!(last.starts_with("the run failed: a second signal (SIGTERM)"), "{last}");
    Ok(())
}

#[tokio::test]
async fn supervised_it_ends_with_its_stdin_and_ignores_ctrl_c() -> Result {
    let run = Run::new(1, |_| {})?;
    let mut process = Process::start(&run, 1, &["--supervised", "--log-format", "json"])?;
    let address = process.address()?;
    process.signal(Signal::SIGINT)?;
    tokio::time::sleep(Duration::from_millis(100)).await;
    let status = client(&address).await?.status(StatusRequest {}).await?.into_inner();
    assert_eq!(status.phase, "forming");
    drop(process.stdin());
    let (status, errors) = process.end().await?;
    assert_eq!(status.code(), Some(1));
    assert!(errors.lines().last().is_some_and(|line| line.contains("the launcher is gone")), "{errors}");
    Ok(())
}

#[tokio::test]
async fn what_cannot_start_exits_with_code_2_and_a_sentence() -> Result {
    let run = Run::new(1, |_| {})?;
    let mut first = Process::start(&run, 1, &[])?;
    let address = first.address()?;
    let other = Run::new(1, |_| {})?;
    for (run, world, more, named) in [
        (&run, 1, vec![], "in use by"),
        (&other, 1, vec!["--listen", address.as_str()], address.as_str()),
        (&other, 2, vec![], "at most 1 trainers"),
        (&other, 0, vec![], "--world"),
        (&other, 1, vec!["--forming-timeout", "NaN"], "--forming-timeout"),
    ] {
        let (status, errors) = Process::start(run, world, &more)?.end().await?;
        assert_eq!(status.code(), Some(2), "{errors}");
        assert!(errors.contains(named) && !errors.contains("panicked"), "{errors}");
    }
    Ok(())
}
