//! Trainers that join a run that is under way.

use began::{Rank, Step};

use super::decided::{end, notes, opening, seconds};
use super::stage::Stage;
use crate::machine::JOIN_SETTLE;
use crate::machine::event::*;

#[test]
fn a_joiner_is_taken_in_after_the_step_whose_orders_say_so_and_not_before_others_had_time_to_come_along() {
    let mut stage = Stage::trained(2, 4, 3, |_| {});
    stage.joins(2);
    stage.step(3);
    assert!(!stage.orders(0, 4).regroup, "it has just come");
    stage.pass(JOIN_SETTLE, &[0, 1, 2], Activity::Compute);
    stage.step(4);
    assert!(stage.orders(0, 5).regroup && stage.orders(1, 5).regroup);
    // The step is done first; then everyone leaves by itself, and nobody is halted.
    let out = stage.step(5);
    assert!(!stage.halted(&out, 0) && opening(&out).is_none());
    stage.leaves(0);
    let out = stage.leaves(1);
    assert_eq!(opening(&out), Some((2, 6, 3)));
    assert_eq!(stage.opened(&out, 2).unwrap().heal.from, Some((0, Rank(0))));
    for step in 6..30 {
        stage.step(step);
    }
    assert_eq!(stage.phase(), "ended");
}

#[test]
fn one_that_leaves_before_the_last_losses_of_the_step_arrive_has_not_broken_the_generation() {
    let mut stage = Stage::trained(2, 4, 3, |_| {});
    stage.joins(2);
    stage.pass(JOIN_SETTLE, &[0, 1, 2], Activity::Compute);
    stage.step(3);
    assert!(stage.orders(0, 4).regroup);
    stage.losses_of(0, 4);
    (0..2).for_each(|index| stage.commits(index, 4));
    assert!(stage.leaves(0).is_empty());
    stage.losses_of(1, 4);
    assert_eq!(opening(&stage.leaves(1)), Some((2, 5, 3)));
}

#[test]
fn several_joiners_are_taken_in_together() {
    let mut stage = Stage::trained(1, 4, 2, |_| {});
    stage.joins(1);
    stage.joins(2);
    stage.pass(JOIN_SETTLE, &[0, 1, 2], Activity::Compute);
    stage.step(2);
    stage.joins(3);
    stage.step(3);
    // The one that came last is there in time, though it was not waited for.
    assert_eq!(opening(&stage.leaves(0)), Some((2, 4, 4)));
}

#[test]
fn a_run_with_a_trainer_for_every_lane_goes_on_and_keeps_the_joiner_for_later() {
    let mut stage = Stage::trained(2, 2, 3, |_| {});
    stage.joins(2);
    stage.pass(JOIN_SETTLE, &[0, 1, 2], Activity::Compute);
    (3..6).for_each(|step| drop(stage.step(step)));
    assert!(!stage.orders(0, 6).regroup);
    stage.kill(1);
    let out = stage.leaves(0);
    assert_eq!((opening(&out), stage.opened(&out, 2).unwrap().rank), (Some((2, 6, 2)), Rank(1)));
}

#[test]
fn a_joiner_that_goes_again_costs_nothing_but_the_regrouping_that_was_ordered() {
    let mut stage = Stage::trained(2, 4, 3, |_| {});
    stage.joins(2);
    stage.pass(JOIN_SETTLE, &[0, 1, 2], Activity::Compute);
    stage.step(3);
    assert_eq!(notes(&stage.kill(2), "halt"), [""; 0]);
    stage.step(4);
    stage.leaves(0);
    assert_eq!(opening(&stage.leaves(1)), Some((2, 5, 2)));
    stage.step(5);
}

#[test]
fn one_that_dies_instead_of_leaving_in_order_has_the_others_halted() {
    let mut stage = Stage::trained(2, 4, 3, |_| {});
    stage.joins(2);
    stage.pass(JOIN_SETTLE, &[0, 1, 2], Activity::Compute);
    stage.step(3);
    stage.step(4);
    let out = stage.kill(0);
    assert!(stage.halted(&out, 1), "it may wait for a sum that never ends");
    assert_eq!(opening(&stage.leaves(1)), Some((2, 5, 2)));
}

#[test]
fn one_whose_sum_fails_while_others_leave_in_order_has_them_halted_too() {
    let mut stage = Stage::trained(2, 4, 3, |_| {});
    stage.joins(2);
    stage.pass(JOIN_SETTLE, &[0, 1, 2], Activity::Compute);
    stage.step(3);
    stage.step(4);
    let out = stage.severed(0);
    assert!(stage.halted(&out, 1));
    stage.leaves(0);
    assert_eq!(opening(&stage.leaves(1)), Some((2, 5, 3)));
}

#[test]
fn nobody_is_taken_in_at_the_end_of_a_run() {
    let mut stage = Stage::trained(2, 4, 28, |_| {});
    stage.joins(2);
    stage.pass(JOIN_SETTLE, &[0, 1, 2], Activity::Compute);
    stage.step(28);
    assert!(!stage.orders(0, 29).regroup);
    let out = stage.step(29);
    assert!(end(&out).is_some_and(|(failed, step, _)| !failed && step == 30));
    assert_eq!(stage.heard(&out, 2), [Message::Stop { failed: false, expelled: false, set_aside: false }]);
}

#[test]
fn who_comes_while_the_survivors_are_asked_is_in_the_next_generation() {
    let mut stage = Stage::trained(3, 3, 4, |_| {});
    stage.kill(1);
    stage.leaves(0);
    stage.joins(101);
    assert_eq!(opening(&stage.leaves(2)), Some((2, 4, 3)));
}

#[test]
fn a_member_that_comes_back_without_its_place_ends_the_generation_it_was_in() {
    let mut stage = Stage::trained(2, 2, 4, |_| {});
    // Its sum failed while it had no stream, so it says in its hello that it is in none.
    stage.trainer(1).leave();
    let out = stage.comes_back(1);
    assert!(stage.halted(&out, 0) && !stage.halted(&out, 1));
    assert_eq!(opening(&stage.leaves(0)), Some((2, 4, 2)));
}

#[test]
fn a_member_that_comes_back_on_another_stream_with_its_place_goes_on_and_is_given_what_it_may_have_missed() {
    let mut stage = Stage::trained(2, 2, 4, |_| {});
    let out = stage.comes_back(1);
    assert!(out.iter().any(|decision| decision.act == Act::Drop(ConnectionId(1))));
    let heard = stage.heard(&out, 1);
    let [Message::Welcome { generation }, Message::Equilibrium(given)] = heard[..] else { panic!("{heard:?}") };
    assert_eq!((generation.0, given.equilibrium.step), (1, Step(4)));
    // What the old stream says when it breaks is about nobody any more.
    assert!(stage.event(Event::Broken { connection: ConnectionId(1), reason: "reset".into() }).is_empty());
    stage.step(4);
    assert!(opening(&stage.pass(seconds(0.5), &[0, 1], Activity::Compute)).is_none());
}
