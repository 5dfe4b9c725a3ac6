//! The algorithm and the vocabulary of began.
//!
//! Everything here is pure: no tensors, no sockets, no clock, no files. What a run computes is decided by this
//! crate alone, so that coordinator, trainers and launcher cannot disagree about it.
//!
//! | module | what it decides |
//! | --- | --- |
//! | [`average`] | how fast the average of G's weights forgets |
//! | [`config`] | every key of a run's configuration, presets, validation |
//! | [`cost`] | what a step costs: operations, bytes, memory, from shapes alone |
//! | [`equilibrium`] | k, the learning rate and M_global from the lanes' losses |
//! | [`guard`] | when a run that goes wrong is said to |
//! | [`lanes`] | which trainer computes which lanes |
//! | [`tree`] | the order in which the lanes' gradients are added |
//! | [`order`] | which sample goes where in which step, and which shards a lane needs |
//! | [`random`] | counter-based random numbers: noise, flips, initial weights |
//! | [`score`] | the names of scores, and of the weights they are of |
//! | [`network`] | the paper's network: layers, parameters, arithmetic |

pub mod average;
pub mod config;
pub mod cost;
pub mod diagnosis;
pub mod equilibrium;
pub mod guard;
pub mod ids;
pub mod lanes;
pub mod network;
pub mod order;
pub mod random;
pub mod score;
pub mod tree;

pub use config::RunConfig;
pub use equilibrium::{Equilibrium, LaneLosses, StepRecord};
pub use ids::{Generation, Lane, Rank, Step};
