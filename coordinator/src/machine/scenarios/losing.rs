//! Trainers that die, hang, fail or lose their peers: the next generation opens, and from which step it goes on.

use began::{Rank, Step};

use super::decided::{end, has, notes, opening, seconds};
use super::stage::Stage;
use crate::machine::event::*;
use crate::machine::{HELD_WAIT, MOST_FRUITLESS};

#[test]
fn a_killed_trainer_leads_to_a_generation_over_the_others_at_the_highest_step_held() {
    let mut stage = Stage::trained(3, 6, 5, |_| {});
    // Step 5 is complete, and its sum reached trainer 2 alone before trainer 0 died.
    (0..3).for_each(|index| drop(stage.losses_of(index, 5)));
    stage.commits(2, 5);
    let out = stage.kill(0);
    assert!(stage.halted(&out, 1) && stage.halted(&out, 2));
    let lost = notes(&out, "lost");
    assert!(lost[0].contains("rank 0 (node 0, local rank 0, process 100 on here) is lost"), "{lost:?}");
    assert_eq!(opening(&stage.leaves(1)), None);
    let out = stage.leaves(2);
    assert_eq!(opening(&out), Some((2, 6, 2)));
    let (behind, ahead) = (stage.opened(&out, 1).unwrap(), stage.opened(&out, 2).unwrap());
    assert_eq!((behind.rank, ahead.rank, behind.world_size), (Rank(0), Rank(1), 2));
    assert_eq!(behind.given.equilibrium, stage.truth.equilibria[6]);
    assert!(behind.checkpoint.is_empty() && behind.orders == Orders::default());
    // The one behind receives the state from the one that holds it, in one round that both take part in.
    assert_eq!(behind.heal, Heal { rounds: 1, from: Some((0, Rank(1))), to: vec![] });
    assert_eq!(ahead.heal, Heal { rounds: 1, from: None, to: vec![Rank(0)] });
    for step in 6..30 {
        stage.step(step);
    }
    assert_eq!(stage.phase(), "ended");
}

#[test]
fn two_holders_share_the_work_of_giving_the_state_to_those_behind() {
    let mut stage = Stage::trained(6, 6, 3, |_| {});
    (0..6).for_each(|index| drop(stage.losses_of(index, 3)));
    stage.commits(1, 3);
    stage.commits(4, 3);
    stage.kill(0);
    (1..5).for_each(|index| drop(stage.leaves(index)));
    let out = stage.leaves(5);
    let heals: Vec<Heal> = (1..6).map(|index| stage.opened(&out, index).unwrap().heal).collect();
    assert!(heals.iter().all(|heal| heal.rounds == 2));
    assert_eq!((heals[0].to.as_slice(), heals[3].to.as_slice()), (&[Rank(1), Rank(4)][..], &[Rank(2)][..]));
    assert_eq!([1, 2, 4].map(|place| heals[place].from), [Some((0, Rank(0))), Some((0, Rank(3))), Some((1, Rank(0)))]);
}

#[test]
fn a_survivor_that_committed_a_step_whose_losses_did_not_all_arrive_brings_them_along() {
    let mut stage = Stage::trained(3, 6, 5, |_| {});
    stage.losses_of(1, 5);
    stage.losses_of(2, 5);
    stage.commits(2, 5);
    stage.kill(0);
    stage.leaves(1);
    let asked = stage.leaves(2);
    assert_eq!(opening(&asked), None);
    assert_eq!(stage.heard(&asked, 2), [Message::Recall(Step(5))]);
    // Its stream breaks before it hears that: it is asked again.
    let back = stage.comes_back(2);
    assert_eq!(stage.heard(&back, 2)[1..], [Message::Recall(Step(5))]);
    let out = stage.recalls(2, 5);
    assert_eq!(opening(&out), Some((2, 6, 2)));
    assert_eq!(stage.opened(&out, 1).unwrap().given.equilibrium, stage.truth.equilibria[6]);
    let recorded = out.iter().any(|d| matches!(&d.act, Act::Step { record, .. } if record.step == Step(5)));
    assert!(recorded && stage.disk.recorded == Step(6));
    stage.step(6);
}

