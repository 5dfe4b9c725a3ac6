//! States that turn out unsound: trainers that disagree, losses that are no numbers, guards that fire.

use began::config::{GuardAction, OnCorruption};
use began::{Lane, LaneLosses, Step};

use super::decided::{end, has, notes, opening, seconds};
use super::stage::Stage;
use crate::machine::Decisions;
use crate::machine::event::*;

/// Three trainers that have done `steps` steps; then the digest of the state is ordered, and trainer 1 has another.
fn one_differs(steps: u64, change: impl FnOnce(&mut crate::machine::Plan)) -> (Stage, Decisions) {
    let mut stage = Stage::trained(3, 3, steps - 1, change);
    (0..3).for_each(|index| drop(stage.losses_of(index, steps - 1)));
    (0..3).for_each(|index| stage.commits(index, steps - 1));
    stage.digest(0, steps, "same");
    stage.digest(1, steps, "other");
    let out = stage.digest(2, steps, "same");
    (stage, out)
}

/// Whether the run goes back to step `to`.
fn went_back(out: &Decisions, to: u64) -> bool {
    out.iter().any(|decision| matches!(&decision.act, Act::Back(back) if back.to == Step(to)))
}

fn evidence(step: u64, of_m: &str) -> Option<Digest> {
    let tensor = |name: &str, digest: &str| (name.to_owned(), digest.to_owned());
    let tensors = vec![tensor("generator.weight", "a"), tensor("generator.weight.m", of_m), tensor("k", "c")];
    Some(Digest { step: Step(step), digest: of_m.into(), tensors })
}

/// Everyone halts, with what it digested last.
fn all_leave(stage: &mut Stage, step: u64) -> Decisions {
    stage.leaves_with(0, evidence(step, "b"));
    stage.leaves_with(1, evidence(step, "x"));
    stage.leaves_with(2, evidence(step, "b"))
}

#[test]
fn a_digest_that_differs_names_the_trainer_and_the_tensor_and_goes_back_to_the_checkpoint_from_before() {
    let (mut stage, out) = one_differs(15, |_| {});
    let found = notes(&out, "corruption");
    assert_eq!(found.len(), 1);
    assert!(
        found[0].starts_with("rank 1 (node 0, local rank 1") && found[0].contains("digest of step 15"),
        "{found:?}"
    );
    assert!(!found[0].contains("rank 0 (") && !found[0].contains("rank 2 ("), "{found:?}");
    // All agreed on step 10, so the checkpoint of step 8 is from before.
    assert!(went_back(&out, 8));
    assert!((0..3).all(|index| stage.heard(&out, index) == [Message::Halt { digest: true }]));
    let out = all_leave(&mut stage, 15);
    let named = notes(&out, "corruption");
    assert!(named[0].contains("rank 1") && named[0].contains("differed at step 15 in generator.weight.m"), "{named:?}");
    assert_eq!(opening(&out), Some((2, 8, 3)));
    assert!(has(&out, &Act::Rewind(Step(8))));
    for index in 0..3 {
        let opened = stage.opened(&out, index).unwrap();
        assert_eq!((opened.checkpoint.as_str(), opened.lineage), ("checkpoints/step-00000008", 1));
        assert_eq!(opened.heal, Heal::default());
    }
    for step in 8..30 {
        stage.step(step);
    }
    assert_eq!((stage.phase(), stage.disk.recorded), ("ended", Step(30)));
}

#[test]
fn without_a_checkpoint_from_before_the_run_begins_again_from_the_seed() {
    let (mut stage, _) = one_differs(5, |_| {});
    let out = all_leave(&mut stage, 5);
    assert_eq!(opening(&out), Some((2, 0, 3)));
    (0..6).for_each(|step| drop(stage.step(step)));
}

#[test]
fn of_two_that_disagree_nobody_can_say_which_is_wrong() {
    let mut stage = Stage::trained(2, 2, 4, |plan| plan.config.run.on_corruption = OnCorruption::SetAside);
    (0..2).for_each(|index| drop(stage.losses_of(index, 4)));
    stage.digest(0, 5, "one");
    let out = stage.digest(1, 5, "other");
    assert!(notes(&out, "corruption")[0].ends_with("it cannot be told which of them is wrong"));
    stage.leaves_with(0, evidence(5, "b"));
    // So nobody is set aside either.
    assert_eq!(opening(&stage.leaves_with(1, evidence(5, "x"))), Some((2, 0, 2)));
}

