//! A 3x3 kernel seen from a lower resolution: the small linear maps behind [`crate::upsampled`].
//!
//! Where an image was enlarged by repeating pixels, the nine taps of a 3x3 kernel fall on fewer distinct pixels. Which taps fall
//! together depends on where the output lies between the pixels of the small image, in each direction on its own. Each map
//! gives, for all cases, the sums of taps; being linear, its transpose carries the gradient back to the 3x3 kernel.

use anyhow::Result;
use tch::{Device, Kind, Tensor};

/// In one direction: for each case, for each pixel of the small image, which of the three taps fall on it.
type Line = &'static [&'static [[u8; 3]]];

/// Nearest x2: an output sees two pixels. First the case that sees its own pixel and the next, then the one that sees the one
/// before and its own: so the outputs of one position of a padded 2x2 convolution lie beside each other.
const PHASES: Line = &[&[[1, 1, 0], [0, 0, 1]], &[[1, 0, 0], [0, 1, 1]]];
/// As a transposed convolution with stride 2: one case, four taps.
const STRIDED: Line = &[&[[0, 0, 1], [0, 1, 1], [1, 1, 0], [1, 0, 0]]];
/// Enlarged by 4 or more: the first output of a block, those in its middle, the last; each over three pixels.
const BLOCKS: Line =
    &[&[[1, 0, 0], [0, 1, 1], [0, 0, 0]], &[[0, 0, 0], [1, 1, 1], [0, 0, 0]], &[[0, 0, 0], [1, 1, 0], [0, 0, 1]]];

/// Sums of a 3x3 kernel's taps.
#[derive(Debug)]
pub struct TapSums {
    /// `[cases * cases * pixels * pixels, 9]`, of zeros and ones.
    map: Tensor,
}

impl TapSums {
    /// Four 2x2 kernels, `[2, 2]` cases; see `PHASES` for their order.
    ///
    /// # Errors
    /// If memory is short.
    pub fn phases(kind: Kind, device: Device) -> Result<Self> {
        Self::new(PHASES, kind, device)
    }

    /// One 4x4 kernel of a transposed convolution with stride 2 and padding 1.
    ///
    /// # Errors
    /// If memory is short.
    pub fn strided(kind: Kind, device: Device) -> Result<Self> {
        Self::new(STRIDED, kind, device)
    }

    /// Nine 3x3 kernels over the small image, `[3, 3]` cases: first, middle and last row and column of a block.
    ///
    /// # Errors
    /// If memory is short.
    pub fn blocks(kind: Kind, device: Device) -> Result<Self> {
        Self::new(BLOCKS, kind, device)
    }

    fn new(line: Line, kind: Kind, device: Device) -> Result<Self> {
        let mut map = Vec::new();
        for (rows, columns) in line.iter().flat_map(|rows| line.iter().map(move |columns| (rows, columns))) {
            for (row, column) in rows.iter().flat_map(|row| columns.iter().map(move |column| (row, column))) {
                map.extend(row.iter().flat_map(|down| column.iter().map(move |across| f64::from(down * across))));
            }
        }
        Ok(Self { map: Tensor::f_from_slice(&map)?.f_view([-1, 9])?.f_to_kind(kind)?.f_to_device(device)? })
    }

    /// `[O,C,3,3]` to `[O, cases * cases * pixels * pixels, C]`, taken in the kernel's own kind and given in `kind`.
    ///
    /// # Errors
    /// If memory is short.
    pub fn of(&self, kernel: &Tensor, kind: Kind) -> Result<Tensor> {
        let (outputs, inputs, _, _) = kernel.size4()?;
        // Nothing is moved where the input channels lie innermost.
        let taps = kernel.f_permute([0, 2, 3, 1])?.f_reshape([outputs, 9, inputs])?;
        Ok(self.map.f_matmul(&taps)?.f_to_kind(kind)?)
    }
}