#[test]
fn what_does_not_lead_to_the_state_it_claims_is_not_gone_on_from() {
    let mut stage = Stage::trained(2, 2, 5, |_| {});
    stage.commits(1, 4);
    stage.trainer(1).held = Some(Step(6));
    stage.kill(0);
    let asked = stage.leaves(1);
    assert_eq!(stage.heard(&asked, 1), [Message::Recall(Step(5))]);
    let out = stage.say(1, Body::Recalled { steps: vec![], given: vec![] });
    let warned = notes(&out, "warning");
    assert!(warned[0].contains("the state of rank 1") && warned[0].contains("cannot be gone on from"), "{warned:?}");
    // Nothing else is held, and there is no checkpoint yet.
    assert_eq!(opening(&out), Some((2, 0, 1)));
}

#[test]
fn who_is_asked_what_led_to_its_state_and_does_not_say_is_not_waited_for_without_end() {
    let mut stage = Stage::trained(2, 2, 5, |_| {});
    stage.losses_of(1, 5);
    stage.commits(1, 5);
    stage.kill(0);
    stage.leaves(1);
    assert_eq!(opening(&stage.pass(HELD_WAIT - seconds(1.0), &[1], Activity::Idle)), None);
    let out = stage.pass(seconds(2.0), &[1], Activity::Idle);
    assert!(notes(&out, "warning")[0].contains("did not say within 10 s what led to it"));
    assert_eq!(opening(&out), Some((2, 0, 1)));
}

#[test]
fn the_death_of_the_one_that_was_asked_does_not_hold_up_the_others() {
    let mut stage = Stage::trained(3, 3, 5, |_| {});
    stage.losses_of(2, 5);
    stage.commits(2, 5);
    stage.kill(0);
    stage.leaves(1);
    stage.leaves(2);
    assert_eq!(opening(&stage.kill(2)), Some((2, 5, 1)));
}

#[test]
fn silence_is_noticed_within_the_limit_and_the_stream_of_the_silent_one_is_dropped() {
    let mut stage = Stage::trained(2, 2, 1, |_| {});
    let quiet = stage.pass(seconds(0.9), &[0], Activity::Reduce);
    assert!(!stage.halted(&quiet, 0));
    let noticed = stage.pass(seconds(0.3), &[0], Activity::Reduce);
    assert!(stage.halted(&noticed, 0));
    let lost = notes(&noticed, "lost");
    assert!(lost[0].contains("rank 1") && lost[0].contains("silent for 1."), "{lost:?}");
    assert!(has(&noticed, &Act::Drop(ConnectionId(1))));
    assert_eq!(opening(&stage.leaves(0)), Some((2, 1, 1)));
    // Should it wake up, its place is gone, it leaves and comes in again as a joiner.
    let back = stage.comes_back(1);
    assert_eq!(stage.heard(&back, 1), [Message::Welcome { generation: began::Generation(0) }]);
    assert!(stage.leaves(1).is_empty());
}

#[test]
fn a_sum_that_fails_costs_a_generation_and_no_trainer() {
    let mut stage = Stage::trained(2, 2, 3, |_| {});
    let out = stage.severed(1);
    assert!(stage.halted(&out, 0) && stage.halted(&out, 1));
    assert!(notes(&out, "halt")[0].contains("rank 1") && notes(&out, "halt")[0].contains("lost its peers"));
    stage.leaves(0);
    assert_eq!(opening(&stage.leaves(1)), Some((2, 3, 2)));
}

#[test]
fn a_trainer_that_fails_by_itself_is_replaced_and_its_words_are_kept() {
    let mut stage = Stage::trained(2, 2, 3, |_| {});
    let out = stage.say(1, Body::Failure { reason: "CUDA error 719".into(), for_all: false });
    assert!(notes(&out, "lost")[0].contains("rank 1") && notes(&out, "lost")[0].contains("CUDA error 719"));
    assert_eq!(opening(&stage.leaves(0)), Some((2, 3, 1)));
}

