//! The binary as the launcher sees it: one line on stdout, exit codes, signals and stdin.

mod fake;

use std::io::{BufRead as _, BufReader, Read as _};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use began_proto::v1::StatusRequest;
use fake::{PATIENCE, Result, Run, Trainer, client, hello};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// A coordinator process; killed when the test is over.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Process {
    fn start(run: &Run, world: u32, more: &[&str]) -> Result<Self> {
        let child = Command::new(env!("CARGO_BIN_EXE_coordinator"))
            .arg("--run")
            .arg(run.path())
            .args(["--world", &world.to_string()])
            .args(more)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        Ok(Self(child))
    }

    fn address(&mut self) -> Result<String> {
        let stdout = self.0.stdout.as_mut().ok_or("no stdout")?;
        let mut line = String::new();
        BufReader::new(stdout).read_line(&mut line)?;
        let line: serde_json::Value = serde_json::from_str(&line)?;
        Ok(line["listening"].as_str().ok_or("no address")?.to_owned())
    }

    fn signal(&self, signal: Signal) -> Result {
        Ok(kill(Pid::from_raw(self.0.id() as i32), signal)?)
    }

    fn stdin(&mut self) -> Option<ChildStdin> {
        self.0.stdin.take()
    }

    /// Its exit status and what it wrote on stderr.
    async fn end(&mut self) -> Result<(ExitStatus, String)> {
        let until = Instant::now() + PATIENCE;
        let status = loop {
            match self.0.try_wait()? {
                Some(status) => break status,
                None if Instant::now() > until => return Err("it does not end".into()),
                None => tokio::time::sleep(Duration::from_millis(10)).await,
            }
        };
        let mut errors = String::new();
        self.0.stderr.as_mut().ok_or("no stderr")?.read_to_string(&mut errors)?;
        Ok((status, errors))
    }
}

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
