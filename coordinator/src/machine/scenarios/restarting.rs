//! A coordinator that was killed and started again: it finds its generation whole, or what is left of it.

use began::{Generation, Rank, Step};

use super::decided::{end, has, notes, opening, seconds};
use super::stage::Stage;
use crate::machine::event::*;
use crate::machine::made_up::{hello, losses};

#[test]
fn a_generation_that_comes_back_whole_goes_on_as_if_nothing_had_been() {
    let mut stage = Stage::trained(2, 4, 6, |_| {});
    stage.losses_of(0, 6);
    stage.restart(|_| {});
    let first = stage.comes_back(0);
    assert_eq!(stage.heard(&first, 0), [Message::Welcome { generation: Generation(1) }]);
    let second = stage.comes_back(1);
    // Both hold the same, so one of them is asked what led there, from the last step in the journal on.
    assert_eq!(stage.heard(&second, 1)[1], Message::Recall(Step(5)));
    let out = stage.recalls(1, 5);
    assert_eq!(opening(&out), None);
    assert!(
        notes(&out, "generation")[0].contains("generation 1 goes on with its 2 trainers at step 6, after a restart")
    );
    for index in 0..2 {
        assert!(
            matches!(stage.heard(&out, index)[0], Message::Equilibrium(given) if given.equilibrium.step == Step(6))
        );
    }
    assert_eq!(stage.machine.generation(), Generation(1));
    let last = (6..30).map(|step| stage.step(step)).last().unwrap();
    assert!(end(&last).is_some_and(|(failed, step, _)| !failed && step == 30));
}

#[test]
fn steps_that_the_journal_had_not_got_yet_are_brought_by_those_who_took_them() {
    let mut stage = Stage::trained(2, 4, 9, |_| {});
    stage.restart(|plan| plan.recorded = Step(4));
    stage.comes_back(0);
    let asked = stage.comes_back(1);
    assert_eq!(stage.heard(&asked, 1)[1], Message::Recall(Step(3)));
    // Lost with its stream, it is asked again.
    let back = stage.comes_back(1);
    assert_eq!(stage.heard(&back, 1)[1], Message::Recall(Step(3)));
    let out = stage.recalls(1, 3);
    let recorded: Vec<u64> = out
        .iter()
        .filter_map(|decision| match &decision.act {
            Act::Step { record, .. } => Some(record.step.0),
            _ => None,
        })
        .collect();
    assert_eq!(recorded, [4, 5, 6, 7, 8]);
    stage.step(9);
}

#[test]
fn the_one_that_has_committed_the_most_is_asked() {
    let mut stage = Stage::trained(2, 4, 6, |_| {});
    (0..2).for_each(|index| drop(stage.losses_of(index, 6)));
    stage.commits(1, 6);
    stage.restart(|_| {});
    stage.comes_back(1);
    let out = stage.comes_back(0);
    assert_eq!(stage.heard(&out, 1), [Message::Recall(Step(6))]);
    // The other has its part of the sum still to come, and is given the next equilibrium like everyone.
    let out = stage.recalls(1, 6);
    assert!(notes(&out, "generation")[0].contains("at step 7"));
    stage.commits(0, 6);
    stage.step(7);
}

#[test]
fn losses_said_again_before_it_is_known_where_the_generation_stands_are_used_then() {
    let mut stage = Stage::trained(2, 4, 6, |_| {});
    stage.restart(|_| {});
    stage.comes_back(0);
    assert!(stage.losses_of(0, 5).is_empty() && stage.losses_of(0, 6).is_empty());
    stage.comes_back(1);
    assert!(stage.losses_of(1, 6).is_empty());
    let out = stage.recalls(1, 5);
    assert!(out.iter().any(|decision| matches!(&decision.act, Act::Step { record, .. } if record.step == Step(6))));
    (0..2).for_each(|index| stage.commits(index, 6));
    stage.step(7);
}

#[test]
fn what_is_said_before_the_generation_is_back_is_kept_up_to_a_bound() {
    let mut stage = Stage::trained(2, 4, 6, |_| {});
    stage.restart(|_| {});
    stage.comes_back(0);
    for _ in 0..32 {
        assert!(stage.losses_of(0, 6).is_empty());
    }
    let refused = stage.losses_of(0, 6);
    assert!(refused[0].why.contains("too much was said before the generation is back"), "{refused:?}");
}

#[test]
fn a_promise_made_before_the_restart_is_kept() {
    // A checkpoint was asked for, and the order is out: it rides with step 7, which nobody has done yet.
    let mut stage = Stage::trained(1, 1, 6, |_| {});
    stage.control(Action::Checkpoint, seconds(0.0));
    stage.step(6);
    assert!(stage.orders(0, 7).checkpoint);
    stage.restart(|_| {});
    stage.comes_back(0);
    stage.recalls(0, 6);
    let out = stage.step(7);
    assert_eq!(notes(&out, "checkpoint"), ["the checkpoint of step 8 is written"]);
}