#[test]
fn with_a_rejoin_wait_the_replacement_takes_the_place_at_once() {
    let mut stage = Stage::trained(2, 2, 3, |plan| plan.config.run.rejoin_wait = 4.0);
    stage.kill(1);
    assert_eq!(opening(&stage.leaves(0)), None);
    assert_eq!(opening(&stage.pass(seconds(1.0), &[0], Activity::Idle)), None);
    let out = stage.joins(101);
    assert_eq!(opening(&out), Some((2, 3, 2)));
    assert_eq!(stage.opened(&out, 101).unwrap().heal.from, Some((0, Rank(0))));
}

#[test]
fn a_rejoin_wait_in_which_nobody_comes_is_over_when_it_is_over() {
    let mut stage = Stage::trained(2, 2, 3, |plan| plan.config.run.rejoin_wait = 4.0);
    stage.kill(1);
    stage.leaves(0);
    assert_eq!(opening(&stage.pass(seconds(3.9), &[0], Activity::Idle)), None);
    assert_eq!(opening(&stage.pass(seconds(0.2), &[0], Activity::Idle)), Some((2, 3, 1)));
}

#[test]
fn fewer_than_min_trainers_wait_for_more() {
    let mut stage = Stage::trained(3, 3, 3, |plan| plan.config.run.min_trainers = 2);
    stage.kill(1);
    stage.kill(2);
    assert_eq!(opening(&stage.leaves(0)), None);
    assert_eq!(opening(&stage.pass(seconds(20.0), &[0], Activity::Idle)), None);
    assert_eq!(opening(&stage.joins(101)), Some((2, 3, 2)));
}

#[test]
fn a_world_that_stays_too_small_ends_the_run_with_its_state_saved() {
    let mut stage = Stage::trained(3, 3, 3, |plan| plan.config.run.min_trainers = 2);
    stage.kill(1);
    stage.kill(2);
    stage.leaves(0);
    let asked = stage.pass(seconds(31.0), &[0], Activity::Idle);
    let given = match stage.heard(&asked, 0)[..] {
        [Message::WriteCheckpoint(given)] => given,
        ref other => panic!("{other:?}"),
    };
    assert_eq!((given.equilibrium, given.orders), (stage.truth.equilibria[3], Orders::default()));
    let done = stage.written(0, 3, "");
    let (failed, step, why) = end(&done).expect("an end");
    assert!(failed && step == 3);
    assert!(why.contains("1 trainers were there 30 s later, and it takes 2 to go on (run.min_trainers)"), "{why}");
    assert!(why.contains("resume from step 3 with `launcher resume runs/x`"), "{why}");
}

#[test]
fn survivors_that_do_not_say_what_they_hold_are_put_out_after_a_while() {
    let mut stage = Stage::trained(3, 3, 3, |_| {});
    stage.kill(0);
    stage.leaves(1);
    assert_eq!(opening(&stage.pass(HELD_WAIT - seconds(0.5), &[1, 2], Activity::Idle)), None);
    let out = stage.pass(seconds(1.0), &[1, 2], Activity::Idle);
    assert_eq!(stage.heard(&out, 2), [Message::Stop { failed: true, expelled: true, set_aside: false }]);
    assert!(has(&out, &Act::Drop(ConnectionId(2))));
    assert!(notes(&out, "lost")[0].contains("rank 2") && notes(&out, "lost")[0].contains("did not say within 10 s"));
    assert_eq!(opening(&out), Some((2, 3, 1)));
}

#[test]
fn where_steps_are_long_survivors_have_the_time_of_a_few_of_them() {
    let mut stage = Stage::trained(2, 2, 3, |plan| plan.config.run.step_timeout = 600.0);
    stage.pass(seconds(8.0), &[0, 1], Activity::Compute);
    stage.step(3);
    stage.kill(0);
    assert!(!has(&stage.pass(seconds(23.5), &[1], Activity::Compute), &Act::Drop(ConnectionId(1))));
    assert_eq!(opening(&stage.leaves(1)), Some((2, 4, 1)));
}

#[test]
fn when_everyone_is_dead_the_next_trainers_go_on_from_the_newest_checkpoint() {
    let mut stage = Stage::trained(2, 2, 12, |_| {});
    stage.kill(0);
    stage.kill(1);
    stage.pass(seconds(5.0), &[], Activity::Idle);
    let out = stage.joins(100);
    assert_eq!(opening(&out), Some((2, 8, 1)));
    let opened = stage.opened(&out, 100).unwrap();
    assert_eq!((opened.checkpoint.as_str(), opened.heal), ("checkpoints/step-00000008", Heal::default()));
    // What is computed again gives the same bits, so it stays in the journal.
    assert!(!out.iter().any(|decision| matches!(decision.act, Act::Rewind(_))));
    stage.joins(101);
    (8..13).for_each(|step| drop(stage.step(step)));
}

