//! Forming: trainers come in until the world is complete, and the first generation of a launch opens.
//!
//! Where they say that they are in a generation already, it is the coordinator that is new: once all of that generation are
//! back it goes on as if nothing had been. A hello is taken in or refused by a sentence; a refused one changes nothing.

use std::cmp::Reverse;
use std::collections::BTreeSet;
use std::time::Duration;

use began::{Generation, Rank, Step};

use super::event::{Act, Body, Claim, ConnectionId, Decision, Given, Hello, Message, Orders, Past, Returning};
use super::leases::Reach;
use super::members::{Member, MemberId, Standing};
use super::regrouping::{Cause, Start};
use super::running::Running;
use super::{Decisions, HELD_WAIT, Machine, Phase, send};

/// A launch whose trainers are coming in.
#[derive(Clone, Debug)]
pub(super) struct Forming {
    since: Duration,
    reunion: Option<Reunion>,
}

/// A generation that a coordinator before this one had opened, and that is coming back.
#[derive(Clone, Debug)]
struct Reunion {
    world: u32,
    until: Duration,
    recalling: Option<MemberId>,
    /// What its trainers said again before it is known where they stand.
    stash: Vec<(MemberId, Body)>,
    /// What they were given last.
    given: Vec<Given>,
    /// What each held when it came back, and from where on it can recall.
    held: Vec<(Step, Reverse<Step>, MemberId)>,
}

impl Forming {
    pub(super) fn new() -> Self {
        Self { since: Duration::ZERO, reunion: None }
    }
}

