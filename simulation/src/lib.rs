//! Whole runs over a made-up network and clock: the coordinator's real machine and the trainers' real session, with training
//! itself replaced by arithmetic on one number. Thousands of histories a minute, each drawn from a seed.
//!
//! | module | what it is |
//! | --- | --- |
//! | [`dice`] | all that a history knows of chance |
//! | [`truth`] | what an undisturbed run computes |
//! | [`world`] | the clock, the network, the processes, the disk |
//! | [`coordinator`], [`trainer`] | the two kinds of process |
//! | [`peers`] | the trainers' sums among each other |
//! | [`faults`] | what goes wrong |
//!
//! What must hold, at every event or at the end:
//!
//! | | |
//! | --- | --- |
//! | the equilibrium | every one that is sent is the undisturbed run's, to the bit |
//! | a commit | gives the undisturbed run's state |
//! | generations | no two go on: once one has finished a sum, one before it ends with the step it was in |
//! | the journal | has every step once, as the undisturbed run, with the samples it drew |
//! | the end | comes, well, within a bound, with the last state on the disk |
//! | a replay | of what a machine was told gives every decision again |

pub mod coordinator;
pub mod dice;
pub mod faults;
pub mod peers;
pub mod trainer;
pub mod truth;
pub mod world;

pub use world::{Report, World};
