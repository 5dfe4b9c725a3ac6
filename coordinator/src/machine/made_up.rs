//! What the tests of the machine are made of: a plan, trainers' words, and the truth they are held against.

use std::collections::BTreeMap;
use std::time::Duration;

use began::config::RunConfig;
use began::order::SampleOrder;
use began::{Equilibrium, Generation, Lane, LaneLosses, Step, StepRecord};

use super::event::{Hello, TrainerId};
use super::plan::Plan;

/// The run's name.
pub(super) const RUN: &str = "a run";

pub(super) fn plan(world: u32, lanes: u32, change: impl FnOnce(&mut Plan)) -> Plan {
    let mut config = RunConfig::default();
    config.run.lanes = lanes;
    config.run.batch = 2;
    config.run.steps = 30;
    config.run.checkpoint_every = 8;
    config.run.digest_every = 5;
    config.run.sample_every = 10;
    config.run.heartbeat_timeout = 1.0;
    config.run.step_timeout = 20.0;
    config.optimizer.stall_window = 6;
    config.objective.lambda_k = 0.05;
    let order = SampleOrder::new(1, vec![9, 14, 3], lanes, 2).unwrap();
    let mut plan = Plan {
        run: RUN.into(),
        config,
        order,
        world,
        nodes: None,
        resume: None,
        checkpoints: BTreeMap::new(),
        recorded: Step(0),
        digested: Step(0),
        recent: Vec::new(),
        lineage: 0,
        rollbacks: 0,
        lowered: BTreeMap::new(),
        generation: Generation(0),
        accept_changed_checkpoint: false,
        forming_timeout: Duration::from_secs(30),
        resume_command: "launcher resume runs/x".into(),
    };
    change(&mut plan);
    plan
}

/// Trainers on nodes of two. From 100 on they are later processes in the places of the first hundred: 101 takes the place of 1.
pub(super) fn hello(index: u32) -> Hello {
    let place = index % 100;
    Hello {
        version: began_proto::VERSION,
        trainer: TrainerId(format!("trainer {index}")),
        node: place / 2,
        local_rank: place % 2,
        host: "here".into(),
        pid: 100 + index,
        device: "cpu".into(),
        software: "made up".into(),
    }
}

/// The losses of a lane in a step, whoever computes it.
pub(super) fn loss(step: Step, lane: u32) -> LaneLosses {
    let wave = ((step.0 * 37 + u64::from(lane) * 11) % 101) as f64 / 101.0;
    LaneLosses { real: 0.4 + 0.1 * wave, fake: 0.25 - 0.07 * wave, drawn: step.0 * 100 + u64::from(lane) }
}

pub(super) fn losses(step: Step, lanes: std::ops::Range<u32>) -> Vec<(Lane, LaneLosses)> {
    lanes.map(|lane| (Lane(lane), loss(step, lane))).collect()
}

/// The losses of all lanes, by lane.
pub(super) fn all_losses(step: Step, lanes: u32) -> Vec<LaneLosses> {
    (0..lanes).map(|lane| loss(step, lane)).collect()
}

/// What an undisturbed run computes.
#[derive(Clone, Debug)]
pub(super) struct Truth {
    /// By step; one more than steps.
    pub(super) equilibria: Vec<Equilibrium>,
    /// By step.
    pub(super) records: Vec<StepRecord>,
}

impl Truth {
    pub(super) fn of(plan: &Plan) -> Self {
        let config = &plan.config;
        let mut truth = Self { equilibria: vec![Equilibrium::start(&config.optimizer)], records: Vec::new() };
        for step in (0..config.run.steps).map(Step) {
            let losses = all_losses(step, config.run.lanes);
            let now = truth.equilibria[step.0 as usize];
            let (next, record) = now.advance(&config.objective, &config.optimizer, &losses).unwrap();
            truth.equilibria.push(next);
            truth.records.push(record);
        }
        truth
    }
}
