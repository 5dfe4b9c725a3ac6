//! One call of the operation, forward and backward, with what libtorch says to it in f64.

use std::error::Error;
use std::fmt;

use tch::{Device, Kind, Tensor};
use torch_ext::fused;

use super::rounding::{Bound, Worst};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// Every width that training uses, and some that fit one kind or none.
pub const WIDTHS: [usize; 17] = [4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 640, 1024];

/// As the kernels have it: threads of a block at most, pixels that a thread takes at a time, blocks on the host.
const THREADS: usize = 256;
const AT_ONCE: usize = 4;
const BLOCKS: usize = 4;

/// Inputs, pixel by pixel, each as the kind keeps it.
pub struct Case {
    kind: Kind,
    channels: usize,
    pixels: usize,
    x: Vec<f64>,
    bias: Vec<f64>,
    seed: Vec<f64>,
}

/// What the operation gave: the values and the gradients over both inputs. Equal are the same bits.
pub struct Found {
    pub y: Vec<f64>,
    pub gradient: Vec<f64>,
    pub bias: Vec<f64>,
}

impl PartialEq for Found {
    fn eq(&self, other: &Self) -> bool {
        let same = |a: &[f64], b: &[f64]| a.iter().map(|x| x.to_bits()).eq(b.iter().map(|x| x.to_bits()));
        same(&self.y, &other.y) && same(&self.gradient, &other.gradient) && same(&self.bias, &other.bias)
    }
}

impl fmt::Debug for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let start = |values: &[f64]| values[..values.len().min(8)].to_vec();
        let (y, gradient, bias) = (start(&self.y), start(&self.gradient), start(&self.bias));
        write!(f, "values {y:?}..., gradients {gradient:?}..., the bias's {bias:?}...")
    }
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}, {} channels, {} pixels", self.kind, self.channels, self.pixels)
    }
}

/// The same numbers every time, much like normal ones of deviation 2; every 13th is one that is special.
struct Numbers(u64);

impl Numbers {
    const SPECIAL: [f64; 12] =
        [-100.0, -1e4, 1e-20, -1e-20, -0.0, 0.0, -0.015_625, 0.015_625, -0.015_564, -0.015_747, 1e4, -20.0];

    fn next(&mut self) -> f64 {
        let mut uniform = || {
            self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            f64::from((self.0 >> 33) as u32) / f64::from(1u32 << 31)
        };
        2.0 * (uniform() + uniform() + uniform() + uniform() - 2.0) * 3f64.sqrt()
    }

    fn take(&mut self, count: usize) -> Vec<f64> {
        (0..count).map(|_| self.next()).collect()
    }

    fn take_with_special(&mut self, count: usize) -> Vec<f64> {
        let special = Self::SPECIAL.iter().cycle();
        (0..count).zip(special).map(|(n, special)| if n % 13 == 5 { *special } else { self.next() }).collect()
    }
}

fn lanes(kind: Kind) -> usize {
    if kind == Kind::BFloat16 { 8 } else { 4 }
}

/// The nearest numbers of the kind.
fn rounded(kind: Kind, values: &[f64]) -> Result<Vec<f64>> {
    Ok(Vec::try_from(&Tensor::from_slice(values).f_to_kind(kind)?.f_to_kind(Kind::Double)?)?)
}

/// Pixel by pixel, in f64 on the host.
pub fn numbers(tensor: &Tensor) -> Result<Vec<f64>> {
    let tensor = tensor.f_detach()?.f_to_device(Device::Cpu)?.f_to_kind(Kind::Double)?;
    let tensor = if tensor.dim() == 4 { tensor.f_permute([0, 2, 3, 1])? } else { tensor };
    Ok(Vec::try_from(&tensor.f_contiguous()?.f_view([-1])?)?)
}

impl Case {
    pub fn new(kind: Kind, channels: usize, pixels: usize) -> Self {
        let mut source = Numbers((channels * 100_000 + pixels) as u64);
        let rounded = |values: Vec<f64>| rounded(kind, &values).expect("libtorch rounds numbers");
        let x = rounded(source.take_with_special(channels * pixels));
        let bias = rounded(source.take(channels).iter().map(|bias| 0.25 * bias).collect());
        let seed = rounded(source.take(channels * pixels));
        Self { kind, channels, pixels, x, bias, seed }
    }

