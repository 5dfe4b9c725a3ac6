//! How runs end: well, on request, because a step stalls, or because the last state cannot be kept.

use std::time::Duration;

use began::{Rank, Step};

use super::decided::{end, has, ignored, notes, opening, seconds};
use super::stage::Stage;
use crate::machine::event::*;
use crate::machine::{Decisions, SAMPLE_WAIT, SAVE_WAIT};

fn sampled(step: u64) -> Body {
    Body::Sample(Written { step: Step(step), error: String::new() }, 0.0)
}

#[test]
fn the_last_step_is_answered_and_the_end_waits_for_checkpoint_digests_and_samples() {
    let mut stage = Stage::formed(2, 2, |plan| plan.config.run.steps = 1);
    let all = Orders { digest: true, checkpoint: true, sample: true, stop: true, regroup: false };
    assert_eq!(stage.orders(0, 0), all);
    stage.losses_of(0, 0);
    let answered = stage.losses_of(1, 0);
    let heard = stage.heard(&answered, 0);
    let [Message::Equilibrium(given)] = heard[..] else { panic!("{heard:?}") };
    assert_eq!((given.equilibrium.step, given.orders), (Step(1), Orders::default()));
    assert!(ignored(&stage.losses_of(0, 1)).is_some());
    assert!(end(&stage.written(0, 1, "")).is_none());
    assert!(end(&stage.digest(0, 1, "d")).is_none());
    assert!(end(&stage.digest(1, 1, "d")).is_none());
    assert!(end(&stage.say(0, sampled(1))).is_some_and(|(failed, step, _)| !failed && step == 1));
}

#[test]
fn samples_that_are_drawn_before_the_last_losses_arrive_are_not_waited_for_again() {
    let mut stage = Stage::formed(2, 2, |plan| plan.config.run.steps = 1);
    stage.losses_of(0, 0);
    assert!(ignored(&stage.say(0, sampled(1))).is_none());
    stage.losses_of(1, 0);
    (0..2).for_each(|index| drop(stage.digest(index, 1, "d")));
    assert!(end(&stage.written(0, 1, "")).is_some());
}

#[test]
fn the_last_samples_are_not_waited_for_without_end() {
    let mut stage = Stage::formed(1, 1, |plan| {
        plan.config.run.steps = 1;
        plan.config.run.step_timeout = 1e5;
    });
    stage.losses_of(0, 0);
    stage.digest(0, 1, "d");
    stage.written(0, 1, "");
    assert!(end(&stage.pass(SAMPLE_WAIT - seconds(1.0), &[0], Activity::Write)).is_none());
    assert!(end(&stage.pass(seconds(2.0), &[0], Activity::Write)).is_some_and(|(failed, ..)| !failed));
}

#[test]
fn a_trainer_that_owes_nothing_may_leave_before_the_end() {
    let mut stage = Stage::formed(2, 2, |plan| plan.config.run.steps = 1);
    (0..2).for_each(|index| drop(stage.losses_of(index, 0)));
    stage.digest(1, 1, "d");
    let out = stage.kill(1);
    assert!(!stage.halted(&out, 0));
    stage.digest(0, 1, "d");
    stage.say(0, sampled(1));
    assert!(end(&stage.written(0, 1, "")).is_some_and(|(failed, ..)| !failed));
}

#[test]
fn one_that_dies_while_it_writes_the_last_checkpoint_has_another_write_it() {
    let mut stage = Stage::formed(2, 2, |plan| plan.config.run.steps = 1);
    (0..2).for_each(|index| drop(stage.losses_of(index, 0)));
    (0..2).for_each(|index| stage.commits(index, 0));
    (0..2).for_each(|index| drop(stage.digest(index, 1, "d")));
    stage.kill(0);
    let out = stage.leaves(1);
    assert_eq!(opening(&out), Some((2, 1, 1)));
    let orders = stage.opened(&out, 1).unwrap().orders;
    assert!(orders.stop && orders.checkpoint && orders.digest);
    assert!(end(&stage.obey(orders, 1)).is_some_and(|(failed, step, _)| !failed && step == 1));
}

#[test]
fn a_checkpoint_that_cannot_be_written_costs_the_run_only_at_its_end() {
    let mut stage = Stage::trained(1, 1, 7, |plan| plan.config.run.steps = 9);
    stage.losses_of(0, 7);
    let warned = stage.written(0, 8, "no space left on device");
    assert!(
        end(&warned).is_none() && notes(&warned, "warning")[0].contains("no space left on device; the run goes on")
    );
    stage.losses_of(0, 8);
    stage.digest(0, 9, "d");
    let out = stage.written(0, 9, "no space left on device");
    assert!(end(&out).is_some_and(|(failed, _, why)| failed && why.contains("no space left on device")));
}

#[test]
fn a_checkpoint_that_nobody_asked_for_is_refused() {
    let mut stage = Stage::trained(2, 2, 3, |_| {});
    assert!(ignored(&stage.written(0, 3, "")).is_some_and(|why| why.contains("which is not asked for")));
    (3..7).for_each(|step| drop(stage.step(step)));
    (0..2).for_each(|index| drop(stage.losses_of(index, 7)));
    // Nor may another write what rank 0 was to write.
    assert!(ignored(&stage.written(1, 8, "")).is_some());
}

