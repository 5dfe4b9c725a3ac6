//! The 128 bytes by which the ranks of a communicator find each other.

use std::fmt;
use std::str::FromStr;

use crate::ffi;

/// Names one communicator to be: one rank asks for it ([`Nccl::unique_id`](crate::Nccl::unique_id)), every rank passes
/// it to [`Communicator::init`](crate::Communicator::init). How it travels is the caller's affair: as bytes
/// ([`to_bytes`](Self::to_bytes)) or as 256 hexadecimal digits (`Display`, `FromStr`).
///
/// It holds the address of a socket in the process that asked, so that process must live until every rank is in, and an
/// identifier serves one communicator only.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct UniqueId([u8; Self::BYTES]);

impl UniqueId {
    /// How long it is.
    pub const BYTES: usize = ffi::UNIQUE_ID_BYTES;

    /// The bytes to send to the other ranks.
    #[must_use]
    pub const fn to_bytes(self) -> [u8; Self::BYTES] {
        self.0
    }

    /// From the bytes another rank sent. Any bytes are taken: whether a communicator stands behind them only
    /// initialisation finds out.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; Self::BYTES]) -> Self {
        Self(bytes)
    }

    pub(crate) const fn to_ffi(self) -> ffi::UniqueId {
        ffi::UniqueId { internal: self.0 }
    }
}

/// Bytes or digits that are no unique identifier.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a unique identifier of NCCL is {expected}, and this is {found}")]
pub struct UniqueIdError {
    expected: &'static str,
    found: String,
}

impl TryFrom<&[u8]> for UniqueId {
    type Error = UniqueIdError;

    fn try_from(bytes: &[u8]) -> Result<Self, UniqueIdError> {
        let wrong = |_| UniqueIdError { expected: "128 bytes", found: format!("{} bytes", bytes.len()) };
        bytes.try_into().map(Self).map_err(wrong)
    }
}

impl FromStr for UniqueId {
    type Err = UniqueIdError;

    fn from_str(digits: &str) -> Result<Self, UniqueIdError> {
        const EXPECTED: &str = "256 hexadecimal digits";
        let wrong = |found| UniqueIdError { expected: EXPECTED, found };
        if digits.len() != 2 * Self::BYTES {
            return Err(wrong(format!("{} characters", digits.len())));
        }
        let mut bytes = [0; Self::BYTES];
        for (byte, pair) in bytes.iter_mut().zip(digits.as_bytes().chunks_exact(2)) {
            let text = std::str::from_utf8(pair).map_err(|_| wrong("not ASCII".to_owned()))?;
            // from_str_radix would take "+f".
            if !pair.iter().all(u8::is_ascii_hexdigit) {
                return Err(wrong(format!("has {text:?} in it")));
            }
            *byte = u8::from_str_radix(text, 16).map_err(|_| wrong(format!("has {text:?} in it")))?;
        }
        Ok(Self(bytes))
    }
}

impl fmt::Display for UniqueId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for UniqueId {
    /// The first bytes tell identifiers apart in a log; all 128 would drown it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("UniqueId(")?;
        self.0[..12].iter().try_for_each(|byte| write!(f, "{byte:02x}"))?;
        f.write_str("…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> UniqueId {
        UniqueId::from_bytes(std::array::from_fn(|i| u8::try_from(i * 2).unwrap()))
    }

    #[test]
    fn bytes_and_digits_come_back_as_they_went() {
        let id = sample();
        assert_eq!(UniqueId::try_from(&id.to_bytes()[..]).unwrap(), id);
        assert_eq!(id.to_string().parse::<UniqueId>().unwrap(), id);
    }

    #[test]
    fn what_is_too_short_or_no_digit_is_refused_and_says_so() {
        let error = UniqueId::try_from(&[0; 127][..]).unwrap_err();
        assert_eq!(error.to_string(), "a unique identifier of NCCL is 128 bytes, and this is 127 bytes");
        assert!("ab".parse::<UniqueId>().is_err());
        let mut digits = sample().to_string();
        digits.replace_range(4..6, "+f");
        assert!(digits.parse::<UniqueId>().unwrap_err().to_string().contains("\"+f\""));
        digits.replace_range(4..6, "é");
        assert!(digits.parse::<UniqueId>().is_err());
    }

    #[test]
    fn a_log_line_shows_the_first_bytes_only() {
        assert_eq!(format!("{:?}", sample()), "UniqueId(00020406080a0c0e10121416…)");
    }
}
