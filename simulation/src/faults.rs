//! What goes wrong in a history.

use crate::dice::Dice;

/// One fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// A trainer's process is killed.
    Kill(usize),
    /// Two at once.
    KillTwo(usize, usize),
    /// Every trainer.
    KillAll,
    /// A trainer is stopped for that many milliseconds.
    Hang(usize, u64),
    /// A trainer is cut off from everyone for that many milliseconds.
    Cut(usize, u64),
    /// Its stream with the coordinator breaks, and nothing else.
    Break(usize),
    /// The coordinator is killed.
    Coordinator,
    /// The disk takes no checkpoint for that many milliseconds.
    DiskFull(u64),
    /// The newest checkpoint is damaged.
    Tear,
    /// Another trainer joins, on a place of its own.
    Join,
}

/// The kinds, for counting.
pub const KINDS: [&str; 11] =
    ["kill", "two", "all", "hang", "cut", "break", "coordinator", "disk", "tear", "join", "flip"];

impl Fault {
    /// Draws one; `world` places.
    pub fn draw(dice: &mut Dice, world: usize) -> Self {
        let who = dice.below(world as u64) as usize;
        match dice.below(16) {
            0..=3 => Self::Kill(who),
            4 => Self::KillTwo(who, dice.below(world as u64) as usize),
            5 if dice.one_in(3) => Self::KillAll,
            5 | 6 => Self::Hang(who, dice.between(50, 4_000)),
            7 | 8 => Self::Cut(who, dice.between(50, 5_000)),
            9 => Self::Break(who),
            10..=12 => Self::Coordinator,
            13 => Self::DiskFull(dice.between(100, 3_000)),
            14 => Self::Tear,
            _ => Self::Join,
        }
    }

    /// Its place in [`KINDS`].
    #[must_use]
    pub fn kind(&self) -> usize {
        match self {
            Self::Kill(_) => 0,
            Self::KillTwo(..) => 1,
            Self::KillAll => 2,
            Self::Hang(..) => 3,
            Self::Cut(..) => 4,
            Self::Break(_) => 5,
            Self::Coordinator => 6,
            Self::DiskFull(_) => 7,
            Self::Tear => 8,
            Self::Join => 9,
        }
    }
}