// ---- On request --------------------------------------------------------------------------------------------------

#[test]
fn a_stop_finishes_the_step_after_and_leaves_digest_and_checkpoint() {
    let mut stage = Stage::trained(2, 2, 3, |_| {});
    let answer = stage.control(Action::Stop, Duration::ZERO);
    assert_eq!(answer[0].act, Act::Answer { ticket: Ticket(7), answer: Ok(Step(4)) });
    stage.step(3);
    assert_eq!(stage.orders(0, 4), Orders { digest: true, checkpoint: true, stop: true, ..Orders::default() });
    let out = stage.step(4);
    let (failed, step, why) = end(&out).expect("an end");
    assert!(!failed && step == 5 && why.contains("stopped on request at step 5 (a person)"), "{why}");
}

#[test]
fn a_stop_before_the_first_step_ends_the_run_without_failing_it() {
    let mut stage = Stage::new(2, 2, |_| {});
    stage.joins(0);
    let out = stage.control(Action::Stop, Duration::ZERO);
    assert!(end(&out).is_some_and(|(failed, step, _)| !failed && step == 0));
    assert!(matches!(out.last().map(|decision| &decision.act), Some(Act::End { .. })));
}

/// Steps take a second each, and someone asks for a stop within two.
fn stopped_within_a_step(steps: u64) -> (Stage, Decisions) {
    let mut stage = Stage::trained(2, 2, 0, |_| {});
    for step in 0..steps {
        stage.pass(seconds(1.0), &[0, 1], Activity::Compute);
        stage.step(step);
    }
    stage.pass(seconds(0.5), &[0, 1], Activity::Compute);
    let answer = stage.control(Action::Stop, seconds(2.0));
    assert_eq!(answer[0].act, Act::Answer { ticket: Ticket(7), answer: Ok(Step(steps - 1)) });
    assert!(stage.halted(&answer, 0) && stage.halted(&answer, 1));
    stage.leaves(0);
    let out = stage.leaves(1);
    (stage, out)
}

#[test]
fn a_stop_with_a_grace_shorter_than_a_step_writes_the_state_that_is_held() {
    let (mut stage, out) = stopped_within_a_step(6);
    assert_eq!(opening(&out), Some((2, 6, 2)));
    let orders = stage.opened(&out, 0).unwrap().orders;
    assert_eq!(orders, Orders { digest: true, checkpoint: true, stop: true, ..Orders::default() });
    let done = stage.obey(orders, 6);
    let (failed, step, why) = end(&done).expect("an end");
    assert!(
        !failed && step == 6 && why.contains("stopped on request at step 6") && why.contains("resume from step 6"),
        "{why}"
    );
}

#[test]
fn a_stop_within_a_step_does_not_wait_for_samples_that_were_due_after_it() {
    let (mut stage, out) = stopped_within_a_step(9);
    let orders = stage.opened(&out, 0).unwrap().orders;
    assert!(!orders.sample);
    assert!(end(&stage.obey(orders, 9)).is_some_and(|(failed, step, _)| !failed && step == 9));
}

#[test]
fn a_stop_with_time_enough_finishes_the_step() {
    let mut stage = Stage::formed(1, 1, |_| {});
    for step in 0..4 {
        stage.pass(seconds(0.1), &[0], Activity::Compute);
        stage.step(step);
    }
    stage.control(Action::Stop, seconds(5.0));
    assert_eq!(stage.phase(), "running");
    stage.step(4);
    assert!(end(&stage.step(5)).is_some());
}

#[test]
fn a_stop_that_comes_while_a_generation_is_to_open_is_its_first_order() {
    let mut stage = Stage::trained(2, 2, 3, |_| {});
    stage.kill(1);
    assert!(end(&stage.control(Action::Stop, Duration::ZERO)).is_none());
    let out = stage.leaves(0);
    let orders = stage.opened(&out, 0).unwrap().orders;
    assert!(orders.stop && orders.checkpoint);
    assert!(end(&stage.obey(orders, 3)).is_some_and(|(failed, step, _)| !failed && step == 3));
}

#[test]
fn a_stop_that_comes_while_too_few_are_there_saves_what_they_hold() {
    let mut stage = Stage::trained(2, 2, 3, |plan| plan.config.run.min_trainers = 2);
    stage.kill(1);
    stage.leaves(0);
    stage.control(Action::Stop, Duration::ZERO);
    let asked = stage.pass(seconds(0.1), &[0], Activity::Idle);
    assert!(matches!(stage.heard(&asked, 0)[..], [Message::WriteCheckpoint(_)]));
    let done = stage.written(0, 3, "");
    let (failed, step, why) = end(&done).expect("an end");
    assert!(
        !failed && step == 3 && why.contains("with 1 of 2 trainers there") && why.contains("resume from step 3"),
        "{why}"
    );
}

