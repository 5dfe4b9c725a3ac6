//! The same events at the same times give the same decisions. (Every other scenario is replayed too, when its stage goes.)

use began::Step;
use began::config::OnCorruption;
use proptest::prelude::*;

use super::decided::{end, opening, seconds};
use super::stage::Stage;
use crate::machine::event::*;
use crate::machine::{HELD_WAIT, Machine};

/// The decisions of the last tick, and whether it changed anything.
fn tick(stage: &mut Stage) -> (bool, bool) {
    let before = format!("{:?}", stage.machine);
    let decided = !stage.event(Event::Tick).is_empty();
    (decided, before != format!("{:?}", stage.machine))
}

#[test]
fn a_tick_that_decides_nothing_changes_nothing_in_any_phase() {
    // Such ticks are not in the journal, so a replay goes without them.
    let mut forming = Stage::new(2, 2, |_| {});
    forming.joins(0);
    let running = Stage::trained(2, 2, 3, |_| {});
    let mut regrouping = Stage::trained(3, 3, 3, |_| {});
    regrouping.kill(2);
    let mut waiting = Stage::trained(2, 2, 3, |plan| plan.config.run.min_trainers = 2);
    waiting.kill(1);
    waiting.leaves(0);
    let mut recalling = Stage::trained(2, 2, 3, |_| {});
    recalling.losses_of(1, 3);
    recalling.commits(1, 3);
    recalling.kill(0);
    recalling.leaves(1);
    let mut returning = Stage::trained(2, 2, 3, |_| {});
    returning.restart(|_| {});
    returning.comes_back(0);
    let ended = Stage::trained(1, 1, 30, |_| {});
    for (name, mut stage) in [
        ("forming", forming),
        ("running", running),
        ("regrouping", regrouping),
        ("waiting", waiting),
        ("recalling", recalling),
        ("returning", returning),
        ("ended", ended),
    ] {
        // Leases that are due go out with the first.
        tick(&mut stage);
        for _ in 0..20 {
            stage.now += seconds(0.02);
            assert_eq!(tick(&mut stage), (false, false), "{name}");
        }
    }
}

#[test]
fn a_run_that_is_given_up_while_survivors_are_still_asked_says_so_and_replays() {
    // Steps are long, so survivors have long to answer: longer than anyone waits for a world.
    let mut stage = Stage::trained(3, 3, 3, |plan| {
        plan.config.run.step_timeout = 600.0;
        plan.config.run.min_trainers = 2;
        plan.forming_timeout = HELD_WAIT / 2;
    });
    stage.kill(0);
    stage.kill(1);
    let out = stage.pass(HELD_WAIT / 2 + seconds(1.0), &[2], Activity::Compute);
    assert!(!out.is_empty(), "what changes the run's fate is a decision");
    let asked = stage.leaves(2);
    assert!(matches!(stage.heard(&asked, 2)[..], [Message::WriteCheckpoint(_)]), "{asked:?}");
    stage.replay();
}

#[derive(Clone, Copy, Debug)]
enum Move {
    Step,
    Losses(u32),
    Commit(u32),
    Kill(u32),
    Join(u32),
    Leave(u32),
    Sever(u32),
    Back(u32),
    Recall(u32),
    Pass(u16),
    Differ(u32),
    Stop,
}

fn moves() -> impl Strategy<Value = Vec<Move>> {
    let who = 0u32..4;
    let one = prop_oneof![
        4 => Just(Move::Step),
        2 => who.clone().prop_map(Move::Losses),
        1 => who.clone().prop_map(Move::Commit),
        1 => who.clone().prop_map(Move::Kill),
        2 => who.clone().prop_map(Move::Join),
        4 => who.clone().prop_map(Move::Leave),
        1 => who.clone().prop_map(Move::Sever),
        1 => who.clone().prop_map(Move::Back),
        2 => who.clone().prop_map(Move::Recall),
        2 => (1u16..6_000).prop_map(Move::Pass),
        1 => who.prop_map(Move::Differ),
        1 => Just(Move::Stop),
    ];
    proptest::collection::vec(one, 1..80)
}

impl Stage {
    /// Plays a move, if it can be played now.
    fn play(&mut self, one: Move) {
        let step = self.status().step.0;
        let world = self.world();
        match one {
            Move::Step if self.phase() == "running" && step < 30 && self.all_hold(step) => drop(self.step(step)),
            Move::Losses(who) if world.contains(&who) => drop(self.losses_of(who, step)),
            Move::Commit(who) if world.contains(&who) && self.could_commit(who) => {
                let held = self.trainer(who).held.unwrap().0;
                self.commits(who, held);
            }
            Move::Kill(who) if self.is_there(who) => drop(self.kill(who)),
            Move::Join(who) if !self.is_there(who) => drop(self.joins(who)),
            Move::Leave(who) if self.is_there(who) => drop(self.leaves(who)),
            Move::Sever(who) if world.contains(&who) => drop(self.severed(who)),
            Move::Back(who) if self.is_there(who) => drop(self.comes_back(who)),
            Move::Recall(who) if self.is_there(who) && self.trainer(who).held.is_some() => drop(self.recalls(who, 0)),
            Move::Pass(time) => drop(self.pass(seconds(f64::from(time) / 1e3), &[0, 2], Activity::Reduce)),
            Move::Differ(who) if world.contains(&who) => drop(self.digest(who, step, "another")),
            Move::Stop if step > 20 => drop(self.control(Action::Stop, seconds(0.1))),
            _ => {}
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn whatever_happens_in_whatever_order_a_second_machine_decides_the_same(moves in moves(), policy in 0usize..3) {
        let mut stage = Stage::formed(3, 4, |plan| {
            plan.config.run.on_corruption = [OnCorruption::Heal, OnCorruption::SetAside, OnCorruption::Stop][policy];
        });
        for one in moves {
            stage.play(one);
        }
        // Dropping the stage replays it; once more in so many words.
        let mut again = Machine::new(stage.plan.clone()).unwrap();
        for (event, at, decisions) in stage.told() {
            prop_assert_eq!(&again.handle(event.clone(), *at), decisions);
        }
    }
}

#[test]
fn the_order_in_which_survivors_answer_does_not_change_where_the_run_goes_on() {
    for order in [[1, 2, 3], [1, 3, 2], [2, 1, 3], [2, 3, 1], [3, 1, 2], [3, 2, 1]] {
        let mut stage = Stage::trained(4, 4, 5, |_| {});
        (0..4).for_each(|index| drop(stage.losses_of(index, 5)));
        stage.commits(2, 5);
        stage.commits(3, 5);
        stage.kill(0);
        let out = order.map(|index| stage.leaves(index)).concat();
        assert_eq!(opening(&out), Some((2, 6, 3)));
        assert_eq!(stage.opened(&out, 1).unwrap().heal.from, Some((0, began::Rank(1))));
        let last = (6..30).map(|step| stage.step(step)).last().unwrap();
        assert!(end(&last).is_some_and(|(_, step, _)| step == 30 && stage.disk.recorded == Step(30)));
    }
}
