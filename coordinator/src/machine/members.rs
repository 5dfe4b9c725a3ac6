//! Who takes part: the trainers that were taken in, each with its stream, its place, what it holds and its last sign of life.
//!
//! A member is known by a number of its own and not by its stream, so that it can come back on another.

use std::collections::BTreeMap;
use std::ops::Range;
use std::time::Duration;

use began::{Rank, Step, lanes::lanes_of};

use super::event::{ConnectionId, Heartbeat, Hello, TrainerId};

/// One trainer, for as long as it is in the run without a break.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct MemberId(u64);

/// Where a member stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// In the generation.
    Working,
    /// Told to leave a generation; has not said yet what it holds.
    Leaving,
    /// In none, holding this.
    Outside(Option<Step>),
}

/// One trainer that was taken in.
#[derive(Clone, Debug)]
pub(super) struct Member {
    pub(super) id: MemberId,
    pub(super) hello: Hello,
    pub(super) connection: ConnectionId,
    /// Its place in the generation that is open or was last, if it had one.
    pub(super) rank: Option<Rank>,
    pub(super) standing: Standing,
    /// How often the run had gone back before the state it holds.
    pub(super) lineage: u64,
    /// The first step that it can recall, as of when it came.
    pub(super) remembers: Step,
    /// It is left out until then.
    pub(super) benched_until: Duration,
    /// When it came.
    pub(super) since: Duration,
    /// When it last said anything.
    pub(super) heard: Duration,
    /// What it last said it was doing, and when.
    pub(super) heartbeat: Option<(Heartbeat, Duration)>,
}

impl Member {
    /// "rank 3 (node 0, local rank 3, process 71 on worker-0)".
    pub(super) fn describe(&self) -> String {
        let Hello { node, local_rank, host, pid, .. } = &self.hello;
        let place = format!("node {node}, local rank {local_rank}, process {pid} on {host}");
        match self.rank {
            Some(rank) => format!("rank {rank} ({place})"),
            None => format!("the trainer of {place}"),
        }
    }

    /// What it was doing when it last said so.
    pub(super) fn last_doing(&self) -> String {
        match &self.heartbeat {
            Some((beat, _)) => format!("when last heard it was {} in step {}", beat.activity, beat.step),
            None => "it never sent a heartbeat".into(),
        }
    }

    /// What it was doing and for how long, as of `now`.
    pub(super) fn doing(&self, now: Duration) -> String {
        match &self.heartbeat {
            Some((beat, at)) => {
                let seconds = beat.seconds + now.saturating_sub(*at).as_secs_f64();
                format!("{} for {seconds:.1} s in step {}", beat.activity, beat.step)
            }
            None => "without a heartbeat so far".into(),
        }
    }

    /// Whether it is busy by itself, as far as it said.
    pub(super) fn is_busy(&self) -> bool {
        self.heartbeat.is_none_or(|(beat, _)| beat.activity.is_own())
    }

    pub(super) fn silence(&self, now: Duration) -> Duration {
        now.saturating_sub(self.heard)
    }

    /// Its lanes in a world of this size.
    pub(super) fn lanes(&self, world: u32, lanes: u32) -> Range<u32> {
        self.rank.map_or(0..0, |rank| lanes_of(rank, world, lanes))
    }

    /// Its node and its place on it.
    pub(super) fn place(&self) -> (u32, u32) {
        (self.hello.node, self.hello.local_rank)
    }

    /// The state it holds outside any generation, unless the run has gone back since.
    pub(super) fn holds(&self, lineage: u64) -> Option<Step> {
        match self.standing {
            Standing::Outside(step) => step.filter(|_| self.lineage == lineage),
            _ => None,
        }
    }

    pub(super) fn is_leaving(&self) -> bool {
        self.standing == Standing::Leaving
    }
}

/// All trainers that were taken in.
#[derive(Clone, Debug, Default)]
pub(super) struct Members {
    all: BTreeMap<MemberId, Member>,
    by_connection: BTreeMap<ConnectionId, MemberId>,
    by_name: BTreeMap<TrainerId, MemberId>,
    by_place: BTreeMap<(u32, u32), MemberId>,
    next: u64,
}

