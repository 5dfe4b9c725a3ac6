//! The launcher: starts a run, watches over it, and answers for what became of it.
//!
//! | module | what it is about |
//! | --- | --- |
//! | [`cli`] | the command line |
//! | [`configure`] | the configuration of a new run, and what a resumed one may change |
//! | [`page`] | where a run's page is, and the key to it |
//! | [`nodes`] | where the nodes are, how programs are started on them, what is looked at before |
//! | [`devices`], [`binaries`] | what there is to compute on, and to start |
//! | [`train`], [`resume`], [`made`] | a new run and one that goes on, up to the launch; the folder of a new one |
//! | [`credentials`] | what the processes of a launch prove themselves with |
//! | [`launch`] | the processes of one launch, from start to end |
//! | [`supervision`], [`restarts`] | what to do when something happens to them, how often they are started again; pure |
//! | [`agent`], [`child`], [`tied`], [`output`] | the trainers of one node, one process, what ties it, what it writes |
//! | [`watch`], [`show`], [`ending`] | the coordinator's words, what people see of them, and the last of it |
//! | [`verify`], [`reproduce`] | whether two runs are one; the second one computed for that |
//! | [`inspect`], [`ledger`] | where a run stands; which samples it drew |
//! | [`diagnose`] | what happened to a run's equilibrium; several runs side by side |
//! | [`kubernetes`] | the manifests of a run on Kubernetes, and what its pods start |
//! | [`campaign`] | one run on several shapes, and a table of its digests |
//! | [`chaos`] | making things go wrong in a running run |
//!
//! It knows the algorithm's vocabulary, the wire and the files of a run, and never torch.

pub mod agent;
pub mod binaries;
pub mod campaign;
pub mod chaos;
pub mod child;
pub mod cli;
pub mod configure;
pub mod credentials;
pub mod devices;
pub mod diagnose;
pub mod ending;
pub mod inspect;
pub mod kubernetes;
pub mod launch;
pub mod ledger;
pub mod made;
pub mod nodes;
pub mod output;
pub mod page;
pub mod reproduce;
pub mod restarts;
pub mod resume;
pub mod show;
pub mod supervision;
pub mod tied;
pub mod top;
pub mod train;
pub mod verify;
pub mod watch;

#[cfg(test)]
mod made_up;

use std::path::{Path, PathBuf};

/// The log of a node's trainer, or of its agent.
#[must_use]
pub fn node_log(run: &Path, node: u32, rank: Option<u32>) -> PathBuf {
    let name = match rank {
        Some(rank) => format!("node-{node}-rank-{rank}.log"),
        None => format!("node-{node}-agent.log"),
    };
    run.join("logs").join(name)
}
