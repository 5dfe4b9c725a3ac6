//! What a buffer holds and how it is reduced.

use std::ffi::c_int;
use std::fmt;

/// The type of one element of a buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum DataType {
    /// Signed 8 bit integer.
    I8,
    /// Unsigned 8 bit integer; also what raw bytes travel as.
    U8,
    /// Signed 32 bit integer.
    I32,
    /// Unsigned 32 bit integer.
    U32,
    /// Signed 64 bit integer.
    I64,
    /// Unsigned 64 bit integer.
    U64,
    /// IEEE half precision.
    F16,
    /// Single precision.
    F32,
    /// Double precision.
    F64,
    /// bfloat16.
    Bf16,
    /// 8 bit float with 4 bits of exponent and 3 of mantissa; NCCL 2.24 and later.
    F8E4M3,
    /// 8 bit float with 5 bits of exponent and 2 of mantissa; NCCL 2.24 and later.
    F8E5M2,
}

impl DataType {
    /// Bytes of one element.
    #[must_use]
    pub const fn bytes(self) -> usize {
        match self {
            Self::I8 | Self::U8 | Self::F8E4M3 | Self::F8E5M2 => 1,
            Self::F16 | Self::Bf16 => 2,
            Self::I32 | Self::U32 | Self::F32 => 4,
            Self::I64 | Self::U64 | Self::F64 => 8,
        }
    }

    /// `ncclDataType_t`.
    pub(crate) const fn code(self) -> c_int {
        match self {
            Self::I8 => 0,
            Self::U8 => 1,
            Self::I32 => 2,
            Self::U32 => 3,
            Self::I64 => 4,
            Self::U64 => 5,
            Self::F16 => 6,
            Self::F32 => 7,
            Self::F64 => 8,
            Self::Bf16 => 9,
            Self::F8E4M3 => 10,
            Self::F8E5M2 => 11,
        }
    }
}

impl fmt::Display for DataType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::I8 => "i8",
            Self::U8 => "u8",
            Self::I32 => "i32",
            Self::U32 => "u32",
            Self::I64 => "i64",
            Self::U64 => "u64",
            Self::F16 => "f16",
            Self::F32 => "f32",
            Self::F64 => "f64",
            Self::Bf16 => "bf16",
            Self::F8E4M3 => "f8e4m3",
            Self::F8E5M2 => "f8e5m2",
        })
    }
}

/// How many elements of which type: what NCCL takes as two integers that are easily exchanged with others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Elements {
    /// How many, and not how many bytes.
    pub count: usize,
    /// Of which type.
    pub of: DataType,
}

impl Elements {
    /// `count` elements of a type.
    #[must_use]
    pub const fn new(count: usize, of: DataType) -> Self {
        Self { count, of }
    }

    /// `count` single precision numbers.
    #[must_use]
    pub const fn f32(count: usize) -> Self {
        Self::new(count, DataType::F32)
    }

    /// `count` bfloat16 numbers.
    #[must_use]
    pub const fn bf16(count: usize) -> Self {
        Self::new(count, DataType::Bf16)
    }

    /// `count` bytes.
    #[must_use]
    pub const fn bytes_of(count: usize) -> Self {
        Self::new(count, DataType::U8)
    }

    /// Their length in bytes, or `None` where no memory is that large.
    #[must_use]
    pub const fn bytes(self) -> Option<usize> {
        match self.count.checked_mul(self.of.bytes()) {
            Some(bytes) if bytes <= isize::MAX.unsigned_abs() => Some(bytes),
            _ => None,
        }
    }
}

impl fmt::Display for Elements {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.count, self.of)
    }
}

/// How elements of several ranks become one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ReduceOp {
    /// Their sum. The order of the addition is NCCL's, and differs with the number of ranks.
    Sum,
    /// Their product.
    Product,
    /// The largest.
    Max,
    /// The smallest.
    Min,
    /// Their sum over their number.
    Average,
}

impl ReduceOp {
    /// `ncclRedOp_t`.
    pub(crate) const fn code(self) -> c_int {
        match self {
            Self::Sum => 0,
            Self::Product => 1,
            Self::Max => 2,
            Self::Min => 3,
            Self::Average => 4,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_are_counted_in_bytes_and_never_wrap() {
        assert_eq!(Elements::f32(10).bytes(), Some(40));
        assert_eq!(Elements::bf16(3).bytes(), Some(6));
        assert_eq!(Elements::new(usize::MAX / 4, DataType::F64).bytes(), None);
        assert_eq!(Elements::bytes_of(usize::MAX).bytes(), None);
        assert_eq!(Elements::new(7, DataType::F8E5M2).to_string(), "7 f8e5m2");
    }
}