#[test]
fn one_that_differs_is_set_aside_where_that_is_wanted_and_its_place_stays_empty() {
    let (mut stage, _) = one_differs(15, |plan| plan.config.run.on_corruption = OnCorruption::SetAside);
    let out = all_leave(&mut stage, 15);
    assert_eq!(stage.heard(&out, 1), [Message::Stop { failed: true, expelled: true, set_aside: true }]);
    assert_eq!(opening(&out), Some((2, 8, 2)));
    let refused = stage.joins(101);
    let [Decision { act: Act::Refuse(_), why }] = refused.as_slice() else { panic!("{refused:?}") };
    assert!(why.contains("node 0, local rank 1 was set aside: its results differed"), "{why}");
    (8..10).for_each(|step| drop(stage.step(step)));
}

#[test]
fn one_that_differed_and_died_before_it_could_say_in_what_is_still_named_and_set_aside() {
    let (mut stage, _) = one_differs(15, |plan| plan.config.run.on_corruption = OnCorruption::SetAside);
    stage.kill(1);
    stage.leaves_with(0, evidence(15, "b"));
    let out = stage.leaves_with(2, evidence(15, "b"));
    let named = notes(&out, "corruption");
    assert!(
        named[0].starts_with("rank 1 (node 0, local rank 1") && named[0].contains("did not say in which tensor"),
        "{named:?}"
    );
    assert_eq!(opening(&out), Some((2, 8, 2)));
    assert!(matches!(stage.joins(101)[0].act, Act::Refuse(_)));
}

#[test]
fn one_that_differs_ends_the_run_where_that_is_wanted() {
    let (stage, out) = one_differs(16, |plan| {
        plan.config.run.on_corruption = OnCorruption::Stop;
        plan.config.run.digest_every = 4;
    });
    let (failed, step, why) = end(&out).expect("an end");
    assert!(failed && step == 16 && why.contains("rank 1") && why.contains("resume from step 8"), "{why}");
    assert!((0..3).all(|index| matches!(stage.heard(&out, index)[..], [Message::Stop { failed: true, .. }])));
}

#[test]
fn a_state_of_an_older_lineage_is_void_whoever_brings_it() {
    let (mut stage, _) = one_differs(15, |_| {});
    // Trainer 2 lost its stream before it was told, and says hello with a state of the lineage before.
    stage.leaves(0);
    stage.leaves(1);
    stage.trainer(2).leave();
    let out = stage.comes_back(2);
    assert_eq!(opening(&out), Some((2, 8, 3)));
    assert!(!stage.opened(&out, 2).unwrap().checkpoint.is_empty());
    // And one that says it in a later regrouping is not gone on from.
    (8..12).for_each(|step| drop(stage.step(step)));
    stage.kill(0);
    stage.leaves(1);
    let out = stage.say(2, Body::Held { step: Some(Step(15)), digest: None, lineage: 0 });
    assert_eq!(opening(&out), Some((3, 12, 2)));
    assert!(stage.opened(&out, 2).unwrap().heal.from.is_some());
}

#[test]
fn a_checkpoint_of_a_void_state_that_is_written_late_goes_at_once() {
    let (mut stage, _) = one_differs(16, |plan| plan.config.run.digest_every = 4);
    let out = stage.written(0, 16, "");
    assert!(has(&out, &Act::SetAside(Step(16))), "{out:?}");
    assert_eq!(stage.status().last_checkpoint, Some(Step(8)));
}

#[test]
fn the_digest_of_the_state_a_generation_begins_with_finds_one_that_received_it_wrongly() {
    let mut stage = Stage::trained(3, 3, 11, |_| {});
    (0..3).for_each(|index| drop(stage.losses_of(index, 11)));
    stage.commits(2, 11);
    stage.kill(1);
    stage.leaves(0);
    assert_eq!(opening(&stage.leaves(2)), Some((2, 12, 2)));
    stage.digest(0, 12, "wrong");
    let out = stage.digest(2, 12, "right");
    assert!(went_back(&out, 8), "{out:?}");
}

