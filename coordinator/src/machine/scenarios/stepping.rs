//! Forming a world, and steps in which nothing goes wrong.

use std::time::Duration;

use began::{Generation, Lane, LaneLosses, Step};

use super::decided::{end, has, ignored, notes, opening, seconds};
use super::stage::Stage;
use crate::machine::event::*;
use crate::machine::made_up::{hello, losses};

#[test]
fn ranks_follow_places_and_not_arrival() {
    let mut stage = Stage::new(3, 6, |_| {});
    stage.joins(2);
    stage.joins(0);
    let out = stage.joins(1);
    for index in 0..3 {
        let opened = stage.opened(&out, index).expect("a place");
        assert_eq!((opened.rank.0, opened.world_size, opened.given.equilibrium.step), (index, 3, Step(0)));
        assert!(stage.heard(&out, index).iter().any(|message| matches!(message, Message::Lease(_))));
    }
}

#[test]
fn a_whole_run_is_what_the_pure_function_gives_and_ends_well() {
    let mut stage = Stage::formed(3, 5, |_| {});
    let last = (0..30).map(|step| stage.step(step)).last().unwrap();
    assert_eq!(end(&last), Some((false, 30, "all 30 steps are done")));
    assert_eq!((stage.disk.recorded, stage.disk.digested), (Step(30), Step(30)));
    assert_eq!(stage.disk.checkpoints.keys().map(|step| step.0).collect::<Vec<_>>(), [16, 24, 30]);
}

#[test]
fn losses_that_come_again_are_answered_again_and_change_nothing() {
    let mut stage = Stage::trained(2, 2, 1, |_| {});
    let again = stage.losses_of(1, 0);
    let expected = stage.truth.equilibria[1];
    let heard = stage.heard(&again, 1);
    assert!(matches!(heard[..], [Message::Equilibrium(given)] if given.equilibrium == expected), "{heard:?}");
    assert!(stage.heard(&again, 0).is_empty());
    let other = Body::Losses { step: Step(0), lanes: vec![(Lane(1), LaneLosses { real: 9.0, fake: 9.0, drawn: 0 })] };
    assert!(ignored(&stage.say(1, other)).is_some_and(|why| why.contains("second, different losses")));
}

#[test]
fn losses_said_again_long_after_their_step_are_nobodys_fault_and_those_of_a_step_to_come_are() {
    let mut stage = Stage::trained(2, 2, 4, |_| {});
    assert!(stage.losses_of(1, 1).is_empty());
    assert!(ignored(&stage.losses_of(1, 9)).is_some_and(|why| why.contains("the run is in step 4")));
}

#[test]
fn a_message_from_another_generation_or_run_is_refused_by_name() {
    let mut stage = Stage::formed(1, 1, |plan| plan.generation = Generation(4));
    assert_eq!(stage.machine.generation(), Generation(5));
    let body = || Body::Losses { step: Step(0), lanes: losses(Step(0), 0..1) };
    for generation in [4, 6, u64::MAX] {
        let stale = stage.say_as(0, "a run", generation, body());
        let named = format!("generation {generation}, this is 5");
        assert!(ignored(&stale).is_some_and(|why| why.contains(&named)), "{stale:?}");
    }
    let foreign = stage.say_as(0, "another", 5, body());
    assert!(ignored(&foreign).is_some_and(|why| why.contains("run \"another\"")));
    let stranger = stage.say(9, body());
    assert!(ignored(&stranger).is_some_and(|why| why.contains("before hello")));
}

#[test]
fn what_lies_on_the_disk_may_cross_the_opening_of_a_generation_and_nothing_of_its_steps_may() {
    let mut stage = Stage::trained(2, 2, 7, |_| {});
    stage.losses_of(0, 7);
    stage.losses_of(1, 7);
    (0..2).for_each(|index| stage.commits(index, 7));
    stage.severed(0);
    stage.leaves(0);
    assert_eq!(opening(&stage.leaves(1)), Some((2, 8, 2)));
    let checkpoint = Body::Checkpoint(Written { step: Step(8), error: String::new() });
    assert_eq!(notes(&stage.say_as(0, "a run", 1, checkpoint), "checkpoint"), ["the checkpoint of step 8 is written"]);
    let refused = [
        Body::Losses { step: Step(8), lanes: losses(Step(8), 0..1) },
        Body::Digest(Digest { step: Step(8), digest: "d".into(), tensors: vec![] }),
        Body::Ready { rendezvous: 0.0, heal: 0.0 },
        Body::Unusable(Written { step: Step(8), error: "torn".into() }),
        // It works in the new generation, so it has left the old one before.
        Body::Held { step: Some(Step(8)), digest: None, lineage: 0 },
    ];
    for body in refused {
        let out = stage.say_as(0, "a run", 1, body.clone());
        assert!(ignored(&out).is_some_and(|why| why.contains("generation 1, this is 2")), "{body:?}: {out:?}");
    }
    // A sum of the old one that failed late says nothing about the new one.
    assert!(stage.say_as(0, "a run", 1, Body::Severed("late".into())).is_empty());
    assert_eq!(stage.phase(), "running");
}

