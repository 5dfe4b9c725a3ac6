//! The losses of one step, lane by lane, as they come in.
//!
//! A message is taken whole or not at all, and a lane's losses never change once they are in.

use std::ops::Range;

use began::{Lane, LaneLosses, Step};

/// What is in of a step.
#[derive(Clone, Debug)]
pub(super) struct StepLosses {
    step: Step,
    lanes: Vec<Option<LaneLosses>>,
    missing: usize,
}

/// What a message led to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Taken {
    /// Others are still to come.
    Waiting,
    /// All of it was there already, the same to the bit.
    Again,
    /// The step is complete.
    Complete,
}

impl StepLosses {
    pub(super) fn new(step: Step, lanes: u32) -> Self {
        Self { step, lanes: vec![None; lanes as usize], missing: lanes as usize }
    }

    pub(super) fn step(&self) -> Step {
        self.step
    }

    /// Of how many lanes.
    pub(super) fn lanes(&self) -> u32 {
        self.lanes.len() as u32
    }

    /// Takes the losses of lanes that must all lie in `own`.
    ///
    /// # Errors
    /// Why they are refused; nothing is taken then.
    pub(super) fn add(&mut self, own: Range<u32>, losses: &[(Lane, LaneLosses)]) -> Result<Taken, String> {
        let step = self.step;
        if losses.is_empty() {
            return Err(format!("losses of step {step} without a lane"));
        }
        if losses.len() > own.len() {
            return Err(format!("losses of {} lanes in step {step} where it holds {}", losses.len(), own.len()));
        }
        let mut fresh = 0;
        let mut seen = vec![false; own.len()];
        for (lane, new) in losses {
            if !own.contains(&lane.0) {
                let Range { start, end } = own;
                return Err(format!(
                    "losses of lane {lane} in step {step}, where it holds lanes {start} to {}",
                    end - 1
                ));
            }
            if std::mem::replace(&mut seen[(lane.0 - own.start) as usize], true) {
                return Err(format!("losses of lane {lane} in step {step} twice in one message"));
            }
            match &self.lanes[lane.0 as usize] {
                Some(known) if !same_bits(known, new) => {
                    return Err(format!("second, different losses of lane {lane} in step {step}"));
                }
                Some(_) => {}
                None => fresh += 1,
            }
        }
        if fresh == 0 {
            return Ok(Taken::Again);
        }
        for (lane, new) in losses {
            self.lanes[lane.0 as usize] = Some(*new);
        }
        self.missing -= fresh;
        Ok(if self.missing == 0 { Taken::Complete } else { Taken::Waiting })
    }

    /// Whether a trainer with these lanes still owes some of them.
    pub(super) fn owes(&self, own: Range<u32>) -> bool {
        self.lanes[own.start as usize..own.end as usize].iter().any(Option::is_none)
    }

    /// The losses in lane order, if all are in.
    pub(super) fn complete(&self) -> Option<Vec<LaneLosses>> {
        self.lanes.iter().copied().collect()
    }
}

/// Equal as bits, so that two NaN of one kind are the same.
fn same_bits(a: &LaneLosses, b: &LaneLosses) -> bool {
    a.real.to_bits() == b.real.to_bits() && a.fake.to_bits() == b.fake.to_bits() && a.drawn == b.drawn
}

#[cfg(test)]
mod tests {
    use super::*;

    fn loss(real: f64) -> LaneLosses {
        LaneLosses { real, fake: 0.5, drawn: 7 }
    }

    #[test]
    fn a_message_with_one_wrong_lane_is_refused_whole() {
        let mut step = StepLosses::new(Step(3), 4);
        let refused = step.add(0..2, &[(Lane(0), loss(1.0)), (Lane(2), loss(1.0))]);
        assert!(refused.is_err_and(|why| why.contains("lane 2") && why.contains("lanes 0 to 1")));
        assert!(step.add(0..2, &[(Lane(0), loss(1.0)), (Lane(0), loss(1.0))]).is_err());
        assert!(step.add(0..2, &[]).is_err() && step.owes(0..2));
    }

    #[test]
    fn sending_the_same_again_is_fine_and_something_else_is_not() {
        let mut step = StepLosses::new(Step(3), 2);
        assert_eq!(step.add(0..1, &[(Lane(0), loss(f64::NAN))]), Ok(Taken::Waiting));
        assert_eq!(step.add(0..1, &[(Lane(0), loss(f64::NAN))]), Ok(Taken::Again));
        assert!(step.add(0..1, &[(Lane(0), loss(2.0))]).is_err());
        assert_eq!(step.add(1..2, &[(Lane(1), loss(2.0))]), Ok(Taken::Complete));
    }
}
