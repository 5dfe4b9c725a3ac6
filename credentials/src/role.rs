//! Who there is in a run, and what each may ask of its coordinator.

use std::fmt;

/// Who somebody is, as its certificate says in a URI of its subject alternative names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// Serves the run. Asks nobody for anything.
    Coordinator,
    /// Takes part in the run.
    Trainer,
    /// Steers the run: stops it, orders checkpoints.
    Control,
    /// Looks on.
    Observer,
}

/// What somebody may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Right {
    /// Sessions and exchanges.
    Train,
    /// Stop, checkpoint, sample, notes.
    Control,
    /// Status and progress, health, reflection.
    Look,
}

impl Role {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Coordinator, Self::Trainer, Self::Control, Self::Observer];

    /// As in file names and certificates.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Coordinator => "coordinator",
            Self::Trainer => "trainer",
            Self::Control => "control",
            Self::Observer => "observer",
        }
    }

    /// The URI that stands for it in a certificate.
    #[must_use]
    pub fn uri(self) -> String {
        format!("urn:began:role:{}", self.name())
    }

    /// The role that a URI stands for.
    #[must_use]
    pub fn from_uri(uri: &str) -> Option<Self> {
        let name = uri.strip_prefix("urn:began:role:")?;
        Self::ALL.into_iter().find(|role| role.name() == name)
    }

    /// Whether it has a right.
    #[must_use]
    pub const fn may(self, right: Right) -> bool {
        match right {
            Right::Train => matches!(self, Self::Trainer),
            Right::Control => matches!(self, Self::Control),
            Right::Look => !matches!(self, Self::Coordinator),
        }
    }

    /// As one byte on a connection.
    pub(crate) const fn code(self) -> u8 {
        match self {
            Self::Coordinator => 0,
            Self::Trainer => 1,
            Self::Control => 2,
            Self::Observer => 3,
        }
    }

    pub(crate) fn from_code(code: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|role| role.code() == code)
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_role_has_its_own_rights_and_all_who_ask_may_look() {
        let rights = |role: Role| [Right::Train, Right::Control, Right::Look].map(|right| role.may(right));
        assert_eq!(rights(Role::Trainer), [true, false, true]);
        assert_eq!(rights(Role::Control), [false, true, true]);
        assert_eq!(rights(Role::Observer), [false, false, true]);
        assert_eq!(rights(Role::Coordinator), [false; 3]);
    }

    #[test]
    fn a_role_is_read_back_from_its_uri_and_nothing_else_is_one() {
        for role in Role::ALL {
            assert_eq!((Role::from_uri(&role.uri()), Role::from_code(role.code())), (Some(role), Some(role)));
        }
        for other in ["", "urn:began:role:", "urn:began:role:root", "trainer", "urn:began:role:trainer2"] {
            assert_eq!(Role::from_uri(other), None, "{other}");
        }
    }
}
