//! `kubernetes`: prints the manifests of a run, and is what its pods start.
//!
//! | module | what it is about |
//! | --- | --- |
//! | [`wanted`] | what was asked for, checked: what Kubernetes would refuse is refused here, in a sentence |
//! | [`names`], [`quantity`], [`machines`] | the words of a manifest that people write |
//! | [`labels`] | how the objects of a run are named and found |
//! | [`surroundings`], [`keys`] | what stands around the pods: service, configuration, claims, network, monitoring; their keys |
//! | [`pods`], [`jobs`], [`sets`] | the pods, the Jobs that keep them, and a JobSet or TrainJob around those |
//! | [`documents`] | all of it as YAML |
//! | [`pod`] | inside a pod: the run is made or gone on with, and what becomes of it is said by an exit code |
//!
//! Which pods run where, and when another takes a lost one's place, is for Kubernetes to decide; what happens inside the
//! run is the coordinator's. It never talks to a cluster.

use std::io::Write;

use anyhow::{Context, Result};

use crate::cli::KubernetesArgs;

pub mod documents;
pub mod jobs;
pub mod keys;
pub mod labels;
pub mod machines;
pub mod names;
pub mod pod;
pub mod pods;
pub mod quantity;
pub mod sets;
pub mod surroundings;
#[cfg(test)]
mod tests;
pub mod wanted;

/// `launcher kubernetes`. Returns the exit code.
///
/// # Errors
/// If what was asked for cannot be; nothing is printed then.
pub fn kubernetes(args: &KubernetesArgs) -> Result<u8> {
    let wanted = wanted::Wanted::checked(args)?;
    let text = if args.print_keys { documents::keys_of(&wanted)? } else { documents::of(&wanted)? };
    std::io::stdout().lock().write_all(text.as_bytes()).context("cannot write the manifests")?;
    Ok(0)
}