#[test]
fn a_checkpoint_written_while_there_was_no_coordinator_counts() {
    let mut stage = Stage::trained(2, 2, 7, |_| {});
    (0..2).for_each(|index| drop(stage.losses_of(index, 7)));
    (0..2).for_each(|index| stage.commits(index, 7));
    stage.restart(|plan| plan.recorded = Step(7));
    stage.comes_back(0);
    stage.comes_back(1);
    assert!(stage.written(0, 8, "").is_empty());
    let out = stage.recalls(1, 6);
    assert_eq!(notes(&out, "checkpoint"), ["the checkpoint of step 8 is written"]);
}

#[test]
fn where_one_is_missing_the_others_go_on_without_it() {
    let mut stage = Stage::trained(3, 3, 6, |_| {});
    stage.kill(2);
    stage.restart(|_| {});
    stage.comes_back(0);
    stage.comes_back(1);
    let quiet = stage.pass(seconds(1.5), &[0, 1], Activity::Equilibrium);
    assert!(!stage.halted(&quiet, 0));
    let out = stage.pass(seconds(1.0), &[0, 1], Activity::Equilibrium);
    assert!(stage.halted(&out, 0) && stage.halted(&out, 1));
    assert!(notes(&out, "halt")[0].contains("2 of 3 trainers of generation 1 came back"));
    stage.leaves(0);
    stage.leaves(1);
    let asked = stage.pass(seconds(2.5), &[0, 1], Activity::Idle);
    assert_eq!(stage.heard(&asked, 0), [Message::Recall(Step(5))]);
    assert_eq!(opening(&stage.recalls(0, 5)), Some((2, 6, 2)));
    (6..8).for_each(|step| drop(stage.step(step)));
}

#[test]
fn where_one_has_left_the_generation_all_are_gathered_anew() {
    let mut stage = Stage::trained(2, 2, 6, |_| {});
    stage.restart(|_| {});
    stage.comes_back(0);
    stage.trainer(1).leave();
    let out = stage.comes_back(1);
    assert!(stage.halted(&out, 0));
    assert_eq!(opening(&stage.leaves(0)), None);
    stage.recalls(0, 5);
    let asked = stage.pass(seconds(0.1), &[0, 1], Activity::Idle);
    assert_eq!(opening(&asked), None);
    assert_eq!(stage.machine.generation(), Generation(2));
}

#[test]
fn one_that_dies_while_its_generation_comes_back_ends_the_wait_for_it() {
    let mut stage = Stage::trained(3, 3, 6, |_| {});
    stage.restart(|_| {});
    stage.comes_back(0);
    stage.comes_back(1);
    let out = stage.kill(1);
    assert!(stage.halted(&out, 0));
}

#[test]
fn one_that_fails_while_its_generation_comes_back_does_not_end_the_run() {
    let mut stage = Stage::trained(2, 2, 6, |_| {});
    stage.restart(|_| {});
    stage.comes_back(0);
    stage.comes_back(1);
    let out = stage.say(1, Body::Failure { reason: "CUDA error 719".into(), for_all: false });
    assert_eq!(end(&out), None);
    stage.leaves(0);
    stage.pass(seconds(2.5), &[0], Activity::Idle);
    assert_eq!(opening(&stage.recalls(0, 5)), Some((2, 6, 1)));
}

#[test]
fn a_fresh_trainer_among_those_that_come_back_makes_a_new_generation() {
    let mut stage = Stage::trained(2, 2, 6, |_| {});
    stage.kill(1);
    stage.restart(|_| {});
    stage.comes_back(0);
    let out = stage.joins(101);
    assert!(stage.halted(&out, 0));
    let asked = stage.leaves(0);
    assert_eq!(stage.heard(&asked, 0), [Message::Recall(Step(5))]);
    let out = stage.recalls(0, 5);
    assert_eq!(opening(&out), Some((2, 6, 2)));
}

#[test]
fn a_generation_number_is_never_used_twice_even_if_the_journal_never_heard_of_it() {
    let mut stage = Stage::trained(2, 2, 6, |_| {});
    stage.kill(1);
    stage.leaves(0);
    stage.step(6);
    assert_eq!(stage.machine.generation(), Generation(2));
    // The coordinator was killed before it wrote that down, and the trainer has left since.
    stage.trainer(0).leave();
    stage.restart(|plan| plan.generation = Generation(1));
    stage.comes_back(0);
    stage.pass(seconds(2.5), &[0], Activity::Idle);
    assert_eq!(opening(&stage.recalls(0, 6)), Some((3, 7, 1)));
}

