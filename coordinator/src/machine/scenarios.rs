//! Single histories of the machine, told as claims.
//!
//! Every one of them is played on a [`stage`], which holds all of it to three promises on the way: each step is the undisturbed
//! run's to the bit, a tick that decides nothing changes nothing, and a second machine that is told the same decides the same.

mod decided;
mod ending;
mod going_back;
mod joining;
mod losing;
mod replaying;
mod restarting;
mod stage;
mod stepping;
mod trainer;
