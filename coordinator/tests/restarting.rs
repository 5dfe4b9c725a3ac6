//! A coordinator's process that is killed and started again on the same directory and port, and what its journal is good for.

mod fake;

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use began::config::GuardAction;
use coordinator::replay::{Found, replay};
use fake::process::Process;
use fake::{End, Result, Run, Trainer, hello, stopped};
use tokio::task::JoinHandle;

/// A run long enough to be killed in the middle, its process, and two trainers that train.
struct Scene {
    run: Run,
    process: Process,
    address: String,
}

/// A trainer that trains until something ends that.
type Training = JoinHandle<Result<(Trainer, Option<End>)>>;

fn trains(mut trainer: Trainer) -> Training {
    tokio::spawn(async move {
        // A stream may break while something is said on it.
        let end = trainer.train(u64::MAX).await.unwrap_or_else(|error| Some(End::Lost(error.to_string())));
        Ok((trainer, end))
    })
}

/// Comes back on a new stream, and goes on to train.
fn trains_again(mut trainer: Trainer, address: String) -> JoinHandle<Result<(Trainer, Option<End>, bool)>> {
    tokio::spawn(async move {
        let still = trainer.comes_back(address).await?;
        let end = trainer.train(u64::MAX).await?;
        Ok((trainer, end, still))
    })
}

impl Scene {
    async fn set(steps: u64) -> Result<(Self, [Training; 2])> {
        let run = Run::new(4, |config| {
            config.run.steps = steps;
            config.run.checkpoint_every = 400;
            config.run.digest_every = 100;
            config.run.heartbeat_timeout = 3.0;
        })?;
        let mut process = Process::start(&run, 2, &[])?;
        let address = process.address()?;
        let mut a = Trainer::join(&address, hello(0, 0), &run.path()).await?;
        let mut b = Trainer::join(&address, hello(1, 0), &run.path()).await?;
        // A second in all, however fast the machine is: there is a middle to be killed in.
        (a.pace, b.pace) = (Duration::from_millis(1), Duration::from_millis(1));
        let scene = Self { run, process, address };
        Ok((scene, [trains(a), trains(b)]))
    }

    /// Kills the coordinator in the middle of the run; the trainers, whose streams broke.
    async fn cut_short(&mut self, [a, b]: [Training; 2]) -> Result<[Trainer; 2]> {
        while began_record::Journal::read(&self.run.dir()?).and_then(|j| j.steps()).map_or(0, |steps| steps.len()) < 100
        {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        self.process.kill()?;
        let ((a, first), (b, second)) = (a.await??, b.await??);
        assert!(matches!((&first, &second), (Some(End::Lost(_)), Some(End::Lost(_)))), "{first:?} {second:?}");
        Ok([a, b])
    }

    fn start_again(&mut self) -> Result {
        self.process = Process::start(&self.run, 2, &["--listen", &self.address])?;
        assert_eq!(self.process.address()?, self.address);
        Ok(())
    }

    async fn ends_well(&mut self) -> Result {
        let (status, errors) = self.process.end().await?;
        assert_eq!(status.code(), Some(0), "{errors}");
        Ok(())
    }

    fn replayed(&self) -> Result<Found> {
        Ok(replay(&self.run.path(), |_| {})?)
    }
}

#[tokio::test]
async fn a_killed_coordinator_goes_on_with_the_same_trainers_in_the_same_generation() -> Result {
    let (mut scene, trainers) = Scene::set(1_000).await?;
    let [a, b] = scene.cut_short(trainers).await?;
    let before = (a.held, b.held);
    // They look for it before it is there.
    let (a, b) = (trains_again(a, scene.address.clone()), trains_again(b, scene.address.clone()));
    scene.start_again()?;
    let ((a, first, a_still), (b, second, b_still)) = (a.await??, b.await??);
    assert!(!stopped(first)?.failed && !stopped(second)?.failed);
    assert!(a_still && b_still, "both have their places still, as of {before:?}");
    assert_eq!((a.generation, b.generation), (1, 1));
    scene.ends_well().await?;
    scene.run.journal_is_exact_from(0)?;
    let went_on = scene.run.events("generation")?;
    assert!(went_on.iter().any(|text| text.contains("generation 1 goes on with its 2 trainers")), "{went_on:?}");

    // What the journal kept of both lives gives every decision again.
    let found = scene.replayed()?;
    assert_eq!((found.starts, found.generations, found.differences.as_slice()), (2, 1, &[][..]));
    assert!(found.steps >= 900 && found.decisions > found.steps && found.events > found.steps, "{found:?}");
    let (code, said) = command(&["replay", &scene.run.path().to_string_lossy(), "--quiet"])?;
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("every decision came out again") && said.contains("over 2 starts"), "{said}");
    Ok(())
}

