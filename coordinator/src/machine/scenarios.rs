//! Single histories of the machine, told as claims.

use std::time::{Duration, Instant};

use began::lanes::lanes_of;
use began::{Lane, LaneLosses, Rank, Step};

use super::event::*;
use super::made_up::{hello, losses, plan, said, truth};
use super::*;

/// A machine with its trainers, driven by hand.
struct Stage {
    machine: Machine,
    now: Duration,
    world: u32,
    lanes: u32,
}

impl Stage {
    fn new(world: u32, lanes: u32, change: impl FnOnce(&mut Plan)) -> Self {
        let machine = Machine::new(plan(world, lanes, change)).unwrap();
        let mut stage = Self { machine, now: Duration::ZERO, world, lanes };
        stage.event(Event::Started);
        stage
    }

    /// All trainers are in.
    fn formed(world: u32, lanes: u32, change: impl FnOnce(&mut Plan)) -> Self {
        let mut stage = Self::new(world, lanes, change);
        for index in 0..world {
            stage.say(index, Body::Hello(hello(index)));
        }
        assert_eq!(stage.status().phase, "running");
        stage
    }

    fn event(&mut self, event: Event) -> Decisions {
        self.machine.handle(event, self.now)
    }

    fn say(&mut self, index: u32, body: Body) -> Decisions {
        let generation = self.machine.generation().0;
        self.event(said(index, generation, body))
    }

    fn status(&self) -> Status {
        self.machine.status(self.now)
    }

    fn losses_of(&mut self, index: u32, step: u64) -> Decisions {
        let own = lanes_of(Rank(index), self.world, self.lanes);
        self.say(index, Body::Losses { step: Step(step), lanes: losses(Step(step), own) })
    }

    /// Everyone goes through a step; digests and checkpoints are delivered.
    fn step(&mut self, step: u64) -> Decisions {
        let mut out = Vec::new();
        let orders = self.orders();
        for index in 0..self.world {
            out.extend(self.losses_of(index, step));
        }
        if orders.digest {
            for index in 0..self.world {
                out.extend(self.digest(index, step + 1, "same"));
            }
        }
        if orders.checkpoint {
            out.extend(self.written(0, step + 1, ""));
        }
        if orders.sample {
            out.extend(self.say(0, Body::Sample(Written { step: Step(step + 1), error: String::new() })));
        }
        out
    }

    fn orders(&self) -> Orders {
        let Phase::Running(running) = &self.machine.phase else { panic!("not running") };
        running.given().orders
    }

    fn digest(&mut self, index: u32, step: u64, digest: &str) -> Decisions {
        self.say(index, Body::Digest(Digest { step: Step(step), digest: digest.into(), tensors: vec![] }))
    }

    fn written(&mut self, index: u32, step: u64, error: &str) -> Decisions {
        self.say(index, Body::Checkpoint(Written { step: Step(step), error: error.into() }))
    }

    fn held(&mut self, index: u32, step: u64) -> Decisions {
        let before = Step(step.saturating_sub(1));
        let losses = if step == 0 { vec![] } else { losses(before, 0..self.lanes) };
        self.say(index, Body::Held { step: Step(step), losses })
    }

    /// Time passes, tick by tick; those in `alive` send heartbeats.
    fn pass(&mut self, time: Duration, alive: &[u32], activity: Activity) -> Decisions {
        let end = self.now + time;
        let mut out = Vec::new();
        while self.now < end {
            self.now += self.machine.tick_interval();
            for &index in alive {
                let beat = Heartbeat { activity, seconds: 0.0, step: Step(0) };
                out.extend(self.say(index, Body::Heartbeat(beat)));
            }
            out.extend(self.event(Event::Tick));
        }
        out
    }

    fn kill(&mut self, index: u32) -> Decisions {
        self.event(Event::Broken { connection: ConnectionId(index.into()), reason: "connection reset".into() })
    }
}

fn messages(decisions: &Decisions, to: u32) -> Vec<&Message> {
    decisions
        .iter()
        .filter_map(|decision| match &decision.act {
            Act::Send { to: all, message } if all.contains(&ConnectionId(to.into())) => Some(message),
            _ => None,
        })
        .collect()
}

