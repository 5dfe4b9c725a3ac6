//! Forming: trainers come in until the world is complete, and ranks are given out.
//!
//! A hello is taken in or refused by a sentence; a refused one changes nothing.

use std::collections::BTreeSet;
use std::time::Duration;

use super::event::{Act, ConnectionId, Decision, Hello, Message, Note, Opened};
use super::generation::Running;
use super::halting::Cause;
use super::members::Member;
use super::{Decisions, Machine, Phase, send};

impl Machine {
    /// The first decisions of all.
    pub(super) fn started(&mut self, out: &mut Decisions) {
        let (from, steps) = (self.plan.start().step, self.plan.config.run.steps);
        if from.0 >= steps {
            let why = format!("nothing to do: the run has {from} of run.steps = {steps} steps already");
            return self.end(false, from, why, out);
        }
        let place = match &self.plan.resume {
            Some(resume) => format!("goes on from step {from} ({})", resume.path),
            None => "begins at step 0".into(),
        };
        self.reason = format!("the run {place}; waiting for {} trainers", self.plan.world);
        out.push(Decision { act: Act::Note(self.note("start", None)), why: self.reason.clone() });
    }

    pub(super) fn hello(&mut self, from: ConnectionId, run: &str, hello: Hello, now: Duration, out: &mut Decisions) {
        if self.has_ended() {
            let failed = matches!(self.phase, Phase::Ended { failed: true, .. });
            return send(out, vec![from], Message::Stop { failed }, self.reason.clone());
        }
        if self.members.on(from).is_some() {
            let why = format!("a second hello on one stream, from the trainer {}", hello.trainer);
            return super::ignore(out, from, why);
        }
        if let Err(why) = self.admit(run, &hello) {
            return out.push(Decision { act: Act::Refuse(from), why });
        }
        self.members.insert(hello, from, now);
        let came = format!("{} of {} trainers are there", self.members.len(), self.plan.world);
        if let Some(member) = self.members.on(from).cloned() {
            let text = format!("{} joined with {}; {came}", member.describe(), member.hello.device);
            send(out, vec![from], Message::Welcome, text.clone());
            self.note_about("joined", &member, text, out);
        }
        if self.members.len() == self.plan.world as usize {
            self.open_generation(now, out);
        }
    }

    /// Whether a trainer may come in.
    fn admit(&self, run: &str, hello: &Hello) -> Result<(), String> {
        let Hello { version, trainer, node, local_rank, .. } = hello;
        let place = format!("the trainer of node {node}, local rank {local_rank}");
        if *version != began_proto::VERSION {
            return Err(format!(
                "{place} speaks protocol version {version}, this coordinator {}",
                began_proto::VERSION
            ));
        }
        if !run.is_empty() && run != self.plan.run {
            return Err(format!("{place} belongs to run {run:?}, this is {:?}", self.plan.run));
        }
        if trainer.0.is_empty() {
            return Err(format!("{place} has no name"));
        }
        if self.members.named(trainer).is_some() {
            return Err(format!("a trainer with the name {trainer} is in the run already"));
        }
        if let Some(other) = self.members.at(*node, *local_rank) {
            return Err(format!("{place}: the place is taken by process {} on {}", other.hello.pid, other.hello.host));
        }
        match self.phase {
            Phase::Forming { .. } => Ok(()),
            _ => Err(format!("{place} comes late: the run has all its {} trainers", self.plan.world)),
        }
    }

    /// Opens the next generation over everyone who is there.
    fn open_generation(&mut self, now: Duration, out: &mut Decisions) {
        self.generation = self.generation.next();
        let world = self.members.rank();
        let running = Running::new(&self.plan, world.clone(), now);
        let given = running.given();
        let step = given.equilibrium.step;
        let why = format!("generation {} opens with {} trainers at step {step}", self.generation, world.len());
        let hellos = world.iter().filter_map(|&on| self.members.on(on)).map(|member| member.hello.clone()).collect();
        out.push(Decision { act: Act::Open { generation: self.generation, step, world: hellos }, why: why.clone() });
        let checkpoint = self.plan.resume.as_ref().map(|resume| resume.path.clone()).unwrap_or_default();
        for (&to, member) in world.iter().zip(world.iter().filter_map(|&on| self.members.on(on))) {
            let opened = Opened {
                world_size: world.len() as u32,
                rank: member.rank.unwrap_or_default(),
                checkpoint: checkpoint.clone(),
                accept_changed_checkpoint: self.plan.accept_changed_checkpoint,
                given,
            };
            send(out, vec![to], Message::Opened(opened), why.clone());
        }
        self.phase = Phase::Running(Box::new(running));
        self.reason.clone_from(&why);
        let note = Note { step, ..self.note("generation", None) };
        out.push(Decision { act: Act::Note(note), why });
        self.lease(super::leases::Reach::Ahead, out);
    }

    pub(super) fn forming_tick(&mut self, now: Duration, out: &mut Decisions) {
        let Phase::Forming { since } = &self.phase else {
            return;
        };
        let waited = now.saturating_sub(*since);
        if waited <= self.plan.forming_timeout {
            return;
        }
        let text = format!(
            "{} of {} trainers came within {:.0} s; {}",
            self.members.len(),
            self.plan.world,
            self.plan.forming_timeout.as_secs_f64(),
            self.missing()
        );
        self.end_generation(Cause::NotFormed(text), now, out);
    }

    /// Who did not come, as far as it can be told.
    fn missing(&self) -> String {
        let here: BTreeSet<(u32, u32)> = self.members.iter().map(place).collect();
        // Without --nodes the nodes are guessed to be as full as the fullest one seen.
        let guess = || {
            let a_node = here.iter().map(|&(_, local_rank)| local_rank).max()?.checked_add(1)?;
            self.plan.world.is_multiple_of(a_node).then(|| self.plan.world / a_node)
        };
        let Some(nodes) = self.plan.nodes.or_else(guess) else {
            let came: Vec<String> = here.iter().take(16).map(name).collect();
            return if came.is_empty() {
                "nobody came".into()
            } else {
                format!("those that came are {}", came.join(", "))
            };
        };
        let a_node = self.plan.world / nodes;
        let missing: Vec<String> = (0..nodes)
            .flat_map(|node| (0..a_node).map(move |local_rank| (node, local_rank)))
            .filter(|place| !here.contains(place))
            .map(|place| name(&place))
            .collect();
        match missing.len() {
            0 => "places beyond the expected ones came instead".into(),
            more @ 17.. => format!("missing are {} and {} more", missing[..16].join(", "), more - 16),
            1 => format!("missing is {}", missing[0]),
            _ => format!("missing are {}", missing.join(", ")),
        }
    }
}

fn name(&(node, local_rank): &(u32, u32)) -> String {
    format!("(node {node}, local rank {local_rank})")
}

fn place(member: &Member) -> (u32, u32) {
    (member.hello.node, member.hello.local_rank)
}