impl Members {
    pub(super) fn len(&self) -> usize {
        self.all.len()
    }

    /// Takes one in. Its name and its place must be new.
    pub(super) fn insert(
        &mut self,
        hello: Hello,
        connection: ConnectionId,
        standing: Standing,
        now: Duration,
    ) -> MemberId {
        let id = MemberId(self.next);
        self.next += 1;
        self.by_connection.insert(connection, id);
        self.by_name.insert(hello.trainer.clone(), id);
        let member = Member {
            id,
            hello,
            connection,
            rank: None,
            standing,
            lineage: 0,
            remembers: Step(0),
            benched_until: Duration::ZERO,
            since: now,
            heard: now,
            heartbeat: None,
        };
        self.by_place.insert(member.place(), id);
        self.all.insert(id, member);
        id
    }

    /// Forgets one.
    pub(super) fn remove(&mut self, id: MemberId) -> Option<Member> {
        let member = self.all.remove(&id)?;
        self.by_connection.remove(&member.connection);
        self.by_name.remove(&member.hello.trainer);
        self.by_place.remove(&member.place());
        Some(member)
    }

    /// It speaks on another stream from now on; the one before.
    pub(super) fn reconnect(&mut self, id: MemberId, connection: ConnectionId, now: Duration) -> Option<ConnectionId> {
        let member = self.all.get_mut(&id)?;
        let before = std::mem::replace(&mut member.connection, connection);
        member.heard = now;
        self.by_connection.remove(&before);
        self.by_connection.insert(connection, id);
        Some(before)
    }

    pub(super) fn get(&self, id: MemberId) -> Option<&Member> {
        self.all.get(&id)
    }

    pub(super) fn get_mut(&mut self, id: MemberId) -> Option<&mut Member> {
        self.all.get_mut(&id)
    }

    pub(super) fn named(&self, name: &TrainerId) -> Option<&Member> {
        self.all.get(self.by_name.get(name)?)
    }

    pub(super) fn on(&self, connection: ConnectionId) -> Option<&Member> {
        self.all.get(self.by_connection.get(&connection)?)
    }

    pub(super) fn on_mut(&mut self, connection: ConnectionId) -> Option<&mut Member> {
        self.all.get_mut(self.by_connection.get(&connection)?)
    }

    pub(super) fn at(&self, place: (u32, u32)) -> Option<&Member> {
        self.all.get(self.by_place.get(&place)?)
    }

    pub(super) fn ranked(&self, rank: Rank) -> Option<&Member> {
        self.iter().find(|member| member.rank == Some(rank))
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Member> {
        self.all.values()
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Member> {
        self.all.values_mut()
    }

    /// Every stream.
    pub(super) fn connections(&self) -> Vec<ConnectionId> {
        self.by_connection.keys().copied().collect()
    }

    /// The streams of these.
    pub(super) fn connections_of(&self, ids: &[MemberId]) -> Vec<ConnectionId> {
        ids.iter().filter_map(|id| Some(self.all.get(id)?.connection)).collect()
    }

    /// What someone is called in a sentence.
    pub(super) fn describe(&self, id: MemberId) -> String {
        self.get(id).map(Member::describe).unwrap_or_default()
    }

    /// Those outside any generation, in the order of (node, local rank).
    pub(super) fn outside(&self) -> Vec<MemberId> {
        let outside =
            |&id: &MemberId| self.all.get(&id).is_some_and(|member| matches!(member.standing, Standing::Outside(_)));
        self.by_place.values().copied().filter(outside).collect()
    }

    /// Gives out ranks to these in their order, and takes everyone else's.
    pub(super) fn rank(&mut self, world: &[MemberId]) {
        for member in self.all.values_mut() {
            member.rank = None;
        }
        for (rank, id) in (0..).map(Rank).zip(world) {
            if let Some(member) = self.all.get_mut(id) {
                member.rank = Some(rank);
            }
        }
    }

    /// Those silent for longer than `limit`.
    pub(super) fn silent(&self, now: Duration, limit: Duration) -> Vec<MemberId> {
        self.iter().filter(|member| member.silence(now) > limit).map(|member| member.id).collect()
    }
}