fn end(decisions: &Decisions) -> Option<(bool, u64, &str)> {
    decisions.iter().find_map(|decision| match decision.act {
        Act::End { failed, step } => Some((failed, step.0, decision.why.as_str())),
        _ => None,
    })
}

fn ignored(decisions: &Decisions) -> Option<&str> {
    match decisions.as_slice() {
        [Decision { act: Act::Ignore(_), why }] => Some(why),
        _ => None,
    }
}

#[test]
fn ranks_follow_places_and_not_arrival() {
    let mut stage = Stage::new(3, 6, |_| {});
    stage.say(2, Body::Hello(hello(2)));
    stage.say(0, Body::Hello(hello(0)));
    let opened = stage.say(1, Body::Hello(hello(1)));
    for index in 0..3 {
        let place = messages(&opened, index).into_iter().find_map(|message| match message {
            Message::Opened(opened) => Some((opened.rank.0, opened.world_size, opened.given.equilibrium.step.0)),
            _ => None,
        });
        assert_eq!(place, Some((index, 3, 0)));
        assert!(messages(&opened, index).iter().any(|message| matches!(message, Message::Lease(_))));
    }
}

#[test]
fn a_killed_trainer_ends_the_run_with_a_checkpoint_of_the_highest_step_held() {
    let mut stage = Stage::formed(3, 6, |_| {});
    (0..5).for_each(|step| drop(stage.step(step)));
    // Step 5: everyone computed it, the losses of trainer 0 are lost on the way, and it dies.
    stage.losses_of(1, 5);
    stage.losses_of(2, 5);
    let halt = stage.kill(0);
    assert!(messages(&halt, 1).contains(&&Message::Halt) && messages(&halt, 2).contains(&&Message::Halt));
    assert!(stage.held(1, 5).is_empty());
    let save = stage.held(2, 6);
    let expected = truth(&stage.machine.plan)[6];
    match messages(&save, 2).as_slice() {
        [Message::WriteCheckpoint(given)] => {
            assert_eq!(given.equilibrium, expected);
            assert_eq!(given.orders, Orders::default());
        }
        other => panic!("{other:?}"),
    }
    let done = stage.written(2, 6, "");
    let (failed, step, why) = end(&done).expect("an end");
    assert!(failed && step == 6);
    assert!(why.contains("rank 0 (node 0, local rank 0, process 100 on here)"), "{why}");
    assert!(why.contains("resume from step 6 with `launcher resume runs/x`"), "{why}");
    assert_eq!(messages(&done, 1), [&Message::Stop { failed: true }]);
}

#[test]
fn the_next_one_writes_when_the_first_cannot() {
    let mut stage = Stage::formed(3, 3, |_| {});
    (0..3).for_each(|step| drop(stage.step(step)));
    stage.kill(1);
    stage.held(0, 3);
    let first = stage.held(2, 3);
    assert!(matches!(messages(&first, 0).as_slice(), [Message::WriteCheckpoint(_)]));
    let second = stage.written(0, 3, "no space left on device");
    assert!(matches!(messages(&second, 2).as_slice(), [Message::WriteCheckpoint(_)]));
    let last = stage.kill(2);
    let (_, _, why) = end(&last).expect("an end");
    assert!(why.contains("no survivor") && why.contains("no checkpoint to go on from"), "{why}");
}

#[test]
fn what_is_on_the_disk_already_is_not_written_again() {
    let mut stage = Stage::formed(2, 2, |_| {});
    (0..8).for_each(|step| drop(stage.step(step)));
    stage.kill(1);
    let done = stage.held(0, 8);
    assert!(end(&done).is_some_and(|(failed, _, why)| failed && why.contains("resume from step 8")));
}

#[test]
fn survivors_that_do_not_answer_are_waited_for_ten_seconds_and_a_writer_for_sixty() {
    let mut stage = Stage::formed(3, 3, |plan| plan.config.run.step_timeout = 1e5);
    (0..3).for_each(|step| drop(stage.step(step)));
    stage.kill(0);
    stage.held(1, 3);
    assert!(messages(&stage.pass(HELD_WAIT - Duration::from_secs(1), &[1, 2], Activity::Idle), 1).is_empty());
    let asked = stage.pass(Duration::from_secs(2), &[1, 2], Activity::Idle);
    assert!(matches!(messages(&asked, 1).as_slice(), [Message::WriteCheckpoint(_)]));
    assert!(end(&stage.pass(SAVE_WAIT - Duration::from_secs(3), &[1, 2], Activity::Write)).is_none());
    let late = stage.pass(Duration::from_secs(3), &[1, 2], Activity::Write);
    assert!(end(&late).is_some_and(|(_, _, why)| why.contains("did not write step 3 within 60 s")));
}

