//! NCCL's version numbers, which are coded in two ways.

use std::fmt;

/// A version of NCCL: major, minor, patch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version {
    /// The 2 of 2.28.9.
    pub major: u32,
    /// The 28 of 2.28.9.
    pub minor: u32,
    /// The 9 of 2.28.9.
    pub patch: u32,
}

impl Version {
    /// The oldest that these bindings work with: non-blocking initialisation with a configuration, and `ncclCommSplit`.
    pub const OLDEST: Self = Self::new(2, 18, 1);

    /// The version `major.minor.patch`.
    #[must_use]
    pub const fn new(major: u32, minor: u32, patch: u32) -> Self {
        Self { major, minor, patch }
    }

    /// From what `ncclGetVersion` gives: 22809 is 2.28.9, and before 2.9 it was 2804 for 2.8.4. Negative is 0.0.0.
    #[must_use]
    pub const fn from_code(code: i32) -> Self {
        let code = if code < 0 { 0 } else { code.unsigned_abs() };
        // Codes below 10000 can only be of the old kind: the new one begins with 2.9, at 20900.
        let major_unit = if code < 10_000 { 1000 } else { 10_000 };
        Self::new(code / major_unit, code % major_unit / 100, code % 100)
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.patch)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_codings_are_read() {
        assert_eq!(Version::from_code(22809), Version::new(2, 28, 9));
        assert_eq!(Version::from_code(21801), Version::OLDEST);
        assert_eq!(Version::from_code(2804), Version::new(2, 8, 4));
        assert_eq!(Version::from_code(-1), Version::new(0, 0, 0));
        assert_eq!(Version::from_code(22809).to_string(), "2.28.9");
    }

    #[test]
    fn versions_are_ordered_by_number_and_not_by_text() {
        assert!(Version::new(2, 9, 0) < Version::new(2, 18, 0));
    }
}
