//! Opening a generation: who is in it, in which place, from which step on, and who gives the state to whom.

use std::time::Duration;

use began::{Generation, Rank, Step};

use super::course::Ordered;
use super::event::{Act, Decision, Heal, Message, Note, Opened};
use super::leases::Reach;
use super::members::{MemberId, Standing};
use super::regrouping::Start;
use super::running::Running;
use super::{Decisions, Machine, Phase, send};

/// Checkpoints that may be under way at once: more than any writer has.
const MOST_ORDERED: usize = 8;

impl Machine {
    /// Opens the next generation over these, in rank order.
    pub(super) fn open_generation(&mut self, world: Vec<MemberId>, start: Start, now: Duration, out: &mut Decisions) {
        let (step, from_checkpoint) = match start {
            Start::Held(step) => {
                self.course.back_to_known(step);
                (step, false)
            }
            Start::Checkpoint(step) => {
                // On the first opening of all the course stands there already, with the orders for its first step.
                if self.course.step() != step || self.course.caught_up {
                    self.course.back_to_checkpoint(step);
                }
                (step, true)
            }
        };
        self.course.caught_up = true;
        // The steps from here on are computed again and give the same bits, so what the journal has of them stays; unless it is
        // of a state that was void.
        let void = self.course.lineage != self.course.recorded_lineage || self.plan.accept_changed_checkpoint;
        self.course.recorded_lineage = self.course.lineage;
        if step < self.course.recorded && void {
            let why = format!("steps from {step} on are computed again");
            out.push(Decision { act: Act::Rewind(step), why });
            self.course.recorded = step;
        }
        if step > self.course.recorded {
            let recorded = self.course.recorded;
            let text =
                format!("steps {recorded} to {} are not in the journal: it was lost or damaged", Step(step.0 - 1));
            out.push(Decision { act: Act::Note(self.note("warning", None)), why: text });
            self.course.recorded = step;
        }
        self.generation = Generation(self.generation.max(self.highest).0 + 1);
        self.members.rank(&world);
        let (heals, healed) = self.heals(&world, step, from_checkpoint);
        // Ordered by a coordinator before this one, of whoever it was.
        self.course.ordered.retain(|_, ordered| ordered.writer.is_some());
        // Whoever was to write this state may have been halted before it handed it over; a second report does no harm.
        self.course.ordered.remove(&step);
        while self.course.ordered.len() > MOST_ORDERED {
            self.course.ordered.pop_first();
        }
        let due = self.course.due_at(step);
        if due.stop {
            self.course.stopping = Some(step);
        }
        if due.checkpoint {
            let equilibrium = self.course.newest().equilibrium;
            self.course.ordered.insert(step, Ordered { writer: world.first().copied(), equilibrium });
        }
        let mut why = format!("generation {} opens with {} trainers at step {step}", self.generation, world.len());
        if healed > 0 {
            why += &format!("; {healed} of them receive the state from the others");
        }
        if from_checkpoint && step.0 > 0 {
            why += &format!("; all go on from the checkpoint of step {step}");
        }
        let hellos = world.iter().filter_map(|&id| self.members.get(id)).map(|member| member.hello.clone()).collect();
        out.push(Decision { act: Act::Open { generation: self.generation, step, world: hellos }, why: why.clone() });
        let checkpoint = if from_checkpoint && step.0 > 0 { checkpoint_path(step) } else { String::new() };
        for ((rank, &id), heal) in (0..).map(Rank).zip(&world).zip(heals) {
            let opened = Opened {
                world_size: world.len() as u32,
                rank,
                checkpoint: checkpoint.clone(),
                accept_changed_checkpoint: self.plan.accept_changed_checkpoint,
                given: self.course.newest(),
                orders: due,
                heal,
                lineage: self.course.lineage,
            };
            send(out, self.members.connections_of(&[id]), Message::Opened(opened), why.clone());
            if let Some(member) = self.members.get_mut(id) {
                member.standing = Standing::Working;
            }
        }
        let running = Running::new(&self.plan, &self.course, world, due, now);
        self.phase = Phase::Running(Box::new(running));
        self.reason.clone_from(&why);
        let note = Note { step, ..self.note("generation", None) };
        out.push(Decision { act: Act::Note(note), why });
        if self.course.stopping.is_none() {
            self.lease(Reach::Ahead, out);
        }
    }

    /// Each one's part in handing the state around, and how many receive it.
    fn heals(&self, world: &[MemberId], step: Step, from_checkpoint: bool) -> (Vec<Heal>, usize) {
        let mut heals = vec![Heal::default(); world.len()];
        // The state of step 0 is made from the seed, faster than it travels.
        if from_checkpoint || step.0 == 0 {
            return (heals, 0);
        }
        let holds =
            |id: &MemberId| self.members.get(*id).is_some_and(|member| member.holds(self.course.lineage) == Some(step));
        let (holders, needy): (Vec<usize>, Vec<usize>) = (0..world.len()).partition(|&place| holds(&world[place]));
        if holders.is_empty() || needy.is_empty() {
            return (heals, 0);
        }
        let rounds = needy.len().div_ceil(holders.len()) as u32;
        for heal in &mut heals {
            heal.rounds = rounds;
        }
        for (turn, &place) in needy.iter().enumerate() {
            let holder = holders[turn % holders.len()];
            heals[place].from = Some(((turn / holders.len()) as u32, Rank(holder as u32)));
            heals[holder].to.push(Rank(place as u32));
        }
        (heals, needy.len())
    }
}

fn checkpoint_path(step: Step) -> String {
    format!("checkpoints/{}", began_record::RunDir::step_name(step))
}
