//! Diagnosis: what a run's losses say about its equilibrium (BEGAN, sections 3.1 to 3.4), and whether what the paper rests on held.
//!
//! | module | what it is |
//! | --- | --- |
//! | [`schedule`] | which steps are measured, and the windows they are summed up in |
//! | [`moments`] | mean, spread, skewness, kurtosis, and a test of normality |
//! | [`distance`] | Wasserstein-1 of two samples, and the paper's formula |
//! | [`window`] | everything about one window of steps |
//! | [`findings`] | the sentences: what happened, how one knows, what to try |
//!
//! Functions of numbers alone: in lane order, so that nothing hangs on who computed a lane or whose message came first.

pub mod distance;
pub mod findings;
pub mod moments;
pub mod schedule;
pub mod window;

pub use findings::{Course, Diagnosis, Finding, Judgement, Verdict, diagnose};
pub use schedule::Schedule;
pub use window::{Distribution, Histogram, LaneSample, StepSample, Window};