impl Machine {
    /// The first decisions of all.
    pub(super) fn started(&mut self, out: &mut Decisions) {
        let (from, steps) = (self.plan.start().step, self.plan.config.run.steps);
        if from.0 >= steps && self.plan.digested >= from {
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

    pub(super) fn hello(
        &mut self,
        from: ConnectionId,
        (run, last): (&str, Generation),
        hello: Hello,
        returning: Returning,
        now: Duration,
        out: &mut Decisions,
    ) {
        if let Phase::Ended { failed, .. } = self.phase {
            let stop = Message::Stop { failed, expelled: false, set_aside: false };
            return send(out, vec![from], stop, self.reason.clone());
        }
        if self.members.on(from).is_some() {
            let why = format!("a second hello on one stream, from the trainer {}", hello.trainer);
            return super::ignore(out, from, why);
        }
        if let Err(why) = self.admit(run, &hello) {
            return out.push(Decision { act: Act::Refuse(from), why });
        }
        let last = if self.is_sensible(last) { last } else { Generation(0) };
        let claimed = returning.claim.map(|claim| claim.generation).filter(|claimed| self.is_sensible(*claimed));
        self.highest = self.highest.max(last).max(claimed.unwrap_or_default());
        if !self.course.caught_up && (returning.step.is_some() || returning.claim.is_some()) {
            // The journal of a coordinator that was killed may be a moment behind its trainers.
            self.course.lineage = self.course.lineage.max(returning.lineage);
            self.course.recorded_lineage = self.course.lineage;
            if returning.claim.is_none() && !self.is_reuniting() {
                self.generation = self.generation.max(last);
            }
        }
        if let Some(id) = self.members.named(&hello.trainer).map(|member| member.id) {
            return self.comes_back(id, from, &returning, now, out);
        }
        let valid = self.claim_holds(&returning);
        let standing = match returning.claim {
            Some(_) if valid => Standing::Working,
            Some(_) => Standing::Leaving,
            None => Standing::Outside(returning.step),
        };
        let id = self.members.insert(hello, from, standing, now);
        if let Some(member) = self.members.get_mut(id) {
            (member.remembers, member.lineage) = (returning.remembers, returning.lineage);
        }
        let came = format!("{} of {} trainers are there", self.members.len(), self.plan.world);
        let held = match (returning.claim, returning.step) {
            (Some(claim), _) => format!(" from generation {}", claim.generation),
            (None, Some(step)) => format!(" holding step {step}"),
            (None, None) => String::new(),
        };
        let text = format!("{} joined{held} with {}; {came}", self.members.describe(id), self.device_of(id));
        let generation = returning.claim.filter(|_| valid).map_or(Generation(0), |claim| claim.generation);
        send(out, vec![from], Message::Welcome { generation }, text.clone());
        if let Some(member) = self.members.get(id).cloned() {
            self.note_about("joined", &member, text, out);
            self.warn_of_other_software(&member, out);
        }
        match &self.phase {
            Phase::Forming(_) => self.forming_hello(id, &returning, valid, now, out),
            Phase::Regrouping(_) => self.try_open(now, out),
            Phase::Running(_) | Phase::Ended { .. } => {}
        }
    }

    /// No run has that many more generations than are known: who says so cannot use up the numbers.
    fn is_sensible(&self, spoken: Generation) -> bool {
        spoken.0 < self.generation.0 + 1_000_000
    }

    /// The bits depend on the kernels: a world of different ones keeps no promise.
    fn warn_of_other_software(&self, member: &Member, out: &mut Decisions) {
        let differs = |other: &&Member| other.hello.software != member.hello.software;
        if let Some(other) = self.members.iter().find(differs) {
            let text = format!(
                "{} runs {}, {} runs {}: the same bits are not promised of a run of both",
                member.describe(),
                member.hello.software,
                other.describe(),
                other.hello.software
            );
            out.push(Decision { act: Act::Note(self.note("warning", member.rank)), why: text });
        }
    }

    fn device_of(&self, id: MemberId) -> String {
        self.members.get(id).map(|member| member.hello.device.clone()).unwrap_or_default()
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
        if self.aside.contains(&(*node, *local_rank)) {
            return Err(format!("{place} was set aside: its results differed from the others'"));
        }
        if let Some(same) = self.members.named(trainer) {
            return match same.place() == (*node, *local_rank) && same.hello.pid == hello.pid {
                true => Ok(()),
                false => Err(format!("a trainer with the name {trainer} is in the run already")),
            };
        }
        if let Some(other) = self.members.at((*node, *local_rank)) {
            return Err(format!("{place}: the place is taken by process {} on {}", other.hello.pid, other.hello.host));
        }
        Ok(())
    }

    /// Whether the place that is claimed is there for a trainer that is not a member: only before this coordinator has opened
    /// a generation of its own.
    fn claim_holds(&self, returning: &Returning) -> bool {
        let (Phase::Forming(forming), Some(claim)) = (&self.phase, returning.claim) else {
            return false;
        };
        let first =
            forming.reunion.is_none() && claim.generation >= self.generation && self.is_sensible(claim.generation);
        let fits = claim.rank.0 < claim.world && claim.world <= self.plan.config.run.lanes && returning.given.is_some();
        let known = forming.reunion.as_ref().is_some_and(|reunion| {
            claim.generation == self.generation
                && claim.world == reunion.world
                && self.members.ranked(claim.rank).is_none()
        });
        fits && (first || known)
    }

    /// A member is there again, on another stream.
    fn comes_back(
        &mut self,
        id: MemberId,
        on: ConnectionId,
        returning: &Returning,
        now: Duration,
        out: &mut Decisions,
    ) {
        let before = self.members.reconnect(id, on, now);
        let who = self.members.describe(id);
        if let Some(before) = before {
            out.push(Decision { act: Act::Drop(before), why: format!("{who} has another stream") });
        }
        let Some(member) = self.members.get_mut(id) else { return };
        (member.remembers, member.lineage) = (returning.remembers, returning.lineage);
        let place = returning.claim.map(|claim| (claim.generation, Some(claim.rank)));
        let still = member.standing == Standing::Working && place == Some((self.generation, member.rank));
        let was_working = member.standing == Standing::Working;
        if !still {
            member.standing = match returning.claim {
                Some(_) => Standing::Leaving,
                None => Standing::Outside(returning.step),
            };
        }
        let generation = if still { self.generation } else { Generation(0) };
        send(out, vec![on], Message::Welcome { generation }, format!("{who} is back on another stream"));
        match &self.phase {
            Phase::Running(_) if still => {
                let given = self.course.newest();
                send(out, vec![on], Message::Equilibrium(given), format!("{who} may have missed it"));
            }
            Phase::Running(_) if was_working => {
                let text = format!("{who} came back without its place in the generation");
                self.end_generation(Cause::Lost(text), now, out);
            }
            Phase::Regrouping(_) => {
                self.ask_again(id, out);
                self.try_open(now, out);
            }
            Phase::Forming(_) if !still => self.forming_outside(now, out),
            Phase::Forming(Forming { reunion: Some(reunion), .. }) if reunion.recalling == Some(id) => {
                let why = format!("{who} may not have heard that it is asked for what led to its state");
                send(out, vec![on], Message::Recall(self.course.recall_from()), why);
            }
            _ => {}
        }
    }

    pub(super) fn is_reuniting(&self) -> bool {
        matches!(self.phase, Phase::Forming(Forming { reunion: Some(_), .. }))
    }

    /// Somebody new is there while the world forms.
    fn forming_hello(&mut self, id: MemberId, returning: &Returning, valid: bool, now: Duration, out: &mut Decisions) {
        if let (Some(claim), true) = (returning.claim, valid) {
            return self.returns(id, claim, returning, now, out);
        }
        let Phase::Forming(forming) = &self.phase else { return };
        if forming.reunion.is_some() || returning.step.is_some() || returning.claim.is_some() {
            return self.forming_outside(now, out);
        }
        if self.members.len() == self.plan.world as usize {
            let start = Start::Checkpoint(self.course.step());
            self.open_generation(self.members.outside(), start, now, out);
        }
    }

    /// A member is outside any generation though the launch is not new: the generation it was in does not come back whole.
    pub(super) fn forming_outside(&mut self, now: Duration, out: &mut Decisions) {
        let text = "not all trainers of the last generation are still in it".to_owned();
        self.regroup_after_restart(text, now, out);
    }

    /// A member of a generation that a coordinator before this one had opened.
    fn returns(&mut self, id: MemberId, claim: Claim, returning: &Returning, now: Duration, out: &mut Decisions) {
        let wait = super::RETURN_WAIT.max(self.heartbeat_timeout());
        let Phase::Forming(forming) = &mut self.phase else { return };
        let reunion = forming.reunion.get_or_insert_with(|| Reunion {
            world: claim.world,
            until: now + wait,
            recalling: None,
            stash: Vec::new(),
            given: Vec::new(),
            held: Vec::new(),
        });
        reunion.given.extend(returning.given);
        reunion.held.push((returning.step.unwrap_or_default(), Reverse(returning.remembers), id));
        self.generation = claim.generation;
        let world = reunion.world;
        if let Some(member) = self.members.get_mut(id) {
            member.rank = Some(claim.rank);
        }
        let back = self.members.iter().filter(|member| member.rank.is_some()).count();
        self.reason = format!("generation {} comes back: {back} of its {world} trainers are there", self.generation);
        if back < world as usize {
            return;
        }
        // Whoever has committed the most knows the most.
        let Phase::Forming(Forming { reunion: Some(reunion), .. }) = &mut self.phase else { return };
        let Some(&(step, _, holder)) = reunion.held.iter().max() else { return };
        reunion.recalling = Some(holder);
        reunion.until = now + HELD_WAIT;
        let why = format!(
            "all {world} trainers of generation {} are back; {} holds step {step} and is asked for what led there",
            self.generation,
            self.members.describe(holder)
        );
        send(out, self.members.connections_of(&[holder]), Message::Recall(self.course.recall_from()), why);
    }

    /// What led to where a returned generation stands is here: it goes on.
    pub(super) fn reunion_recalled(
        &mut self,
        from: MemberId,
        steps: &[Past],
        given: &[Given],
        now: Duration,
        out: &mut Decisions,
    ) -> Result<(), String> {
        let Phase::Forming(Forming { reunion: Some(reunion), .. }) = &mut self.phase else {
            return Ok(());
        };
        if reunion.recalling != Some(from) {
            return Ok(());
        }
        let (stash, promised) = (std::mem::take(&mut reunion.stash), std::mem::take(&mut reunion.given));
        // It has committed steps since it said hello, perhaps.
        let held = steps.last().map(|past| past.given.equilibrium.step.next());
        let held = held.or_else(|| given.first().map(|given| given.equilibrium.step)).unwrap_or_default();
        if let Err(why) = self.adopt(held, steps, given, now, out) {
            let text = format!("what {} remembers cannot be gone on from: {why}", self.members.describe(from));
            self.regroup_after_restart(text, now, out);
            return Err(why);
        }
        if !matches!(self.phase, Phase::Forming(_)) {
            return Ok(());
        }
        promised.into_iter().for_each(|given| self.course.promise(given));
        let world = {
            let mut ranked: Vec<(Rank, MemberId)> =
                self.members.iter().filter_map(|member| Some((member.rank?, member.id))).collect();
            ranked.sort_unstable();
            ranked.into_iter().map(|(_, id)| id).collect::<Vec<_>>()
        };
        let step = self.course.step();
        let mut running = Running::new(&self.plan, &self.course, world.clone(), Orders::default(), now);
        // Trainers say their last two digests again; of older ones nobody will.
        let ordered =
            steps.iter().filter(|past| past.given.orders.digest).map(|past| past.given.equilibrium.step.next());
        let missing: Vec<Step> = ordered.filter(|step| *step > self.plan.digested).collect();
        for step in &missing[missing.len().saturating_sub(2)..] {
            running.digests.expect(*step);
        }
        let every = self.plan.config.run.sample_every;
        if let Some(beyond) = step.0.checked_rem(every) {
            let last = step.0 - beyond;
            running.samples_past = [Some(last), last.checked_sub(every)].into_iter().flatten().map(Step).collect();
        }
        self.phase = Phase::Running(Box::new(running));
        let why = format!(
            "generation {} goes on with its {} trainers at step {step}, after a restart of the coordinator",
            self.generation,
            world.len()
        );
        self.reason.clone_from(&why);
        send(out, self.members.connections_of(&world), Message::Equilibrium(self.course.newest()), why.clone());
        out.push(Decision { act: Act::Note(self.note("generation", None)), why });
        if self.course.stopping.is_none() {
            self.lease(Reach::Ahead, out);
        }
        for (id, body) in stash {
            let Some(connection) = self.members.get(id).map(|member| member.connection) else { continue };
            if let Err(why) = self.in_phase(id, body, now, out) {
                super::ignore(out, connection, format!("{}: {why}", self.members.describe(id)));
            }
        }
        self.stop_if_done(now, out);
        Ok(())
    }

    /// Said again by a trainer that came back, before it is known where its generation stands.
    pub(super) fn stash(&mut self, from: MemberId, body: Body) -> Result<(), String> {
        let Phase::Forming(Forming { reunion: Some(reunion), .. }) = &mut self.phase else {
            return Err("a message of a step before there is a generation".into());
        };
        let most = 16 * reunion.world as usize;
        if reunion.stash.len() >= most {
            return Err("too much was said before the generation is back".into());
        }
        reunion.stash.push((from, body));
        Ok(())
    }

    pub(super) fn forming_tick(&mut self, now: Duration, out: &mut Decisions) {
        let Phase::Forming(forming) = &self.phase else {
            return;
        };
        if let Some(reunion) = &forming.reunion {
            if now > reunion.until {
                let back = self.members.iter().filter(|member| member.rank.is_some()).count();
                let text = format!("{back} of {} trainers of generation {} came back", reunion.world, self.generation);
                self.regroup_after_restart(text, now, out);
            }
            return;
        }
        let waited = now.saturating_sub(forming.since);
        if let Some(reason) = self.course.asked.stop()
            && self.members.len() == 0
            && waited > super::RETURN_WAIT
        {
            let why = format!("stopped on request ({reason}): no trainer is there; {}", self.how_to_resume());
            return self.end(false, self.course.newest_checkpoint(), why, out);
        }
        if waited <= self.plan.forming_timeout {
            return;
        }
        // A run that was under way goes on with fewer: the others may be set aside.
        if self.plan.generation > Generation(0) && self.members.len() >= self.plan.config.run.min_trainers as usize {
            let text = format!("{} of {} trainers came", self.members.len(), self.plan.world);
            return self.regroup_after_restart(text, now, out);
        }
        let text = format!(
            "{} of {} trainers came within {:.0} s; {}",
            self.members.len(),
            self.plan.world,
            self.plan.forming_timeout.as_secs_f64(),
            self.missing()
        );
        self.end_generation(Cause::End(text), now, out);
    }

    /// Who did not come, as far as it can be told.
    fn missing(&self) -> String {
        let here: BTreeSet<(u32, u32)> = self.members.iter().map(super::members::Member::place).collect();
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
