//! Inside a pod: what Kubernetes starts there, and what it is told at the end.
//!
//! On one machine the launcher sees every process of a run and decides. Here its Jobs do, and all they see of a pod is an
//! exit code. So the coordinator's pod writes down where the run stands ([`standing`]), and every pod ends with a code that
//! says whether another is to take its place ([`ending`]).

pub mod coordinate;
pub mod ending;
pub mod making;
pub mod node;
pub mod standing;
