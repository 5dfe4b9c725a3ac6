//! Launches as stories: what happens, one thing after the other, and what is done about it.

use super::*;

const OK: Exit = Exit { code: Some(0), signal: None };
const VICTIM: Exit = Exit { code: Some(3), signal: None };
const KILL: Exit = Exit { code: None, signal: Some(9) };
const SEVEN: Exit = Exit { code: Some(7), signal: None };
const RUN_FAILED: Exit = Exit { code: Some(1), signal: None };

fn gone(process: Process, exit: Exit) -> Gone {
    Gone { process, pid: 100, exit, last_lines: vec!["last".into()] }
}

fn coordinator(exit: Exit) -> Happened {
    Happened::CoordinatorEnded(gone(Process::Coordinator, exit))
}

/// An agent that has no place left to look after.
fn agent_over(node: u32, exit: Exit) -> Happened {
    Happened::AgentEnded { agent: gone(Process::Agent(node), exit), node, over: true }
}

fn agent_died(node: u32) -> Happened {
    Happened::AgentEnded { agent: gone(Process::Agent(node), KILL), node, over: false }
}

fn trainer_then(rank: u32, exit: Exit, then: Then) -> Happened {
    Happened::TrainerEnded(gone(Process::Trainer { node: rank / 2, rank }, exit), then)
}

fn trainer(rank: u32, exit: Exit) -> Happened {
    trainer_then(rank, exit, Then::Nothing { asked: false })
}

fn trainer_restarts(rank: u32, exit: Exit) -> Happened {
    trainer_then(rank, exit, Then::Restart { pause: Duration::ZERO, attempt: 1, allowed: 8 })
}

fn ended(failed: bool) -> Happened {
    Happened::Ended { failed, reason: "the coordinator's sentence".into() }
}

/// What is done, without what is said.
fn done(acts: Vec<Act>) -> Vec<Act> {
    acts.into_iter().filter(|act| !matches!(act, Act::Say(_))).collect()
}

fn said(acts: &[Act]) -> String {
    let said = acts.iter().filter_map(|act| if let Act::Say(text) = act { Some(text.as_str()) } else { None });
    said.collect::<Vec<_>>().join("\n")
}

struct Story {
    machine: Supervision,
    now: Instant,
}

impl Story {
    fn new() -> Self {
        Self { machine: Supervision::new(2, Duration::from_secs(30), 3), now: Instant::now() }
    }

    fn then(&mut self, happened: Happened) -> Vec<Act> {
        self.now += Duration::from_millis(10);
        self.machine.on(happened, self.now)
    }

    /// Nothing happens until the next deadline.
    fn silence(&mut self) -> Vec<Act> {
        if let Some(deadline) = self.machine.deadline() {
            self.now = deadline;
        }
        self.machine.on(Happened::Tick, self.now)
    }

    /// Steps are taken for a while.
    fn steps(&mut self) {
        for _ in 0..3 {
            self.now += Duration::from_secs(1);
            assert_eq!(self.machine.on(Happened::Stepped, self.now), []);
        }
    }