#[test]
fn losses_that_come_out_otherwise_when_a_step_is_computed_again_are_named_by_their_lanes() {
    let mut stage = Stage::trained(2, 4, 4, |_| {});
    (0..2).for_each(|index| drop(stage.losses_of(index, 4)));
    stage.severed(0);
    stage.leaves(0);
    assert_eq!(opening(&stage.leaves(1)), Some((2, 4, 2)));
    stage.losses_of(0, 4);
    let lane = |lane, real| (Lane(lane), LaneLosses { real, fake: 0.2, drawn: 0 });
    stage.exact = false;
    let out = stage.say(1, Body::Losses { step: Step(4), lanes: vec![lane(2, 0.41), lane(3, 0.42)] });
    let found = notes(&out, "corruption");
    assert!(found[0].contains("2 of 4 lanes") && found[0].contains("lane 2 (now computed by rank 1"), "{found:?}");
}

// ---- Guards ------------------------------------------------------------------------------------------------------

/// A loss of lane 1 that is no number, in this step.
fn diverges(stage: &mut Stage, step: u64) -> Decisions {
    stage.losses_of(0, step);
    let nan = LaneLosses { real: f64::NAN, fake: 0.1, drawn: 0 };
    stage.say(1, Body::Losses { step: Step(step), lanes: vec![(Lane(1), nan)] })
}

/// A loss that is far above the mean, in this step.
fn jumps(stage: &mut Stage, step: u64) -> Decisions {
    stage.exact = false;
    stage.losses_of(0, step);
    let far = LaneLosses { real: 40.0, fake: 0.1, drawn: 0 };
    stage.say(1, Body::Losses { step: Step(step), lanes: vec![(Lane(1), far)] })
}

fn guarded(action: GuardAction) -> impl FnOnce(&mut crate::machine::Plan) {
    move |plan| {
        let guard = &mut plan.config.guard;
        (guard.not_finite, guard.jump, guard.window) = (action, action, 4);
        (guard.rate_factor, guard.most_rollbacks) = (0.5, 2);
        plan.config.optimizer.stall_window = 0;
    }
}

#[test]
fn a_diverged_run_stops_at_once_and_writes_nothing() {
    let mut stage = Stage::trained(2, 2, 8, |_| {});
    let out = diverges(&mut stage, 8);
    let (failed, _, why) = end(&out).expect("an end");
    assert!(failed && why.contains("training diverged: lane 1") && why.contains("step 8"), "{why}");
    // The checkpoint of step 8 was written before anyone could know; it never pushed out an older one.
    assert!(why.contains("the checkpoint of step 8 may hold the same fault"), "{why}");
    assert!(!out.iter().any(|decision| matches!(decision.act, Act::Prune(_))));
    assert_eq!(stage.heard(&out, 0), [Message::Stop { failed: true, expelled: false, set_aside: false }]);
}

#[test]
fn a_diverged_run_goes_back_with_a_lower_rate_where_that_is_wanted() {
    let mut stage = Stage::trained(2, 2, 16, guarded(GuardAction::Rollback));
    let rate = stage.truth.equilibria[0].rate;
    let out = diverges(&mut stage, 16);
    // The state of step 16 gave the loss, so its checkpoint may be unsound already.
    assert!(went_back(&out, 8));
    let said = notes(&out, "guard");
    assert!(said[0].contains("training diverged") && said[0].contains("rollback 1 to step 8"), "{said:?}");
    stage.leaves(0);
    let out = stage.leaves(1);
    assert_eq!(opening(&out), Some((2, 8, 2)));
    let opened = stage.opened(&out, 0).unwrap();
    assert_eq!((opened.given.equilibrium.rate, opened.lineage), (0.5 * rate, 1));
    stage.exact = false;
    (8..10).for_each(|step| drop(stage.step(step)));
    assert_eq!(stage.orders(0, 10), Orders::default());
}

