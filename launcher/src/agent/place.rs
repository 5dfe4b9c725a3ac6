//! What becomes of a trainer's place when the trainer in it ends.
//!
//! Pure: a function of the place's history and of how the trainer ended. It must never start another in a place that the
//! run does not want any more, nor one in a place that keeps failing without getting anywhere.

use crate::child::{EXPELLED, Exit, SET_ASIDE, STOPPED_FOR_ANOTHER};
use crate::restarts::{Again, Restarts};

/// What becomes of a place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fate {
    /// Another trainer is started in it.
    Again(Again),
    /// Nobody is started in it any more, for this reason.
    SetAside(String),
    /// It is empty, and that is as it should be.
    Empty,
}

/// The fate of a place whose trainer ended. `wanted`: trainers are still to be started, that is, the run was not asked to end.
pub fn after(restarts: &mut Restarts, exit: Exit, wanted: bool) -> Fate {
    match exit.code {
        _ if !wanted => Fate::Empty,
        Some(0 | STOPPED_FOR_ANOTHER) => Fate::Empty,
        Some(SET_ASIDE) => Fate::SetAside("the run set it aside".into()),
        // A signal, a code of its own, and also EXPELLED: the run goes on and wants another.
        _ => restarts.failed().map_or_else(|| Fate::SetAside(used_up(restarts.allowed(), exit)), Fate::Again),
    }
}

fn used_up(allowed: u32, exit: Exit) -> String {
    let what = if exit.code == Some(EXPELLED) { "was taken out of the run" } else { "failed" };
    match allowed {
        0 => format!("it {what}, and --restarts is 0"),
        1 => format!("it {what} again after one restart without a step committed in between (--restarts)"),
        _ => format!("it {what} again after {allowed} restarts without a step committed in between (--restarts)"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::restarts::TRAINER;
    use std::time::Duration;

    const KILLED: Exit = Exit { code: None, signal: Some(9) };

    fn code(code: i32) -> Exit {
        Exit { code: Some(code), signal: None }
    }

    fn pause(fate: &Fate) -> Option<Duration> {
        match fate {
            Fate::Again(again) => Some(again.pause),
            _ => None,
        }
    }

    #[test]
    fn a_trainer_that_ended_for_the_run_is_not_started_again() {
        let mut restarts = Restarts::new(TRAINER, 8);
        for exit in [code(0), code(3)] {
            assert_eq!(after(&mut restarts, exit, true), Fate::Empty);
        }
        assert!(matches!(after(&mut restarts, code(5), true), Fate::SetAside(_)));
    }

    #[test]
    fn a_killed_failed_or_expelled_trainer_is_started_again_at_once() {
        for exit in [KILLED, code(1), code(7), code(101), code(4)] {
            let fate = after(&mut Restarts::new(TRAINER, 8), exit, true);
            assert_eq!(pause(&fate), Some(Duration::ZERO), "{exit}: {fate:?}");
        }
    }

    #[test]
    fn an_expelled_trainer_counts_in_the_budget_too() {
        let mut restarts = Restarts::new(TRAINER, 1);
        assert!(matches!(after(&mut restarts, code(4), true), Fate::Again(_)));
        let Fate::SetAside(reason) = after(&mut restarts, code(4), true) else { panic!("started again") };
        assert!(reason.contains("taken out") && reason.contains("one restart"), "{reason}");
    }

    #[test]
    fn whoever_commits_a_step_in_between_is_never_set_aside() {
        let mut restarts = Restarts::new(TRAINER, 2);
        for _ in 0..20 {
            assert_eq!(pause(&after(&mut restarts, KILLED, true)), Some(Duration::ZERO));
            restarts.progressed();
        }
        assert_eq!(pause(&after(&mut restarts, KILLED, true)), Some(Duration::ZERO));
        assert_eq!(pause(&after(&mut restarts, KILLED, true)), Some(Duration::from_millis(500)));
        let Fate::SetAside(reason) = after(&mut restarts, KILLED, true) else { panic!("started again") };
        assert!(reason.contains("2 restarts"), "{reason}");
    }

    #[test]
    fn nobody_is_started_once_the_run_was_asked_to_end() {
        assert_eq!(after(&mut Restarts::new(TRAINER, 8), KILLED, false), Fate::Empty);
    }
}