    fn cause(&self) -> Process {
        match self.machine.outcome() {
            Outcome::Failed(Cause { process: Some((process, ..)), .. }) => process,
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn a_run_that_ends_by_itself_is_left_alone() {
    let mut story = Story::new();
    for happened in
        [ended(false), trainer(0, OK), trainer(1, OK), coordinator(OK), agent_over(0, OK), agent_over(1, OK)]
    {
        assert!(!story.machine.is_over());
        let acts = story.then(happened);
        assert!(acts.iter().all(|act| *act == Act::RestartNobody), "{acts:?}");
    }
    assert!(story.machine.is_over());
    assert_eq!(story.machine.outcome(), Outcome::Ended(Some("the coordinator's sentence".into())));
}

#[test]
fn a_failed_trainer_is_said_and_left_to_its_agent() {
    let mut story = Story::new();
    story.steps();
    let acts = story.then(trainer_restarts(1, KILL));
    assert_eq!(
        said(&acts),
        "trainer 1 (node 0, process 100) was killed by signal 9 (KILL); starting another at once (restart 1 of 8)"
    );
    assert_eq!(done(acts), []);
    let acts = story.then(trainer_then(1, SEVEN, Then::SetAside("it failed again".into())));
    assert!(said(&acts).contains("its place stays empty: it failed again"), "{acts:?}");
    assert_eq!(story.machine.deadline(), None, "the run goes on");
    story.steps();
    story.then(ended(false));
    assert!(matches!(story.machine.outcome(), Outcome::Ended(_)));
}

#[test]
fn a_coordinator_that_dies_is_started_again_until_it_never_gets_anywhere() {
    let mut story = Story::new();
    for _ in 0..10 {
        let acts = story.then(coordinator(KILL));
        assert!(said(&acts).contains("starting it again in 0.1 s (restart 1 of 3)"), "{acts:?}");
        assert_eq!(done(acts), []);
        assert_eq!(story.silence(), [Act::StartCoordinator]);
        story.steps();
    }
    let start = story.now;
    for _ in 0..3 {
        story.then(coordinator(Exit { code: Some(2), signal: None }));
        assert_eq!(story.silence(), [Act::StartCoordinator]);
    }
    assert!(story.now - start >= Duration::from_millis(700), "the pauses grow");
    let acts = story.then(coordinator(KILL));
    assert!(said(&acts).contains("it is not started again"), "{acts:?}");
    assert_eq!(story.silence(), [Act::EndAgents]);
    assert_eq!(story.cause(), Process::Coordinator);
}

#[test]
fn a_coordinator_that_ends_in_order_is_not_started_again_even_if_its_word_is_late() {
    for (exit, failed) in [(OK, false), (RUN_FAILED, true)] {
        let mut story = Story::new();
        assert_eq!(story.then(coordinator(exit)), []);
        assert_eq!(story.silence(), [Act::EndAgents]);
        assert_eq!(matches!(story.machine.outcome(), Outcome::Failed(_)), failed);
    }
}

#[test]
fn an_agent_that_dies_is_started_again_until_none_of_its_trainers_gets_anywhere() {
    let mut story = Story::new();
    for _ in 0..10 {
        assert!(said(&story.then(agent_died(1))).contains("starting it again in 0.1 s"));
        assert_eq!(story.silence(), [Act::StartAgent(1)]);
        story.then(Happened::Committed { node: 1 });
    }
    for _ in 0..3 {
        story.then(agent_died(1));
        // The other node goes on all the time; that does not count for this one.
        story.then(Happened::Committed { node: 0 });
        story.steps();
        assert_eq!(story.silence(), [Act::StartAgent(1)]);
    }
    assert!(said(&story.then(agent_died(1))).contains("it is not started again"));
    assert_eq!(story.machine.deadline(), None, "the run goes on without that node");
}

#[test]
fn an_agent_whose_places_are_all_set_aside_is_not_started_again() {
    let mut story = Story::new();
    story.steps();
    story.then(trainer_then(2, SEVEN, Then::SetAside("spent".into())));
    assert_eq!(story.then(agent_over(1, SEVEN)), []);
    assert_eq!(story.machine.deadline(), None, "the run goes on");
    story.then(trainer_then(0, KILL, Then::SetAside("spent".into())));
    story.then(agent_over(0, RUN_FAILED));
    // Nobody is left.
    assert_eq!(story.silence(), [Act::CloseCoordinator]);
    story.then(coordinator(RUN_FAILED));
    assert!(story.machine.is_over());
    assert_eq!(story.cause(), Process::Trainer { node: 1, rank: 2 });
}

#[test]
fn the_root_cause_is_the_first_that_is_no_victim() {
    let mut story = Story::new();
    story.then(trainer(0, VICTIM));
    story.then(trainer_restarts(3, KILL));
    story.then(trainer_restarts(2, SEVEN));
    story.then(ended(true));
    story.then(coordinator(RUN_FAILED));
    assert_eq!(story.cause(), Process::Trainer { node: 1, rank: 3 });
    let Outcome::Failed(cause) = story.machine.outcome() else { panic!("not failed") };
    assert_eq!(cause.reason.as_deref(), Some("the coordinator's sentence"));
}

#[test]
fn what_the_run_got_over_is_not_the_cause_of_its_end() {
    let mut story = Story::new();
    story.then(trainer_restarts(3, KILL));
    story.then(coordinator(KILL));
    story.silence();
    story.steps();
    story.then(trainer_restarts(0, SEVEN));
    story.then(ended(true));
    assert_eq!(story.cause(), Process::Trainer { node: 0, rank: 0 });
}

#[test]
fn the_last_step_before_a_failure_does_not_count_as_having_got_over_it() {
    let mut story = Story::new();
    story.then(trainer_restarts(3, KILL));
    story.then(Happened::Stepped);
    story.then(ended(true));
    assert_eq!(story.cause(), Process::Trainer { node: 1, rank: 3 });
}

#[test]
fn a_dead_coordinator_is_named_even_if_trainers_fail_a_moment_before_it_is_seen() {
    let mut story = Story::new();
    story.then(trainer(0, SEVEN));
    story.then(coordinator(KILL));
    for _ in 0..3 {
        story.silence();
        story.then(coordinator(KILL));
    }
    assert_eq!(story.cause(), Process::Coordinator);
}

#[test]
fn an_agent_that_ends_after_its_trainer_failed_is_not_the_cause() {
    let mut story = Story::new();
    story.then(trainer_then(2, SEVEN, Then::SetAside("spent".into())));
    story.then(agent_over(1, SEVEN));
    story.then(ended(true));
    assert_eq!(story.cause(), Process::Trainer { node: 1, rank: 2 });
}

#[test]
fn a_place_that_stays_empty_ends_a_run_that_never_began_and_its_trainer_is_the_cause() {
    let mut story = Story::new();
    story.then(trainer_then(3, SEVEN, Then::SetAside("it failed again".into())));
    assert_eq!(story.silence(), [Act::RestartNobody, Act::AskToStop("a process of the run failed".into())]);
    story.then(ended(false));
    story.then(coordinator(OK));
    assert_eq!(story.cause(), Process::Trainer { node: 1, rank: 3 });
}

#[test]
fn trainers_that_cannot_be_started_end_a_run_that_never_began_and_no_other() {
    let could_not = || Happened::CouldNotStart { node: 0, reason: "no such program".into() };
    let mut story = Story::new();
    story.then(could_not());
    assert!(matches!(story.silence().last(), Some(Act::AskToStop(_))));
    let Outcome::Failed(cause) = story.machine.outcome() else { panic!("not failed") };
    assert_eq!(cause.reason.as_deref(), Some("node 0: no such program"));

    let mut story = Story::new();
    story.steps();
    story.then(could_not());
    assert_eq!(story.machine.deadline(), None);
}

#[test]
fn whatever_does_not_end_is_ended_in_bounded_time() {
    let mut story = Story::new();
    let start = story.now;
    story.then(Happened::CouldNotStart { node: 0, reason: "no such program".into() });
    let mut acts = Vec::new();
    while !story.machine.is_over() {
        acts.extend(story.silence());
    }
    assert!(story.now - start < Duration::from_secs(60));
    let place = |act: &Act| acts.iter().position(|other| other == act);
    assert!(matches!(acts[1], Act::AskToStop(_)), "{acts:?}");
    assert!(place(&Act::EndAgents) < place(&Act::CloseAgents) && place(&Act::CloseAgents) < place(&Act::KillAll));
}

#[test]
fn a_stopped_survivor_of_a_failed_run_is_ended_within_seconds() {
    let mut story = Story::new();
    let start = story.now;
    story.then(trainer(0, KILL));
    story.then(ended(true));
    assert_eq!(story.silence(), [Act::EndAgents]);
    assert_eq!(story.silence(), [Act::CloseAgents, Act::CloseCoordinator]);
    assert!(story.now - start < Duration::from_secs(10));
}

#[test]
fn ctrl_c_asks_for_a_checkpoint_and_twice_kills() {
    let mut story = Story::new();
    let acts = done(story.then(Happened::Asked(Asked::Interrupt)));
    assert!(matches!(&acts[..], [Act::RestartNobody, Act::AskToStop(_)]), "{acts:?}");
    assert_eq!(story.then(Happened::Asked(Asked::Interrupt)).last(), Some(&Act::KillAll));
    assert_eq!(story.machine.outcome(), Outcome::Stopped { by: Asked::Interrupt, orderly: false });
}

#[test]
fn once_a_stop_was_asked_for_only_the_coordinator_comes_back_and_is_asked_again() {
    let mut story = Story::new();
    story.then(agent_died(1));
    story.then(Happened::Asked(Asked::Terminate));
    story.then(coordinator(KILL));
    let acts = done(story.silence());
    assert!(matches!(&acts[..], [Act::StartCoordinator, Act::AskToStop(_)]), "{acts:?}");
    assert_eq!(done(story.then(agent_died(0))), []);
    // Nothing but the bounds is left.
    assert!(!story.silence().iter().any(|act| matches!(act, Act::StartAgent(_) | Act::StartCoordinator)));
}

#[test]
fn an_orderly_stop_is_one_that_the_coordinator_ended() {
    let mut story = Story::new();
    story.then(Happened::Asked(Asked::Terminate));
    story.then(ended(false));
    story.then(coordinator(OK));
    assert_eq!(story.machine.outcome(), Outcome::Stopped { by: Asked::Terminate, orderly: true });
}

#[test]
fn nothing_that_dies_after_the_end_is_started_again() {
    let mut story = Story::new();
    story.then(ended(false));
    assert_eq!(done(story.then(agent_died(0))), []);
    assert_eq!(done(story.then(coordinator(KILL))), []);
    assert_eq!(story.silence(), [Act::EndAgents]);
    story.then(agent_over(1, OK));
    assert!(story.machine.is_over());
    assert!(matches!(story.machine.outcome(), Outcome::Ended(_)));
}

#[test]
fn a_coordinator_that_outlives_all_trainers_is_closed() {
    let mut story = Story::new();
    story.then(agent_over(0, OK));
    story.then(agent_over(1, OK));
    assert_eq!(story.silence(), [Act::CloseCoordinator]);
    assert_eq!(story.silence(), [Act::KillAll]);
    story.then(coordinator(KILL));
    assert!(story.machine.is_over());
    assert!(matches!(story.machine.outcome(), Outcome::Failed(Cause { process: None, .. })));
}