#[test]
fn a_hello_that_speaks_of_a_generation_beyond_all_bounds_does_not_use_up_the_numbers() {
    let mut stage = Stage::new(1, 1, |_| {});
    let claim = Claim { generation: Generation(u64::MAX), rank: Rank(0), world: 1 };
    let given = Given { equilibrium: stage.truth.equilibria[0], m_global: 0.0, orders: Orders::default() };
    let returning = Returning { given: Some(given), claim: Some(claim), ..Returning::default() };
    stage.say_as(0, "", u64::MAX, Body::Hello(hello(0), Box::new(returning)));
    let returning = Returning { step: Some(Step(0)), ..Returning::default() };
    stage.say_as(1, "", u64::MAX, Body::Hello(hello(1), Box::new(returning)));
    stage.pass(seconds(0.9), &[], Activity::Idle);
    assert_eq!(stage.machine.generation(), Generation(1));
}

#[test]
fn who_remembers_another_course_is_not_gone_on_from() {
    let mut stage = Stage::trained(2, 2, 6, |_| {});
    stage.restart(|_| {});
    stage.comes_back(0);
    stage.comes_back(1);
    let given = Given {
        equilibrium: began::Equilibrium { k: 0.75, ..stage.truth.equilibria[5] },
        m_global: 0.0,
        orders: Orders::default(),
    };
    let losses = losses(Step(5), 0..2).into_iter().map(|(_, losses)| losses).collect();
    let wrong = Given { equilibrium: stage.truth.equilibria[6], ..given };
    let out = stage.say(1, Body::Recalled { steps: vec![Past { given, losses }], given: vec![wrong] });
    assert!(notes(&out, "halt")[0].contains("cannot be gone on from"), "{out:?}");
    assert!(notes(&out, "halt")[0].contains("does not follow"));
}

#[test]
fn checkpoints_ahead_of_the_journal_are_not_gone_on_from() {
    let mut stage = Stage::trained(1, 1, 17, |_| {});
    stage.kill(0);
    stage.restart(|plan| plan.recorded = Step(12));
    let out = stage.joins(100);
    assert_eq!(opening(&out), Some((2, 8, 1)));
    assert!(!has(&out, &Act::Rewind(Step(8))));
    (8..18).for_each(|step| drop(stage.step(step)));
    assert_eq!(stage.disk.recorded, Step(18));
}

#[test]
fn a_run_that_was_under_way_goes_on_with_fewer_where_the_others_never_come() {
    let mut stage = Stage::trained(3, 3, 9, |_| {});
    (0..3).for_each(|index| drop(stage.kill(index)));
    stage.restart(|_| {});
    stage.joins(100);
    stage.joins(101);
    assert_eq!(opening(&stage.pass(seconds(29.0), &[100, 101], Activity::Starting)), None);
    let out = stage.pass(seconds(4.0), &[100, 101], Activity::Starting);
    assert_eq!(opening(&out), Some((2, 8, 2)));
}

#[test]
fn a_stop_reaches_a_run_that_nobody_comes_back_to() {
    let mut stage = Stage::trained(2, 2, 9, |_| {});
    (0..2).for_each(|index| drop(stage.kill(index)));
    stage.restart(|_| {});
    assert_eq!(end(&stage.control(Action::Stop, seconds(0.0))), None);
    let out = stage.pass(seconds(2.5), &[], Activity::Idle);
    let (failed, step, why) = end(&out).expect("an end");
    assert!(!failed && step == 8 && why.contains("stopped on request") && why.contains("resume from step 8"), "{why}");
}

#[test]
fn a_stop_waits_for_a_generation_that_comes_back_and_is_its_next_order() {
    let mut stage = Stage::trained(2, 2, 9, |_| {});
    stage.restart(|_| {});
    stage.control(Action::Stop, seconds(0.0));
    stage.comes_back(0);
    stage.comes_back(1);
    stage.recalls(1, 8);
    stage.step(9);
    assert!(stage.orders(0, 10).stop);
    assert!(end(&stage.step(10)).is_some_and(|(failed, step, _)| !failed && step == 11));
}

#[test]
fn a_finished_run_has_nothing_to_do_and_sends_everyone_home() {
    let mut stage = Stage::trained(1, 1, 30, |_| {});
    assert_eq!(stage.phase(), "ended");
    stage.restart(|_| {});
    assert_eq!(stage.phase(), "ended");
    let out = stage.joins(100);
    assert_eq!(stage.heard(&out, 100), [Message::Stop { failed: false, expelled: false, set_aside: false }]);
}

#[test]
fn a_run_whose_last_digest_is_missing_computes_it_before_it_ends() {
    let mut stage = Stage::trained(1, 1, 30, |_| {});
    stage.restart(|plan| plan.digested = Step(25));
    let out = stage.joins(100);
    let opened = stage.opened(&out, 100).unwrap();
    assert_eq!((opened.given.equilibrium.step, opened.orders.digest, opened.orders.stop), (Step(30), true, true));
    stage.obey(opened.orders, 30);
    assert_eq!((stage.phase(), stage.disk.digested), ("ended", Step(30)));
}