#[test]
fn a_requested_checkpoint_rides_with_the_next_equilibrium_and_the_answer_says_when() {
    let mut stage = Stage::formed(1, 1, |_| {});
    let answer = stage.control(Action::Checkpoint, Duration::ZERO);
    assert_eq!(answer[0].act, Act::Answer { ticket: Ticket(7), answer: Ok(Step(1)) });
    stage.step(0);
    assert_eq!(stage.orders(0, 1), Orders { checkpoint: true, ..Orders::default() });
    stage.step(1);
    assert_eq!(stage.orders(0, 2), Orders::default());
    assert_eq!(stage.status().last_checkpoint, Some(Step(2)));
}

#[test]
fn a_note_is_kept_and_changes_nothing_even_before_anyone_is_there() {
    let mut stage = Stage::new(1, 1, |_| {});
    let before = format!("{:?}", stage.machine);
    let out = stage.control(Action::Note, Duration::ZERO);
    assert_eq!(out[0].act, Act::Answer { ticket: Ticket(7), answer: Ok(Step(0)) });
    assert_eq!(notes(&out, "chaos"), ["a person"]);
    assert_eq!(format!("{:?}", stage.machine), before);
}

#[test]
fn old_checkpoints_go_only_once_the_new_one_brought_forth_finite_losses() {
    let mut stage = Stage::trained(1, 1, 0, |plan| plan.config.run.keep_checkpoints = 1);
    let prunes = |out: &crate::machine::Decisions, step| has(out, &Act::Prune(vec![Step(step)]));
    for step in 0..16 {
        assert!(!prunes(&stage.step(step), 8), "step {step}");
    }
    assert!(prunes(&stage.step(16), 8));
}

#[test]
fn who_leaves_while_the_world_forms_may_come_back_on_another_stream() {
    let mut stage = Stage::new(2, 2, |_| {});
    stage.joins(0);
    assert!(end(&stage.kill(0)).is_none());
    stage.joins(0);
    stage.joins(1);
    assert_eq!(stage.phase(), "running");
}

#[test]
fn a_world_that_does_not_come_ends_the_wait_and_the_missing_are_named() {
    let mut stage = Stage::new(4, 4, |plan| plan.nodes = Some(2));
    stage.joins(2);
    assert!(end(&stage.pass(seconds(29.0), &[2], Activity::Starting)).is_none());
    let out = stage.pass(seconds(2.0), &[2], Activity::Starting);
    let (failed, _, why) = end(&out).expect("an end");
    assert!(failed && why.contains("1 of 4 trainers came within 30 s"), "{why}");
    assert!(why.contains("(node 0, local rank 1)") && !why.contains("(node 1, local rank 0)"), "{why}");
}

#[test]
fn a_trainer_that_cannot_start_ends_the_wait_for_the_others() {
    let mut stage = Stage::new(3, 3, |_| {});
    stage.joins(0);
    stage.joins(1);
    let out = stage.say(1, Body::Failure { reason: "no such device".into(), for_all: false });
    assert!(end(&out).is_some_and(|(failed, _, why)| failed && why.contains("no such device")));
    assert_eq!(stage.heard(&out, 0), [Message::Stop { failed: true, expelled: false, set_aside: false }]);
}

#[test]
fn who_does_not_fit_is_refused_by_a_sentence_and_changes_nothing() {
    let mut stage = Stage::formed(2, 4, |_| {});
    let fine = hello(2);
    let named = TrainerId("trainer 0".into());
    for (run, hello, sentence) in [
        ("", Hello { version: 1, ..fine.clone() }, "speaks protocol version 1, this coordinator 2"),
        ("another", fine.clone(), "belongs to run \"another\", this is \"a run\""),
        ("", Hello { trainer: TrainerId(String::new()), ..fine.clone() }, "has no name"),
        ("", Hello { trainer: named, ..fine.clone() }, "a trainer with the name \"trainer 0\" is in the run already"),
        ("", hello(101), "the place is taken by process 101 on here"),
    ] {
        let before = format!("{:?}", stage.machine);
        let body = Body::Hello(hello, Box::default());
        let out = stage.say_as(9, run, 0, body);
        let [Decision { act: Act::Refuse(ConnectionId(9)), why }] = out.as_slice() else { panic!("{out:?}") };
        assert!(why.contains(sentence), "{why}");
        assert_eq!(format!("{:?}", stage.machine), before);
    }
    let twice = stage.say_as(0, "", 0, Body::Hello(fine, Box::default()));
    assert!(ignored(&twice).is_some_and(|why| why.contains("a second hello on one stream")));
}

#[test]
fn a_world_of_different_software_is_warned_of() {
    let mut stage = Stage::new(2, 2, |_| {});
    stage.joins(0);
    let other = Hello { software: "libtorch of tomorrow".into(), ..hello(1) };
    let out = stage.say_as(1, "", 0, Body::Hello(other, Box::default()));
    let warned = notes(&out, "warning");
    assert!(
        matches!(warned[..], [text] if text.contains("libtorch of tomorrow") && text.contains("made up")),
        "{warned:?}"
    );
}

#[test]
fn a_step_of_32_trainers_takes_the_machine_far_less_than_a_millisecond() {
    let mut stage = Stage::formed(32, 32, |plan| plan.config.run.steps = 1_000);
    stage.spent = Duration::ZERO;
    (0..500).for_each(|step| drop(stage.step(step)));
    let a_step = stage.spent / 500;
    assert!(a_step < Duration::from_millis(1), "{a_step:?}");
}