#[test]
fn one_that_was_to_save_for_a_stop_and_does_not_is_named_with_the_reason() {
    let mut stage = Stage::trained(2, 2, 3, |plan| {
        plan.config.run.min_trainers = 2;
        plan.forming_timeout = seconds(120.0);
    });
    stage.kill(1);
    stage.leaves(0);
    stage.control(Action::Stop, Duration::ZERO);
    let out = stage.pass(SAVE_WAIT + seconds(1.0), &[0], Activity::Write);
    let (failed, _, why) = end(&out).expect("an end");
    assert!(failed && why.starts_with("rank 1 (node 0") && why.contains("did not write step 3 within 90 s"), "{why}");
}

#[test]
fn an_abort_ends_everything_at_once_even_between_generations() {
    let mut stage = Stage::trained(2, 2, 3, |_| {});
    stage.kill(0);
    let out = stage.event(Event::Abort { reason: "the launcher is gone".into() });
    assert!(end(&out).is_some_and(|(failed, _, why)| failed && why.contains("the launcher is gone")));
    assert!(stage.event(Event::Abort { reason: "again".into() }).is_empty());
}

// ---- Stalls ------------------------------------------------------------------------------------------------------

/// Step 1 never ends. Trainer 1 does `busy` all the time, the others `waiting`; the decisions when that is noticed.
fn stalls(stage: &mut Stage, others: &[u32], busy: Activity, waiting: Activity) -> Decisions {
    stage.step(0);
    others.iter().for_each(|&index| drop(stage.losses_of(index, 1)));
    loop {
        let beat = Heartbeat { activity: busy, seconds: 19.0, step: Step(1) };
        stage.say(1, Body::Heartbeat(beat));
        let out = stage.pass(seconds(0.1), others, waiting);
        if stage.is_idle() {
            return out;
        }
        assert!(stage.now < seconds(21.0), "nobody notices");
    }
}

#[test]
fn a_step_that_stalls_puts_out_who_is_busy_and_not_who_waits() {
    let mut stage = Stage::formed(3, 3, |_| {});
    let out = stalls(&mut stage, &[0, 2], Activity::Data, Activity::Reduce);
    assert!(stage.now > seconds(20.0));
    assert_eq!(stage.heard(&out, 1)[0], Message::Stop { failed: true, expelled: true, set_aside: false });
    let lost = notes(&out, "lost");
    assert!(lost[0].contains("step 1 did not finish within 20 s (run.step_timeout)"), "{lost:?}");
    assert!(
        lost[0].contains("waiting for data for 19.") && !lost[0].contains("rank 0 (") && !lost[0].contains("rank 2 (")
    );
    stage.leaves(0);
    assert_eq!(opening(&stage.leaves(2)), Some((2, 1, 2)));
}

#[test]
fn where_everyone_is_busy_it_is_not_a_trainer_that_hangs_and_the_run_ends_with_its_state_saved() {
    let mut stage = Stage::formed(2, 2, |_| {});
    let out = stalls(&mut stage, &[0], Activity::Data, Activity::Data);
    assert!(stage.halted(&out, 0) && stage.halted(&out, 1));
    stage.leaves(0);
    let asked = stage.leaves(1);
    assert!(matches!(stage.heard(&asked, 0)[..], [Message::WriteCheckpoint(_)]));
    let done = stage.written(0, 1, "");
    assert!(end(&done).is_some_and(|(failed, step, why)| {
        failed
            && step == 1
            && why.contains("rank 0")
            && why.contains("rank 1")
            && why.contains("did not finish within 20 s")
    }));
}

#[test]
fn where_everyone_waits_for_everyone_it_is_their_connections_that_are_lost() {
    let mut stage = Stage::formed(2, 2, |_| {});
    let out = stalls(&mut stage, &[0], Activity::Reduce, Activity::Reduce);
    assert!(!out.iter().any(|decision| matches!(decision.act, Act::Drop(_))));
    stage.leaves(0);
    let out = stage.leaves(1);
    assert_eq!((opening(&out), stage.opened(&out, 1).unwrap().rank), (Some((2, 1, 2)), Rank(1)));
}

#[test]
fn one_that_does_not_write_the_state_at_the_end_is_not_waited_for_without_end() {
    let mut stage = Stage::trained(2, 2, 3, |_| {});
    stage.say(1, Body::Failure { reason: "no such shard".into(), for_all: true });
    stage.leaves(0);
    assert!(end(&stage.pass(SAVE_WAIT - seconds(1.0), &[0], Activity::Write)).is_none());
    let out = stage.pass(seconds(2.0), &[0], Activity::Write);
    let (failed, _, why) = end(&out).expect("an end");
    assert!(failed && why.contains("rank 0") && why.contains("did not write step 3 within 90 s"), "{why}");
}

#[test]
fn who_comes_after_the_end_is_told_to_stop() {
    let mut stage = Stage::trained(1, 1, 30, |_| {});
    let out = stage.joins(100);
    assert_eq!(stage.heard(&out, 100), [Message::Stop { failed: false, expelled: false, set_aside: false }]);
    assert!(!has(&out, &Act::Close(began::Generation(1))));
}