    /// Each of the values that is in any way special, with biases and gradients that are.
    pub fn extreme(kind: Kind) -> Self {
        let mut values = Numbers::SPECIAL.to_vec();
        values.extend([
            f64::INFINITY,
            f64::NEG_INFINITY,
            f64::NAN,
            88.0,
            -88.0,
            -104.0,
            1e38,
            -1e38,
            1e-38,
            -1e-38,
            0.5,
            -0.5,
        ]);
        let biases = [0.0, -0.0, 0.5, -0.5, 1e-20, -100.0, f64::INFINITY, f64::NAN];
        let seeds = [1.0, -2.0, 0.0, -0.0, 1e-20, f64::INFINITY, f64::NAN];
        let (channels, pixels) = (biases.len(), values.len() * seeds.len());
        let of_pixel = |values: &[f64], each: usize| -> Vec<f64> {
            (0..pixels * channels).map(|n| values[n / channels / each % values.len()]).collect()
        };
        let rounded = |values: &[f64]| rounded(kind, values).expect("libtorch rounds numbers");
        let (x, seed) = (rounded(&of_pixel(&values, 1)), rounded(&of_pixel(&seeds, values.len())));
        Self { kind, channels, pixels, x, bias: rounded(&biases), seed }
    }

    /// Few pixels and odd numbers of them; and so many that on the host every block's threads go round twice and then take what is
    /// left, some one more than others.
    pub fn pixels(kind: Kind, channels: usize) -> [usize; 9] {
        let groups = (THREADS * lanes(kind) / channels).max(1);
        let round = BLOCKS * groups;
        [1, 2, 3, 7, 35, 255, 257, 2 * AT_ONCE * round + 3 * round - 1, 2 * AT_ONCE * round + round / 2 + 1]
    }

    /// Whether the kernels are for such a tensor.
    pub fn fits(&self) -> bool {
        self.channels.is_multiple_of(lanes(self.kind)) && self.channels / lanes(self.kind) <= THREADS
    }

    fn image(&self, values: &[f64]) -> Result<Tensor> {
        let shape = [1, 1, i64::try_from(self.pixels)?, i64::try_from(self.channels)?];
        Ok(Tensor::from_slice(values).f_to_kind(self.kind)?.f_view(shape)?.f_permute([0, 3, 1, 2])?)
    }

    fn bias(&self) -> Result<Tensor> {
        Ok(Tensor::from_slice(&self.bias).f_to_kind(self.kind)?)
    }

    /// The inputs of the forward pass on this device.
    pub fn inputs(&self, device: Device) -> Result<(Tensor, Tensor)> {
        Ok((self.image(&self.x)?.f_to_device(device)?, self.bias()?.f_to_device(device)?))
    }

    /// The operation on this device.
    pub fn run(&self, device: Device) -> Result<Found> {
        let (x, bias) = self.inputs(device)?;
        Self::run_on(&x, &bias, &self.image(&self.seed)?.f_to_device(device)?)
    }

    /// The same on the host with NaN before and behind what is read and what is written in place.
    pub fn run_between_nans(&self) -> Result<Found> {
        let (pixels, channels) = (i64::try_from(self.pixels)?, i64::try_from(self.channels)?);
        let between = |values: &[f64]| -> Result<(Tensor, Tensor)> {
            let room = Tensor::f_full([pixels + 4, channels], f64::NAN, (self.kind, Device::Cpu))?;
            let inside = room.f_narrow(0, 2, pixels)?.f_view([1, 1, pixels, channels])?.f_permute([0, 3, 1, 2])?;
            inside.shallow_clone().f_copy_(&self.image(values)?)?;
            Ok((room, inside))
        };
        let ((room, x), (_, seed)) = (between(&self.x)?, between(&self.seed)?);
        let found = Self::run_on(&x, &self.bias()?, &seed)?;
        let y = fused::bias_elu(&x, &self.bias()?)?;
        for outside in [room.f_narrow(0, 0, 2)?, room.f_narrow(0, pixels + 2, 2)?] {
            if !bool::try_from(outside.f_isnan()?.f_all()?)? {
                return Err(format!("{self}: something was written outside").into());
            }
        }
        Ok(Found { y: numbers(&y)?, ..found })
    }