#[test]
fn when_everyone_is_dead_before_the_first_checkpoint_the_next_trainers_begin_again_from_the_seed() {
    let mut stage = Stage::trained(2, 2, 6, |_| {});
    stage.kill(0);
    stage.kill(1);
    let out = stage.joins(101);
    assert_eq!(opening(&out), Some((2, 0, 1)));
    assert_eq!(stage.opened(&out, 101).unwrap().checkpoint, "");
    (0..7).for_each(|step| drop(stage.step(step)));
}

#[test]
fn a_checkpoint_that_cannot_be_used_is_passed_over_and_put_aside() {
    let mut stage = Stage::trained(2, 2, 18, |_| {});
    stage.kill(0);
    stage.kill(1);
    assert_eq!(opening(&stage.joins(100)), Some((2, 16, 1)));
    stage.trainer(100).held = None;
    let out = stage.say(100, Body::Unusable(Written { step: Step(16), error: "its hash is wrong".into() }));
    assert!(has(&out, &Act::SetAside(Step(16))));
    let warned = notes(&out, "warning");
    assert!(warned[0].contains("step 16 cannot be used (its hash is wrong)"), "{warned:?}");
    assert!(warned[0].contains("the one of step 8 is taken"), "{warned:?}");
    assert_eq!(opening(&stage.leaves(100)), Some((3, 8, 1)));
}

#[test]
fn what_the_dead_was_to_write_is_said_to_be_missing_and_waited_for_no_longer() {
    let mut stage = Stage::trained(2, 2, 7, |_| {});
    (0..2).for_each(|index| drop(stage.losses_of(index, 7)));
    (0..2).for_each(|index| stage.commits(index, 7));
    let out = stage.kill(0);
    assert!(notes(&out, "warning")[0].contains("was to write the checkpoint of step 8, and may not have"));
    let out = stage.leaves(1);
    // The next generation begins with what is due there.
    assert_eq!(opening(&out), Some((2, 8, 1)));
    assert!(stage.opened(&out, 1).unwrap().orders.checkpoint);
    assert_eq!(notes(&stage.written(1, 8, ""), "checkpoint").len(), 1);
}

#[test]
fn a_world_that_breaks_before_every_first_step_is_given_more_and_more_time_and_then_given_up() {
    let mut stage = Stage::trained(2, 2, 3, |_| {});
    stage.severed(0);
    stage.leaves(1);
    assert!(opening(&stage.leaves(0)).is_some(), "a generation that did steps is followed at once");
    let mut pauses = Vec::new();
    for _ in 0..MOST_FRUITLESS - 1 {
        stage.severed(0);
        stage.leaves(1);
        let mut out = stage.leaves(0);
        let from = stage.now;
        while opening(&out).is_none() {
            out = stage.pass(seconds(0.025), &[0, 1], Activity::Idle);
        }
        pauses.push((stage.now - from).as_secs_f64());
    }
    assert!(
        pauses[0] == 0.0 && pauses[1] > 0.3 && pauses[4] > 3.0 && pauses.iter().all(|pause| *pause < 5.1),
        "{pauses:?}"
    );
    stage.severed(0);
    stage.leaves(1);
    stage.leaves(0);
    let done = stage.written(0, 3, "");
    assert!(end(&done).is_some_and(|(failed, step, why)| {
        failed && step == 3 && why.contains("40 generations in a row ended before they had done a step")
    }));
}

