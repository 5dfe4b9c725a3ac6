//! Who takes part: the trainers that were taken in, each with its stream, its place and its last sign of life.
//!
//! A member is known by its own name and not by its stream, so that a later version can let it come back on another.

use std::collections::BTreeMap;
use std::ops::Range;
use std::time::Duration;

use began::{Rank, lanes::lanes_of};

use super::event::{ConnectionId, Heartbeat, Hello, TrainerId};

/// One trainer that was taken in.
#[derive(Clone, Debug)]
pub(super) struct Member {
    pub(super) hello: Hello,
    pub(super) connection: ConnectionId,
    /// Its place in the generation, once there is one.
    pub(super) rank: Option<Rank>,
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
}

/// All trainers that were taken in.
#[derive(Clone, Debug, Default)]
pub(super) struct Members {
    by_name: BTreeMap<TrainerId, Member>,
    by_connection: BTreeMap<ConnectionId, TrainerId>,
}

impl Members {
    pub(super) fn len(&self) -> usize {
        self.by_name.len()
    }

    /// Takes one in. Its name must be new.
    pub(super) fn insert(&mut self, hello: Hello, connection: ConnectionId, now: Duration) {
        let name = hello.trainer.clone();
        self.by_connection.insert(connection, name.clone());
        self.by_name.insert(name, Member { hello, connection, rank: None, heard: now, heartbeat: None });
    }

    /// Forgets one.
    pub(super) fn remove(&mut self, connection: ConnectionId) -> Option<Member> {
        self.by_name.remove(&self.by_connection.remove(&connection)?)
    }

    pub(super) fn named(&self, name: &TrainerId) -> Option<&Member> {
        self.by_name.get(name)
    }

    pub(super) fn on(&self, connection: ConnectionId) -> Option<&Member> {
        self.by_name.get(self.by_connection.get(&connection)?)
    }

    pub(super) fn on_mut(&mut self, connection: ConnectionId) -> Option<&mut Member> {
        self.by_name.get_mut(self.by_connection.get(&connection)?)
    }

    pub(super) fn at(&self, node: u32, local_rank: u32) -> Option<&Member> {
        self.iter().find(|member| (member.hello.node, member.hello.local_rank) == (node, local_rank))
    }

    pub(super) fn ranked(&self, rank: Rank) -> Option<&Member> {
        self.iter().find(|member| member.rank == Some(rank))
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Member> {
        self.by_name.values()
    }

    /// Every stream.
    pub(super) fn connections(&self) -> Vec<ConnectionId> {
        self.by_connection.keys().copied().collect()
    }

    /// Gives out ranks in the order of (node, local rank), and returns the streams in that order.
    pub(super) fn rank(&mut self) -> Vec<ConnectionId> {
        let mut members: Vec<&mut Member> = self.by_name.values_mut().collect();
        members.sort_by_key(|member| (member.hello.node, member.hello.local_rank));
        for (rank, member) in (0..).map(Rank).zip(&mut members) {
            member.rank = Some(rank);
        }
        members.iter().map(|member| member.connection).collect()
    }

    /// Those silent for longer than `limit`.
    pub(super) fn silent(&self, now: Duration, limit: Duration) -> Vec<ConnectionId> {
        self.iter().filter(|member| member.silence(now) > limit).map(|member| member.connection).collect()
    }
}