#[tokio::test]
async fn where_a_trainer_died_along_with_the_coordinator_the_other_goes_on_in_a_new_generation() -> Result {
    let (mut scene, trainers) = Scene::set(1_000).await?;
    let [a, b] = scene.cut_short(trainers).await?;
    drop(b);
    scene.start_again()?;
    let (a, end, _) = trains_again(a, scene.address.clone()).await??;
    assert!(!stopped(end)?.failed);
    assert_eq!((a.generation, a.opened.as_ref().map(|opened| opened.world_size)), (2, Some(1)));
    scene.ends_well().await?;
    scene.run.journal_is_exact_from(0)?;
    assert_eq!(scene.replayed()?.differences, [""; 0]);
    Ok(())
}

#[tokio::test]
async fn a_journal_that_was_cut_in_the_middle_is_salvaged_and_the_run_goes_on() -> Result {
    let (mut scene, trainers) = Scene::set(1_000).await?;
    let [a, b] = scene.cut_short(trainers).await?;
    let journal = scene.run.dir()?.journal();
    rusqlite::Connection::open(&journal)?.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))?;
    let whole = std::fs::metadata(&journal)?.len();
    std::fs::OpenOptions::new().write(true).open(&journal)?.set_len(whole / 2)?;
    let (a, b) = (trains_again(a, scene.address.clone()), trains_again(b, scene.address.clone()));
    scene.start_again()?;
    let ((_, first, _), (_, second, _)) = (a.await??, b.await??);
    assert!(!stopped(first)?.failed && !stopped(second)?.failed);
    scene.ends_well().await?;
    let warned = scene.run.events("warning")?;
    assert!(warned.iter().any(|text| text.contains("is damaged") && text.contains("run.damaged-1.db")), "{warned:?}");
    // Some steps of before are gone for good; from there on it has all of them again.
    let steps = began_record::Journal::read(&scene.run.dir()?)?.steps()?;
    let hole = (1..steps.len()).rev().find(|&at| steps[at].record.step != steps[at - 1].record.step.next());
    scene.run.journal_is_exact_from(hole.map_or(steps[0].record.step, |at| steps[at].record.step).0)
}

#[tokio::test]
async fn a_rate_that_a_guard_lowered_is_still_low_after_everything_was_killed() -> Result {
    let run = Run::new(1, |config| config.guard.not_finite = GuardAction::Rollback)?;
    let mut process = Process::start(&run, 1, &[])?;
    let mut trainer = Trainer::join(process.address()?, hello(0, 0), &run.path()).await?;
    trainer.diverges_in = Some(12);
    assert!(trainer.train(12).await?.is_none());
    trainer.send_losses(12).await?;
    trainer.opens_after(1).await?;
    let lowered = 0.5 * run.config.optimizer.rate;
    let goes_on = |trainer: &Trainer| {
        let opened = trainer.opened.clone().unwrap_or_default();
        (opened.step, opened.lineage, opened.equilibrium.map(|given| given.rate))
    };
    assert_eq!(goes_on(&trainer), (8, 1, Some(lowered)));
    // What is decided is in the journal a moment later; a run that dies before that has not gone back yet.
    while run.events("back")?.is_empty() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    process.kill()?;
    drop(trainer);

    let mut process = Process::start(&run, 1, &[])?;
    let mut fresh = Trainer::join(process.address()?, hello(0, 0), &run.path()).await?;
    assert!(!stopped(fresh.train(u64::MAX).await?)?.failed);
    assert_eq!(goes_on(&fresh), (8, 1, Some(lowered)));
    assert_eq!(process.end().await?.0.code(), Some(0));
    let steps = began_record::Journal::read(&run.dir()?)?.steps()?;
    assert!(steps.len() == 20 && steps[8..].iter().all(|row| row.record.rate == lowered));
    assert_eq!(replay(&run.path(), |_| {})?.differences, [""; 0]);
    Ok(())
}