    fn run_on(x: &Tensor, bias: &Tensor, seed: &Tensor) -> Result<Found> {
        let leaf = |tensor: &Tensor| tensor.f_detach()?.f_set_requires_grad(true);
        let (x, bias) = (leaf(x)?, leaf(bias)?);
        // In the place of a tensor that is not a leaf, as after a convolution.
        let y = fused::bias_elu(&x.f_mul_scalar(1.0)?, &bias)?;
        let gradients = torch_ext::grad(&y, Some(seed), &[&x, &bias])?;
        Ok(Found { y: numbers(&y)?, gradient: numbers(&gradients[0])?, bias: numbers(&gradients[1])? })
    }

    /// What libtorch's operations give, one after the other.
    pub fn libtorchs_way(&self) -> Result<Found> {
        let y = (self.image(&self.x)? + self.bias()?.f_view([1, -1, 1, 1])?).f_elu()?;
        let gradient = Tensor::f_elu_backward(&self.image(&self.seed)?, 1, 1, 1, true, &y)?;
        let bias = gradient.f_sum_dim_intlist([0i64, 2, 3].as_slice(), false, None::<Kind>)?;
        Ok(Found { y: numbers(&y)?, gradient: numbers(&gradient)?, bias: numbers(&bias)? })
    }

    /// In f64: ELU, and its gradient where it gave `y`.
    fn exact(&self, y: &[f64]) -> Result<(Vec<f64>, Vec<f64>)> {
        let wide = |values: &[f64]| {
            Ok::<_, Box<dyn Error>>(Tensor::from_slice(values).f_view([-1, i64::try_from(self.channels)?])?)
        };
        let exact = (wide(&self.x)? + Tensor::from_slice(&self.bias)).f_elu()?;
        let gradient = Tensor::f_elu_backward(&wide(&self.seed)?, 1, 1, 1, true, &wide(y)?)?;
        let mut gradient = numbers(&gradient)?;
        // libtorch itself is of two minds about the gradient where y is NaN: the seed or NaN. It must not get lost.
        gradient.iter_mut().zip(y).filter(|(_, y)| y.is_nan()).for_each(|(gradient, _)| *gradient = f64::NAN);
        Ok((numbers(&exact)?, gradient))
    }

    /// Fails where a bound does not hold.
    pub fn check(&self, found: &Found, worst: &mut Worst) -> Result<()> {
        let (exact, gradient) = self.exact(&found.y)?;
        let place = |n: usize| format!("{self}: pixel {}, channel {}", n / self.channels, n % self.channels);
        for (n, (&found, &exact)) in found.y.iter().zip(&exact).enumerate() {
            let checked = Bound::of_value(self.kind, exact).check(found, exact, &mut worst.value);
            checked.map_err(|why| format!("{}, x {:e}, value {why}", place(n), self.x[n]))?;
        }
        for (n, (&found, &exact)) in found.gradient.iter().zip(&gradient).enumerate() {
            let checked = Bound::of_gradient(self.kind, exact).check(found, exact, &mut worst.gradient);
            checked.map_err(|why| format!("{}, gradient {why}", place(n)))?;
        }
        for (channel, &found) in found.bias.iter().enumerate() {
            let terms = || gradient.iter().skip(channel).step_by(self.channels);
            let (exact, sizes) = (terms().sum::<f64>(), terms().map(|term| term.abs()).sum());
            let checked = Bound::of_sum(self.kind, self.depth(), sizes).check(found, exact, &mut worst.bias);
            checked.map_err(|why| format!("{self}: gradient of the bias in channel {channel} {why}"))?;
        }
        Ok(())
    }

    /// How many additions a term of the bias's gradient goes through: its thread's, its block's over the threads, and those over the
    /// blocks; on whatever has `BLOCKS` blocks or more.
    fn depth(&self) -> f64 {
        let groups = THREADS / (self.channels / lanes(self.kind));
        let blocks = self.pixels.div_ceil(AT_ONCE * groups);
        let of_thread = self.pixels.div_ceil(groups * blocks.min(BLOCKS));
        (of_thread + groups + blocks) as f64
    }

    /// Fails where a zero has another sign than libtorch's.
    pub fn check_zeros(&self, found: &Found) -> Result<()> {
        let (exact, gradient) = self.exact(&found.y)?;
        for (found, exact) in found.y.iter().zip(&exact).chain(found.gradient.iter().zip(&gradient)) {
            if *exact == 0.0 && found.is_sign_negative() != exact.is_sign_negative() {
                return Err(format!("{self}: {found:?} for {exact:?}").into());
            }
        }
        Ok(())
    }
}