/// Where a run of two goes on from when it diverges at step 18, and the rates of the steps 15 and 16 when they are computed again.
/// `before` is what becomes of the checkpoint of step 16 until then.
fn goes_back_from_18(before: impl FnOnce(&mut Stage), meanwhile: impl FnOnce(&mut Stage)) -> (u64, [f64; 2]) {
    let mut stage = Stage::trained(2, 2, 15, guarded(GuardAction::Rollback));
    // The state of step 16 is to be written, and nobody says yet that it is.
    (0..2).for_each(|index| drop(stage.losses_of(index, 15)));
    (0..2).for_each(|index| stage.commits(index, 15));
    before(&mut stage);
    (16..18).for_each(|step| drop(stage.step(step)));
    let out = diverges(&mut stage, 18);
    assert!(went_back(&out, 16) && notes(&out, "guard")[0].contains("rollback 1 to step 16"), "{out:?}");
    meanwhile(&mut stage);
    let here: Vec<u32> = [0, 1, 101].into_iter().filter(|&index| stage.has(index)).collect();
    let out = here.iter().flat_map(|&index| stage.leaves(index)).collect();
    let (_, from, _) = opening(&out).expect("a generation");
    // What was recorded of the steps up to 16 is what they are again.
    (from..16).for_each(|step| drop(stage.step(step)));
    let rate = |stage: &Stage, step: u64| stage.given_rate(here[0], step);
    let before = if from < 16 { rate(&stage, 15) } else { stage.truth.equilibria[15].rate };
    let rates = [before, rate(&stage, 16)];
    stage.exact = false;
    (16..20).for_each(|step| drop(stage.step(step)));
    (from, rates)
}

#[test]
fn a_rollback_is_to_the_same_step_and_rate_whatever_became_of_its_checkpoint() {
    let truth = Stage::new(2, 2, guarded(GuardAction::Rollback)).truth.equilibria[16].rate;
    let written = |stage: &mut Stage| drop(stage.written(0, 16, ""));
    let refused = |stage: &mut Stage| drop(stage.written(0, 16, "no space left"));
    let nothing = |_: &mut Stage| ();
    assert_eq!(goes_back_from_18(written, nothing), (16, [truth, 0.5 * truth]));
    // It is reported while the generation is left already.
    assert_eq!(goes_back_from_18(nothing, written), (16, [truth, 0.5 * truth]));
    // It is late, or was never written: computed again from the one before.
    assert_eq!(goes_back_from_18(nothing, nothing), (8, [truth, 0.5 * truth]));
    assert_eq!(goes_back_from_18(refused, nothing), (8, [truth, 0.5 * truth]));
    let dies = |stage: &mut Stage| drop(stage.kill(0));
    assert_eq!(goes_back_from_18(nothing, dies), (8, [truth, 0.5 * truth]));
}

#[test]
fn a_rate_that_holds_from_a_step_without_a_checkpoint_holds_for_the_next_coordinator_too() {
    let mut stage = Stage::trained(2, 2, 15, guarded(GuardAction::Rollback));
    (0..2).for_each(|index| drop(stage.losses_of(index, 15)));
    (0..2).for_each(|index| stage.commits(index, 15));
    (16..18).for_each(|step| drop(stage.step(step)));
    diverges(&mut stage, 18);
    stage.kill(0);
    stage.kill(1);
    stage.restart(|_| {});
    stage.joins(100);
    assert_eq!(opening(&stage.joins(101)).map(|(_, step, _)| step), Some(8));
    (8..16).for_each(|step| drop(stage.step(step)));
    assert_eq!(stage.given_rate(100, 16), 0.5 * stage.truth.equilibria[16].rate);
    stage.exact = false;
    (16..20).for_each(|step| drop(stage.step(step)));
}

#[test]
fn a_guard_lowers_no_rate_below_its_floor() {
    let mut stage = Stage::trained(2, 2, 10, |plan| {
        guarded(GuardAction::Rollback)(plan);
        plan.config.optimizer.rate_floor = 0.75 * plan.config.optimizer.rate;
    });
    diverges(&mut stage, 10);
    stage.leaves(0);
    stage.leaves(1);
    assert_eq!(stage.given_rate(0, 8), 0.75 * stage.truth.equilibria[8].rate);
}

#[test]
fn a_run_goes_back_so_often_and_then_stops() {
    let mut stage = Stage::trained(2, 2, 10, guarded(GuardAction::Rollback));
    stage.exact = false;
    for generation in 2..4 {
        assert_eq!(end(&diverges(&mut stage, 10)), None);
        stage.leaves(0);
        let out = stage.leaves(1);
        assert_eq!(opening(&out), Some((generation, 8, 2)));
        let halvings = (generation - 1) as i32;
        let rate = stage.opened(&out, 0).unwrap().given.equilibrium.rate;
        assert_eq!(rate, stage.truth.equilibria[0].rate * 0.5f64.powi(halvings));
        (8..10).for_each(|step| drop(stage.step(step)));
    }
    let out = diverges(&mut stage, 10);
    let (failed, _, why) = end(&out).expect("an end");
    assert!(failed && why.contains("the run went back 2 times already (guard.most_rollbacks)"), "{why}");
}