#[test]
fn silence_is_noticed_within_the_limit_and_the_silent_one_is_named() {
    let mut stage = Stage::formed(2, 2, |_| {});
    stage.step(0);
    assert!(messages(&stage.pass(Duration::from_millis(900), &[0], Activity::Reduce), 0).is_empty());
    let noticed = stage.pass(Duration::from_millis(300), &[0], Activity::Reduce);
    assert_eq!(messages(&noticed, 0), [&Message::Halt]);
    let why = &noticed.iter().find(|decision| matches!(decision.act, Act::Note(_))).expect("a note").why;
    assert!(why.contains("rank 1") && why.contains("silent for 1."), "{why}");
    // Should it wake up, it is told.
    assert_eq!(messages(&noticed, 1), [&Message::Stop { failed: true }]);
}

#[test]
fn a_coordinator_that_was_asleep_itself_blames_nobody() {
    let mut stage = Stage::formed(2, 2, |_| {});
    stage.step(0);
    stage.now += Duration::from_secs(3600);
    assert!(stage.event(Event::Tick).is_empty());
    assert!(
        stage.pass(Duration::from_secs(2), &[0, 1], Activity::Compute).iter().all(|decision| {
            matches!(&decision.act, Act::Lease { .. } | Act::Send { message: Message::Lease(_), .. })
        })
    );
}

#[test]
fn a_step_that_stalls_names_who_is_busy_and_not_who_waits() {
    let mut stage = Stage::formed(3, 3, |_| {});
    stage.step(0);
    stage.losses_of(0, 1);
    stage.losses_of(2, 1);
    let mut out = Vec::new();
    while end(&out).is_none() && stage.now < Duration::from_secs(60) {
        out.extend(stage.pass(Duration::from_millis(100), &[0, 2], Activity::Reduce));
        out.extend(stage.say(1, Body::Heartbeat(Heartbeat { activity: Activity::Data, seconds: 19.0, step: Step(1) })));
    }
    assert!(stage.now < Duration::from_secs(20 + 12), "{:?}", stage.now);
    let (_, _, why) = end(&out).expect("an end");
    assert!(why.contains("step 1 did not finish within 20 s") && why.contains("rank 1"), "{why}");
    assert!(why.contains("waiting for data for 19.") && !why.contains("rank 0") && !why.contains("rank 2"), "{why}");
}

#[test]
fn a_diverged_run_stops_at_once_and_writes_nothing() {
    let mut stage = Stage::formed(2, 2, |_| {});
    (0..8).for_each(|step| drop(stage.step(step)));
    stage.losses_of(0, 8);
    let nan = LaneLosses { real: f64::NAN, fake: 0.1, drawn: 0 };
    let out = stage.say(1, Body::Losses { step: Step(8), lanes: vec![(Lane(1), nan)] });
    let (failed, _, why) = end(&out).expect("an end");
    assert!(failed && why.contains("training diverged: lane 1") && why.contains("step 8"), "{why}");
    // The checkpoint of step 8 was written before anyone could know; it never pushed out an older one.
    assert!(why.contains("the checkpoint of step 8 may hold the same fault"), "{why}");
    assert!(out.iter().all(|decision| decision.act != Act::Prune));
    assert_eq!(messages(&out, 0), [&Message::Stop { failed: true }]);
}

#[test]
fn old_checkpoints_go_only_once_the_new_one_brought_forth_finite_losses() {
    let mut stage = Stage::formed(1, 1, |_| {});
    let prunes = |out: &Decisions| out.iter().filter(|decision| decision.act == Act::Prune).count();
    let before: usize = (0..8).map(|step| prunes(&stage.step(step))).sum();
    assert_eq!(before, 0);
    assert_eq!(prunes(&stage.step(8)), 1);
}

