//! How a pod ends, in the codes that its Job goes by. Pure.
//!
//! A code must never call for another pod where none is needed, nor end a Job whose run goes on.

use crate::child::{Exit, STOPPED_FOR_ANOTHER};

use super::standing::Standing;

/// The run failed, and would again.
pub const RUN_FAILED: u8 = 1;
/// What the pod was told to do cannot be done: a configuration, or data, that does not fit.
pub const CANNOT: u8 = 2;
/// The pod ended in order because it, or the coordinator's, had to go; another goes on.
pub const INTERRUPTED: u8 = 75;
/// The coordinator died too often; perhaps another machine does it good.
pub const DIED: u8 = 70;

/// What becomes of the run when its coordinator ends. `asked`: its pod was told to go. `finished`: all steps are taken.
/// Nothing: it died, and is started again.
#[must_use]
pub fn of_coordinator(exit: Exit, asked: bool, finished: bool) -> Option<(Standing, u8)> {
    match (exit.code, finished, asked) {
        (Some(0), true, _) => Some((Standing::Finished, 0)),
        (_, _, true) => Some((Standing::Interrupted, INTERRUPTED)),
        (Some(0), false, false) => Some((Standing::Stopped, 0)),
        (Some(1), ..) => Some((Standing::Failed, RUN_FAILED)),
        _ => None,
    }
}

/// The code of a node's pod whose agent ended with `code`.
#[must_use]
pub fn of_node(code: u8, standing: Option<Standing>) -> u8 {
    match standing {
        Some(Standing::Finished | Standing::Stopped) => 0,
        Some(Standing::Failed) => STOPPED_FOR_ANOTHER as u8,
        Some(Standing::Interrupted) => INTERRUPTED,
        // Its trainers were told that the run is over, and nobody says why: another pod sees what there is to do.
        Some(Standing::Running) | None if code == 0 || i32::from(code) == STOPPED_FOR_ANOTHER => INTERRUPTED,
        Some(Standing::Running) | None => code,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code(code: i32) -> Exit {
        Exit { code: Some(code), signal: None }
    }

    #[test]
    fn a_coordinator_that_had_to_go_comes_back_and_one_that_was_stopped_does_not() {
        assert_eq!(of_coordinator(code(0), false, true), Some((Standing::Finished, 0)));
        assert_eq!(of_coordinator(code(0), true, true), Some((Standing::Finished, 0)));
        assert_eq!(of_coordinator(code(0), false, false), Some((Standing::Stopped, 0)));
        assert_eq!(of_coordinator(code(0), true, false), Some((Standing::Interrupted, INTERRUPTED)));
        assert_eq!(of_coordinator(code(1), true, false), Some((Standing::Interrupted, INTERRUPTED)));
        assert_eq!(of_coordinator(code(1), false, false), Some((Standing::Failed, RUN_FAILED)));
        for died in [code(2), code(101), Exit { code: None, signal: Some(9) }] {
            assert_eq!(of_coordinator(died, false, false), None, "{died}");
        }
    }

    #[test]
    fn a_node_ends_as_the_run_does_and_fails_only_by_itself() {
        for own in [0, 1, 3, 4, 5] {
            assert_eq!(of_node(own, Some(Standing::Finished)), 0);
            assert_eq!(of_node(own, Some(Standing::Stopped)), 0);
            assert_eq!(of_node(own, Some(Standing::Failed)), 3);
            assert_eq!(of_node(own, Some(Standing::Interrupted)), INTERRUPTED);
        }
        for standing in [None, Some(Standing::Running)] {
            assert_eq!([0, 1, 3, 4, 5].map(|own| of_node(own, standing)), [INTERRUPTED, 1, INTERRUPTED, 4, 5]);
        }
    }
}
