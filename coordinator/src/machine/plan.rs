//! What a coordinator knows before anyone joins: the run, its configuration, its data and where it goes on from.

use std::collections::BTreeMap;
use std::time::Duration;

use began::order::SampleOrder;
use began::{Equilibrium, Generation, RunConfig, Step, StepRecord};
use serde::{Deserialize, Serialize};

/// Epochs that may fit into one step. Each is a lease to each trainer, so a tiny data set under a large batch would
/// drown the trainers in leases.
const EPOCHS_A_STEP: u64 = 256;

/// Everything the machine starts from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    /// The run's identity.
    pub run: String,
    /// Its configuration, with `run.lanes` settled.
    pub config: RunConfig,
    /// Its order of samples.
    pub order: SampleOrder,
    /// How many trainers to wait for.
    pub world: u32,
    /// On how many nodes, if that is known; then those missing can be named.
    pub nodes: Option<u32>,
    /// The checkpoint to go on from.
    pub resume: Option<Resume>,
    /// All checkpoints there are, each with its equilibrium.
    pub checkpoints: BTreeMap<Step, Equilibrium>,
    /// The first step that the journal has not got.
    pub recorded: Step,
    /// The state of the last digest in the journal.
    pub digested: Step,
    /// The last steps before the one it goes on from, for the guards.
    pub recent: Vec<StepRecord>,
    /// How often the run has gone back so far.
    pub lineage: u64,
    /// How often a guard made it do so.
    pub rollbacks: u32,
    /// Learning rates that guards lowered, each by the step from which it holds.
    pub lowered: BTreeMap<Step, f64>,
    /// The last generation there was.
    pub generation: Generation,
    /// Go on from the checkpoint even if its hashes are wrong.
    pub accept_changed_checkpoint: bool,
    /// How long to wait for the world.
    pub forming_timeout: Duration,
    /// The command that goes on with the run: `launcher resume RUN`.
    pub resume_command: String,
}

/// A checkpoint to go on from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Resume {
    /// Its folder, relative to the run.
    pub path: String,
    /// What its step needs.
    pub equilibrium: Equilibrium,
}

/// Why there is nothing to start.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// `run.lanes` is 0.
    #[error("run.toml has run.lanes = 0: the launcher settles it (nodes x gpus) when it makes the run")]
    NoLanes,
    /// No trainers.
    #[error("--world must be at least 1")]
    NoWorld,
    /// Trainers without a lane.
    #[error("a run of {lanes} lanes can use at most {lanes} trainers, got --world {world}")]
    MoreTrainersThanLanes {
        /// Of the run.
        lanes: u32,
        /// Asked for.
        world: u32,
    },
    /// Nodes that do not share the world evenly.
    #[error("--nodes {nodes} does not divide --world {world}")]
    UnevenNodes {
        /// Asked for.
        nodes: u32,
        /// Asked for.
        world: u32,
    },
    /// The data set is far smaller than a step.
    #[error(
        "one step takes {epochs} times the whole data set (lanes x batch = {stride}), at most {EPOCHS_A_STEP} is \
         supported: prepare more data or lower run.batch"
    )]
    TinyData {
        /// Epochs in a step.
        epochs: u64,
        /// Samples in a step.
        stride: u64,
    },
    /// The checkpoint's equilibrium is no number.
    #[error("the checkpoint {0} holds an equilibrium that is not finite")]
    NotFinite(String),
}

impl Plan {
    /// Checks what the machine relies on.
    ///
    /// # Errors
    /// The first thing that does not hold.
    pub fn check(&self) -> Result<(), PlanError> {
        let (lanes, world) = (self.config.run.lanes, self.world);
        if lanes == 0 {
            return Err(PlanError::NoLanes);
        }
        if world == 0 {
            return Err(PlanError::NoWorld);
        }
        if world > lanes {
            return Err(PlanError::MoreTrainersThanLanes { lanes, world });
        }
        if let Some(nodes) = self.nodes.filter(|&nodes| nodes == 0 || !world.is_multiple_of(nodes)) {
            return Err(PlanError::UnevenNodes { nodes, world });
        }
        let epochs = self.order.epoch(Step(1));
        if epochs > EPOCHS_A_STEP {
            let stride = u64::from(lanes) * u64::from(self.config.run.batch);
            return Err(PlanError::TinyData { epochs, stride });
        }
        match &self.resume {
            Some(Resume { path, equilibrium: e }) if !(e.k.is_finite() && e.rate.is_finite()) => {
                Err(PlanError::NotFinite(path.clone()))
            }
            _ => Ok(()),
        }
    }

    /// The equilibrium of the first step.
    #[must_use]
    pub fn start(&self) -> Equilibrium {
        self.resume.as_ref().map_or_else(|| self.origin(), |resume| resume.equilibrium)
    }

    /// The equilibrium of step 0.
    #[must_use]
    pub fn origin(&self) -> Equilibrium {
        let start = Equilibrium::start(&self.config.optimizer);
        Equilibrium { rate: self.lowered.get(&Step(0)).copied().unwrap_or(start.rate), ..start }
    }
}