#[test]
fn a_rate_that_was_lowered_stays_so_when_everything_dies_right_after() {
    for (steps, to) in [(10, 8), (4, 0)] {
        let mut stage = Stage::trained(2, 2, steps, guarded(GuardAction::Rollback));
        stage.exact = false;
        let rate = stage.truth.equilibria[0].rate;
        diverges(&mut stage, steps);
        stage.kill(0);
        stage.kill(1);
        for lives in 1..3 {
            stage.restart(|_| {});
            stage.joins(100 * lives);
            let out = stage.joins(100 * lives + 1);
            assert_eq!(opening(&out).map(|(_, step, _)| step), Some(to));
            let opened = stage.opened(&out, 100 * lives).unwrap();
            assert_eq!((opened.given.equilibrium.rate, opened.lineage), (0.5 * rate, 1));
            stage.kill(100 * lives);
            stage.kill(100 * lives + 1);
        }
    }
}

#[test]
fn a_state_from_before_a_step_back_is_void_for_the_next_coordinator_too() {
    let (mut stage, _) = one_differs(15, |_| {});
    (0..3).for_each(|index| stage.trainer(index).leave());
    stage.restart(|_| {});
    let out = [0, 1, 2].map(|index| stage.comes_back(index)).concat();
    assert_eq!(opening(&out), Some((2, 8, 3)));
    assert!((0..3).all(|index| stage.opened(&out, index).is_some_and(|opened| !opened.checkpoint.is_empty())));
}

#[test]
fn a_guard_that_warns_says_so_once_and_the_run_goes_on() {
    let mut stage = Stage::trained(2, 2, 6, guarded(GuardAction::Warn));
    let out = jumps(&mut stage, 6);
    assert!(notes(&out, "guard")[0].contains("L(x) jumped to 20."), "{out:?}");
    assert_eq!((stage.phase(), stage.status().step), ("running", Step(7)));
}

#[test]
fn a_guard_that_stops_leaves_the_state_on_the_disk() {
    let mut stage = Stage::trained(2, 2, 6, guarded(GuardAction::Stop));
    jumps(&mut stage, 6);
    stage.leaves(0);
    let asked = stage.leaves(1);
    assert!(matches!(stage.heard(&asked, 0)[..], [Message::WriteCheckpoint(_)]), "{asked:?}");
    let done = stage.written(0, 6, "");
    assert!(end(&done).is_some_and(|(failed, step, why)| failed && step == 6 && why.contains("L(x) jumped to 20.")));
}

#[test]
fn samples_that_are_all_alike_stop_the_run_where_that_is_wanted() {
    let mut stage = Stage::formed(2, 2, |plan| plan.config.guard.diversity = GuardAction::Stop);
    (0..9).for_each(|step| drop(stage.step(step)));
    (0..2).for_each(|index| drop(stage.losses_of(index, 9)));
    let out = stage.sampled(0, 10, 0.01);
    assert!(notes(&out, "guard")[0].contains("samples of fixed noise at step 10 differ by 0.010"));
    assert_eq!(stage.phase(), "regrouping");
}

#[test]
fn a_state_found_unsound_after_it_was_left_is_neither_gone_on_from_nor_saved() {
    let mut stage = Stage::formed(2, 2, |plan| {
        plan.config.guard.diversity = GuardAction::Rollback;
        plan.config.run.min_trainers = 2;
    });
    (0..9).for_each(|step| drop(stage.step(step)));
    (0..2).for_each(|index| drop(stage.losses_of(index, 9)));
    (0..2).for_each(|index| stage.commits(index, 9));
    stage.kill(1);
    stage.leaves(0);
    // The samples of step 10 are drawn while the generation is over already, and tell against its state.
    let out = stage.sampled(0, 10, 0.01);
    assert!(notes(&out, "guard")[0].contains("rollback 1 to step 8"), "{out:?}");
    let out = stage.pass(seconds(31.0), &[0], Activity::Idle);
    assert_eq!(stage.heard(&out, 0), [Message::Stop { failed: true, expelled: false, set_aside: false }]);
    assert!(end(&out).is_some_and(|(failed, step, why)| failed && step == 8 && why.contains("resume from step 8")));
}