#[test]
fn a_trainer_with_another_digest_ends_the_run_and_is_named() {
    let mut stage = Stage::formed(3, 3, |_| {});
    (0..4).for_each(|step| drop(stage.step(step)));
    (0..3).for_each(|index| drop(stage.losses_of(index, 4)));
    stage.digest(0, 5, "same");
    stage.digest(1, 5, "other");
    let out = stage.digest(2, 5, "same");
    let (failed, _, why) = end(&out).expect("an end");
    assert!(failed && why.contains("rank 1") && why.contains("digest of step 5"), "{why}");
    assert!(!why.contains("rank 0") && !why.contains("rank 2"), "{why}");
}

#[test]
fn a_checkpoint_that_cannot_be_written_costs_the_run_only_at_its_end() {
    let mut stage = Stage::formed(1, 1, |plan| plan.config.run.steps = 9);
    (0..7).for_each(|step| drop(stage.step(step)));
    stage.losses_of(0, 7);
    let warned = stage.written(0, 8, "no space left on device");
    assert!(end(&warned).is_none() && warned[0].why.contains("no space left on device; the run goes on"));
    stage.losses_of(0, 8);
    stage.digest(0, 9, "d");
    let out = stage.written(0, 9, "no space left on device");
    assert!(end(&out).is_some_and(|(failed, _, why)| failed && why.contains("no space left on device")));
}

#[test]
fn the_last_step_is_answered_and_the_end_waits_for_checkpoint_digests_and_samples() {
    let mut stage = Stage::formed(2, 2, |plan| plan.config.run.steps = 1);
    assert_eq!(stage.orders(), Orders { digest: true, checkpoint: true, sample: true, stop: true });
    stage.losses_of(0, 0);
    let answered = stage.losses_of(1, 0);
    match messages(&answered, 0).as_slice() {
        [Message::Equilibrium(given)] => {
            assert_eq!((given.equilibrium.step, given.orders), (Step(1), Orders::default()));
        }
        other => panic!("{other:?}"),
    }
    assert!(ignored(&stage.losses_of(0, 1)).is_some());
    assert!(end(&stage.written(0, 1, "")).is_none());
    assert!(end(&stage.digest(0, 1, "d")).is_none());
    assert!(end(&stage.digest(1, 1, "d")).is_none());
    let sample = Body::Sample(Written { step: Step(1), error: String::new() });
    let done = stage.say(0, sample);
    assert_eq!(end(&done).map(|(failed, step, _)| (failed, step)), Some((false, 1)));
}

#[test]
fn samples_that_are_drawn_before_the_last_losses_arrive_are_not_waited_for_again() {
    let mut stage = Stage::formed(2, 2, |plan| plan.config.run.steps = 1);
    stage.losses_of(0, 0);
    assert!(ignored(&stage.say(0, Body::Sample(Written { step: Step(1), error: String::new() }))).is_none());
    stage.losses_of(1, 0);
    (0..2).for_each(|index| drop(stage.digest(index, 1, "d")));
    assert!(end(&stage.written(0, 1, "")).is_some());
}

#[test]
fn a_trainer_that_owes_nothing_may_leave_before_the_end() {
    let mut stage = Stage::formed(2, 2, |plan| plan.config.run.steps = 1);
    (0..2).for_each(|index| drop(stage.losses_of(index, 0)));
    stage.digest(1, 1, "d");
    assert!(messages(&stage.kill(1), 0).is_empty());
    stage.digest(0, 1, "d");
    stage.say(0, Body::Sample(Written { step: Step(1), error: String::new() }));
    assert!(end(&stage.written(0, 1, "")).is_some_and(|(failed, ..)| !failed));
}

#[test]
fn losses_that_come_again_are_answered_again_and_change_nothing() {
    let mut stage = Stage::formed(2, 2, |_| {});
    stage.step(0);
    let again = stage.losses_of(1, 0);
    let expected = truth(&stage.machine.plan)[1];
    assert!(matches!(messages(&again, 1).as_slice(), [Message::Equilibrium(given)] if given.equilibrium == expected));
    assert!(messages(&again, 0).is_empty());
    let other = Body::Losses { step: Step(0), lanes: vec![(Lane(1), LaneLosses { real: 9.0, fake: 9.0, drawn: 0 })] };
    assert!(ignored(&stage.say(1, other)).is_some_and(|why| why.contains("second, different losses")));
}