#[test]
fn a_joiner_that_the_others_cannot_reach_is_left_out_for_a_while() {
    let mut stage = Stage::trained(2, 3, 3, |_| {});
    stage.joins(2);
    stage.pass(seconds(0.2), &[0, 1, 2], Activity::Compute);
    stage.step(3);
    stage.step(4);
    let mut out = [0, 1].map(|index| stage.leaves(index)).concat();
    let mut sizes = Vec::new();
    while sizes.last() != Some(&2) {
        while opening(&out).is_none() {
            out = stage.pass(seconds(0.025), &[0, 1, 2], Activity::Idle);
        }
        sizes.extend(opening(&out).map(|(.., world)| world));
        if sizes.last() == Some(&3) {
            stage.severed(2);
            out = [0, 1, 2].map(|index| stage.leaves(index)).concat();
        }
        assert!(sizes.len() < 10, "{sizes:?}");
    }
    assert_eq!(sizes, [3, 3, 3, 3, 2]);
    // Later it is tried again: what was between them may be mended.
    let left_out = stage.now;
    let again = (5..30).find(|&step| {
        stage.pass(seconds(15.0), &[0, 1, 2], Activity::Compute);
        stage.step(step);
        stage.orders(0, step + 1).regroup
    });
    assert!(again.is_some() && stage.now - left_out >= seconds(300.0), "{again:?}");
}

#[test]
fn of_more_trainers_than_lanes_those_that_hold_the_most_are_in_the_next_generation() {
    let mut stage = Stage::trained(3, 3, 4, |_| {});
    stage.kill(0);
    // A replacement in the first place, and a spare, both holding nothing.
    stage.joins(100);
    stage.joins(3);
    stage.leaves(1);
    let out = stage.leaves(2);
    assert_eq!(opening(&out), Some((2, 4, 3)));
    let ranks = [100, 1, 2].map(|index| stage.opened(&out, index).map(|opened| opened.rank));
    assert_eq!(ranks, [Some(Rank(0)), Some(Rank(1)), Some(Rank(2))]);
    stage.kill(100);
    stage.joins(200);
    stage.leaves(1);
    let out = stage.leaves(2);
    let ranks = [200, 1, 2].map(|index| stage.opened(&out, index).map(|opened| opened.rank));
    // There is a place for one of the two that hold nothing, and the first place comes first.
    assert_eq!(ranks, [Some(Rank(0)), Some(Rank(1)), Some(Rank(2))]);
    assert_eq!(stage.opened(&out, 3), None);
}

#[test]
fn a_trainer_whose_failure_any_other_would_share_ends_the_run_with_the_state_saved() {
    let mut stage = Stage::trained(3, 3, 4, |_| {});
    stage.say(1, Body::Failure { reason: "shard-00002 is damaged".into(), for_all: true });
    stage.leaves(0);
    let asked = stage.leaves(2);
    assert!(matches!(stage.heard(&asked, 0)[..], [Message::WriteCheckpoint(_)]));
    let done = stage.written(0, 4, "");
    let (failed, step, why) = end(&done).expect("an end");
    assert!(
        failed && step == 4 && why.contains("shard-00002 is damaged") && why.contains("resume from step 4"),
        "{why}"
    );
}

#[test]
fn what_was_asked_over_a_stream_that_broke_is_asked_again_over_the_next() {
    let mut stage = Stage::trained(3, 3, 4, |_| {});
    stage.say(1, Body::Failure { reason: "no such shard".into(), for_all: true });
    stage.leaves(0);
    let asked = stage.leaves(2);
    let order = stage.heard(&asked, 0);
    assert!(matches!(order[..], [Message::WriteCheckpoint(_)]));
    let back = stage.comes_back(0);
    assert_eq!(stage.heard(&back, 0)[1..], order[..]);
    // The other was asked nothing.
    let back = stage.comes_back(2);
    assert_eq!(stage.heard(&back, 2).len(), 1);
    assert!(end(&stage.written(0, 4, "")).is_some());
}

#[test]
fn the_next_one_writes_the_state_when_the_first_cannot() {
    let mut stage = Stage::trained(3, 3, 4, |_| {});
    stage.say(1, Body::Failure { reason: "no such shard".into(), for_all: true });
    stage.leaves(0);
    stage.leaves(2);
    let second = stage.written(0, 4, "no space left on device");
    assert!(matches!(stage.heard(&second, 2)[..], [Message::WriteCheckpoint(_)]));
    let last = stage.kill(2);
    assert!(end(&last).is_some_and(|(failed, _, why)| failed && why.contains("there is no checkpoint to go on from")));
}