#[tokio::test]
async fn two_coordinators_on_one_run_cannot_be() -> Result {
    let run = Run::new(1, |_| {})?;
    let mut first = Process::start(&run, 1, &[])?;
    first.address()?;
    let (status, errors) = Process::start(&run, 1, &[])?.end().await?;
    assert_eq!(status.code(), Some(2));
    assert!(errors.contains("in use") && errors.contains(&format!("process {}", first.id())), "{errors}");
    // The one that was killed is in nobody's way.
    first.kill()?;
    Process::start(&run, 1, &[])?.address()?;
    Ok(())
}

/// A whole run of one trainer, as its journal has it.
async fn a_run() -> Result<Run> {
    let run = Run::new(2, |config| config.run.steps = 200)?;
    let mut process = Process::start(&run, 1, &[])?;
    let address = process.address()?;
    let mut trainer = Trainer::join(&address, hello(0, 0), &run.path()).await?;
    assert!(!stopped(trainer.train(u64::MAX).await?)?.failed);
    assert_eq!(process.end().await?.0.code(), Some(0));
    Ok(run)
}

/// Changes one byte of the `row`th row of the inputs.
fn change(run: &Path, row: i64, at: impl FnOnce(&[u8]) -> usize, by: u8) -> Result {
    let journal = rusqlite::Connection::open(run.join("run.db"))?;
    let row_of = "FROM inputs ORDER BY id LIMIT 1 OFFSET ?1";
    let (id, mut data): (i64, Vec<u8>) =
        journal.query_row(&format!("SELECT id, data {row_of}"), [row], |row| Ok((row.get(0)?, row.get(1)?)))?;
    let at = at(&data);
    data[at] ^= by;
    journal.execute("UPDATE inputs SET data = ?1 WHERE id = ?2", rusqlite::params![data, id])?;
    Ok(())
}

#[tokio::test]
async fn a_replay_names_the_first_input_that_does_not_give_its_decisions_any_more() -> Result {
    let run = a_run().await?;
    assert_eq!(replay(&run.path(), |_| {})?.differences, [""; 0]);
    // The last byte of a row belongs to what its last input had led to.
    change(&run.path(), 0, |data| data.len() - 1, 1)?;
    let found = replay(&run.path(), |_| {})?;
    let [difference] = found.differences.as_slice() else { return Err(format!("{found:?}").into()) };
    assert!(difference.starts_with("start 1: input ") && difference.contains("led to other decisions than it did"));
    let (code, said) = command(&["replay", &run.path().to_string_lossy()])?;
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains(difference) && said.contains("not all came out again"), "{said}");
    Ok(())
}

#[tokio::test]
async fn a_replay_of_a_damaged_row_is_a_difference_and_never_a_panic() -> Result {
    let run = a_run().await?;
    let whole = replay(&run.path(), |_| {})?;
    let mut found_out = 0;
    for place in 0..60 {
        let at = |data: &[u8]| place * 37 % data.len();
        change(&run.path(), 0, at, 0x80 >> (place % 8))?;
        let found = replay(&run.path(), |_| {})?;
        found_out += usize::from(!found.differences.is_empty());
        change(&run.path(), 0, at, 0x80 >> (place % 8))?;
    }
    // Some bytes, as of a heartbeat, decide nothing.
    assert!(found_out > 30, "{found_out} of 60");
    assert_eq!(replay(&run.path(), |_| {})?, whole);
    Ok(())
}

#[tokio::test]
async fn a_run_that_no_coordinator_has_driven_has_nothing_to_replay() -> Result {
    let run = Run::new(1, |_| {})?;
    let (code, said) = command(&["replay", &run.path().to_string_lossy()])?;
    assert_eq!(code, Some(2), "{said}");
    assert!(said.contains("run.db"), "{said}");
    Ok(())
}

fn command(arguments: &[&str]) -> Result<(Option<i32>, String)> {
    let output = Command::new(env!("CARGO_BIN_EXE_coordinator")).args(arguments).output()?;
    let said = String::from_utf8(output.stdout)? + &String::from_utf8(output.stderr)?;
    Ok((output.status.code(), said))
}