#[test]
fn a_message_from_another_generation_or_run_is_refused_by_name() {
    let mut stage = Stage::formed(1, 1, |plan| plan.generation = began::Generation(4));
    assert_eq!(stage.machine.generation().0, 5);
    let body = || Body::Losses { step: Step(0), lanes: losses(Step(0), 0..1) };
    let stale = stage.event(said(0, 4, body()));
    assert!(ignored(&stale).is_some_and(|why| why.contains("generation 4, this is 5")));
    let message = Said { run: "another".into(), generation: began::Generation(5), body: body() };
    let foreign = stage.event(Event::Said { connection: ConnectionId(0), message });
    assert!(ignored(&foreign).is_some_and(|why| why.contains("run \"another\"")));
}

#[test]
fn a_requested_checkpoint_rides_with_the_next_equilibrium_and_the_answer_says_when() {
    let mut stage = Stage::formed(1, 1, |_| {});
    let ask = |action| Event::Control { ticket: Ticket(7), action, reason: "a person".into() };
    let answer = stage.event(ask(Action::Checkpoint));
    assert_eq!(answer[0].act, Act::Answer { ticket: Ticket(7), answer: Ok(Step(1)) });
    stage.losses_of(0, 0);
    assert_eq!(stage.orders(), Orders { checkpoint: true, ..Orders::default() });
    stage.losses_of(0, 1);
    assert_eq!(stage.orders(), Orders::default());
}

#[test]
fn a_stop_before_the_first_step_ends_the_run_without_failing_it() {
    let mut stage = Stage::new(2, 2, |_| {});
    stage.say(0, Body::Hello(hello(0)));
    let ask = Event::Control { ticket: Ticket(0), action: Action::Stop, reason: "SIGTERM".into() };
    let out = stage.event(ask);
    assert!(end(&out).is_some_and(|(failed, step, _)| !failed && step == 0));
    assert!(matches!(out.last().map(|decision| &decision.act), Some(Act::End { .. })));
}

#[test]
fn a_trainer_that_cannot_start_ends_the_wait_for_the_others() {
    let mut stage = Stage::new(3, 3, |_| {});
    stage.say(0, Body::Hello(hello(0)));
    stage.say(1, Body::Hello(hello(1)));
    let out = stage.say(1, Body::Failure("no such device".into()));
    assert!(end(&out).is_some_and(|(failed, _, why)| failed && why.contains("no such device")));
    assert_eq!(messages(&out, 0), [&Message::Stop { failed: true }]);
}

#[test]
fn who_leaves_while_the_world_forms_may_come_back_on_another_stream() {
    let mut stage = Stage::new(2, 2, |_| {});
    stage.say(0, Body::Hello(hello(0)));
    assert!(end(&stage.kill(0)).is_none());
    stage.say(5, Body::Hello(hello(0)));
    stage.say(1, Body::Hello(hello(1)));
    assert_eq!(stage.status().phase, "running");
}

#[test]
fn an_abort_ends_everything_at_once_even_while_halting() {
    let mut stage = Stage::formed(2, 2, |_| {});
    stage.kill(0);
    let out = stage.event(Event::Abort { reason: "the launcher is gone".into() });
    assert!(end(&out).is_some_and(|(failed, _, why)| failed && why.contains("the launcher is gone")));
    assert!(stage.event(Event::Abort { reason: "again".into() }).is_empty());
}

#[test]
fn who_comes_after_the_end_is_told_to_stop() {
    let mut stage = Stage::new(1, 1, |plan| {
        plan.resume = Some(Resume { path: "checkpoints/step-00000030".into(), equilibrium: truth(plan)[30] })
    });
    assert_eq!(stage.status().phase, "ended");
    let out = stage.say(0, Body::Hello(hello(0)));
    assert_eq!(messages(&out, 0), [&Message::Stop { failed: false }]);
}

#[test]
fn a_step_of_32_trainers_takes_the_machine_far_less_than_a_millisecond() {
    let mut stage = Stage::formed(32, 32, |plan| plan.config.run.steps = 1_000);
    let began = Instant::now();
    (0..500).for_each(|step| drop(stage.step(step)));
    let a_step = began.elapsed() / 500;
    assert!(a_step < Duration::from_millis(1), "{a_step:?}");
}
