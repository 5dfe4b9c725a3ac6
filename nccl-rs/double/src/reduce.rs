//! The arithmetic of reductions: elements of the ranks in the order of ranks, as bytes.

/// A type that NCCL knows and the double reduces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Type {
    I8,
    U8,
    I32,
    U32,
    I64,
    U64,
    F16,
    F32,
    F64,
    Bf16,
}

impl Type {
    pub fn from_code(code: i32) -> Option<Self> {
        Some(match code {
            0 => Self::I8,
            1 => Self::U8,
            2 => Self::I32,
            3 => Self::U32,
            4 => Self::I64,
            5 => Self::U64,
            6 => Self::F16,
            7 => Self::F32,
            8 => Self::F64,
            9 => Self::Bf16,
            _ => return None,
        })
    }

    pub fn bytes(self) -> usize {
        match self {
            Self::I8 | Self::U8 => 1,
            Self::F16 | Self::Bf16 => 2,
            Self::I32 | Self::U32 | Self::F32 => 4,
            Self::I64 | Self::U64 | Self::F64 => 8,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reduction {
    Sum,
    Product,
    Max,
    Min,
    Average,
}

impl Reduction {
    pub fn from_code(code: i32) -> Option<Self> {
        Some(match code {
            0 => Self::Sum,
            1 => Self::Product,
            2 => Self::Max,
            3 => Self::Min,
            4 => Self::Average,
            _ => return None,
        })
    }
}

/// Reduces parts of one length into one.
pub fn reduce(reduction: Reduction, of: Type, parts: &[Vec<u8>]) -> Vec<u8> {
    macro_rules! whole {
        ($kind:ty) => {
            fold(
                parts,
                |bytes| <$kind>::from_le_bytes(bytes),
                |value: $kind| value.to_le_bytes(),
                |a, b| match reduction {
                    Reduction::Sum | Reduction::Average => a.wrapping_add(b),
                    Reduction::Product => a.wrapping_mul(b),
                    Reduction::Max => a.max(b),
                    Reduction::Min => a.min(b),
                },
                |sum, count| match reduction {
                    Reduction::Average => <$kind>::try_from(count).map_or(0, |count| sum / count),
                    _ => sum,
                },
            )
        };
    }
    macro_rules! float {
        ($kind:ty, $read:expr, $write:expr) => {
            fold(
                parts,
                $read,
                $write,
                |a: $kind, b: $kind| match reduction {
                    Reduction::Sum | Reduction::Average => a + b,
                    Reduction::Product => a * b,
                    Reduction::Max => a.max(b),
                    Reduction::Min => a.min(b),
                },
                |sum, count| if reduction == Reduction::Average { sum / count as $kind } else { sum },
            )
        };
    }
    match of {
        Type::I8 => whole!(i8),
        Type::U8 => whole!(u8),
        Type::I32 => whole!(i32),
        Type::U32 => whole!(u32),
        Type::I64 => whole!(i64),
        Type::U64 => whole!(u64),
        Type::F32 => float!(f32, f32::from_le_bytes, f32::to_le_bytes),
        Type::F64 => float!(f64, f64::from_le_bytes, f64::to_le_bytes),
        Type::F16 => float!(f32, |b| from_half(u16::from_le_bytes(b)), |v: f32| to_half(v).to_le_bytes()),
        Type::Bf16 => float!(f32, |b| from_brain(u16::from_le_bytes(b)), |v: f32| to_brain(v).to_le_bytes()),
    }
}

fn fold<const N: usize, V: Copy>(
    parts: &[Vec<u8>],
    read: impl Fn([u8; N]) -> V,
    write: impl Fn(V) -> [u8; N],
    combine: impl Fn(V, V) -> V,
    end: impl Fn(V, usize) -> V,
) -> Vec<u8> {
    let Some(first) = parts.first() else { return Vec::new() };
    let mut result = Vec::with_capacity(first.len());
    for index in 0..first.len() / N {
        let element = |part: &Vec<u8>| {
            let bytes = part.get(index * N..(index + 1) * N).and_then(|bytes| bytes.try_into().ok());
            read(bytes.unwrap_or([0; N]))
        };
        let value = parts[1..].iter().fold(element(first), |value, part| combine(value, element(part)));
        result.extend_from_slice(&write(end(value, parts.len())));
    }
    result
}

fn from_brain(bits: u16) -> f32 {
    f32::from_bits(u32::from(bits) << 16)
}

/// To the nearest, ties to even.
fn to_brain(value: f32) -> u16 {
    if value.is_nan() {
        return 0x7fc0;
    }
    let bits = value.to_bits();
    let rounded = bits.wrapping_add(0x7fff + (bits >> 16 & 1));
    (rounded >> 16) as u16
}

fn from_half(bits: u16) -> f32 {
    let (sign, exponent, mantissa) = (u32::from(bits >> 15) << 31, u32::from(bits >> 10 & 31), u32::from(bits & 1023));
    match exponent {
        // Subnormal: mantissa times 2^-24, exact in f32.
        0 => f32::from_bits(sign | (mantissa as f32 * 2f32.powi(-24)).to_bits()),
        31 => f32::from_bits(sign | 0x7f80_0000 | mantissa << 13),
        _ => f32::from_bits(sign | (exponent + 112) << 23 | mantissa << 13),
    }
}

/// To the nearest, ties to even.
fn to_half(value: f32) -> u16 {
    let sign = ((value.to_bits() >> 31) as u16) << 15;
    let size = value.abs();
    if size.is_nan() {
        return sign | 0x7e00;
    }
    // Half-way between the largest half and what would come next.
    if size >= 65520.0 {
        return sign | 0x7c00;
    }
    if size < 2f32.powi(-14) {
        // Adding 2^-1 * 2^-24 * 2^24 rounds the f32 addition at the place where a subnormal half ends.
        return sign | ((size + 0.5).to_bits() - 0.5f32.to_bits()) as u16;
    }
    let bits = size.to_bits();
    let rounded = bits + 0x0fff + (bits >> 13 & 1);
    sign | ((rounded >> 13) - (112 << 10)) as u16
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes<const N: usize>(values: &[[u8; N]]) -> Vec<u8> {
        values.concat()
    }

    #[test]
    fn every_reduction_of_a_type_is_what_arithmetic_says() {
        let parts: Vec<Vec<u8>> = [[6i32, -2], [3, 5]].iter().map(|p| bytes(&p.map(i32::to_le_bytes))).collect();
        let result = |reduction| {
            let out = reduce(reduction, Type::I32, &parts);
            out.chunks(4).map(|c| i32::from_le_bytes(c.try_into().unwrap())).collect::<Vec<_>>()
        };
        assert_eq!(result(Reduction::Sum), [9, 3]);
        assert_eq!(result(Reduction::Product), [18, -10]);
        assert_eq!(result(Reduction::Max), [6, 5]);
        assert_eq!(result(Reduction::Min), [3, -2]);
        assert_eq!(result(Reduction::Average), [4, 1]);
    }

    #[test]
    fn every_half_comes_back_from_single_precision_as_it_was() {
        for bits in 0..=u16::MAX {
            if !from_half(bits).is_nan() {
                assert_eq!(to_half(from_half(bits)), bits, "{bits:#x}");
            }
            if !from_brain(bits).is_nan() {
                assert_eq!(to_brain(from_brain(bits)), bits, "{bits:#x}");
            }
        }
        assert_eq!(from_half(0x3c00), 1.0);
        assert_eq!(from_half(0x7bff), 65504.0);
        // A tie goes to the even neighbour.
        assert_eq!(to_half(1.0 + 2f32.powi(-11)), 0x3c00);
        assert_eq!(to_half(1.0 + 3.0 * 2f32.powi(-11)), 0x3c02);
        assert_eq!(to_brain(1.0 + 2f32.powi(-8)), 0x3f80);
    }
}
