//! Shapes and colours on a square of 100 by 100 units, y downwards.
//!
//! What is painted moves with the person's pose; the backdrop does not. Outlines are written as in SVG: absolute
//! `M`, `L`, `Q`, `C` become method calls. A shape that degenerates is not painted, and nothing fails.

use image::RgbImage;
use tiny_skia::{
    Color, FillRule, GradientStop, LineCap, LineJoin, LinearGradient, Mask, Paint, Path, PathBuilder, Pixmap, Point,
    Rect, Shader, SpreadMode, Stroke, Transform,
};

/// An opaque colour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Colour(pub(super) [u8; 3]);

impl Colour {
    pub(super) const WHITE: Self = Self([252, 252, 250]);

    /// `amount` of the way to `other`.
    pub(super) fn mix(self, other: Self, amount: f32) -> Self {
        let mix = |a: u8, b: u8| (f32::from(a) + (f32::from(b) - f32::from(a)) * amount + 0.5) as u8;
        let ([a, b, c], [d, e, f]) = (self.0, other.0);
        Self([mix(a, d), mix(b, e), mix(c, f)])
    }

    /// Towards black.
    pub(super) fn darker(self, amount: f32) -> Self {
        self.mix(Self([12, 8, 16]), amount)
    }

    /// Towards white.
    pub(super) fn lighter(self, amount: f32) -> Self {
        self.mix(Self([255, 255, 255]), amount)
    }

    /// How bright it looks, from 0 to 255.
    pub(super) fn brightness(self) -> f32 {
        let [red, green, blue] = self.0.map(f32::from);
        0.3 * red + 0.59 * green + 0.11 * blue
    }

    fn opaque(self) -> Color {
        self.with_alpha(1.0)
    }

    fn with_alpha(self, alpha: f32) -> Color {
        let [red, green, blue] = self.0;
        let mut colour = Color::from_rgba8(red, green, blue, 255);
        colour.set_alpha(alpha);
        colour
    }
}

/// An outline in the making.
pub(super) struct Outline(PathBuilder);

impl Outline {
    pub(super) fn from(x: f32, y: f32) -> Self {
        let mut path = PathBuilder::new();
        path.move_to(x, y);
        Self(path)
    }

    pub(super) fn line(mut self, x: f32, y: f32) -> Self {
        self.0.line_to(x, y);
        self
    }

    pub(super) fn quad(mut self, x1: f32, y1: f32, x: f32, y: f32) -> Self {
        self.0.quad_to(x1, y1, x, y);
        self
    }

    pub(super) fn cubic(mut self, x1: f32, y1: f32, x2: f32, y2: f32, x: f32, y: f32) -> Self {
        self.0.cubic_to(x1, y1, x2, y2, x, y);
        self
    }

    pub(super) fn closed(mut self) -> Option<Path> {
        self.0.close();
        self.0.finish()
    }

    pub(super) fn open(self) -> Option<Path> {
        self.0.finish()
    }
}

/// A rectangle with rounded corners.
pub(super) fn rounded(x: f32, y: f32, width: f32, height: f32, radius: f32) -> Option<Path> {
    let (right, bottom) = (x + width, y + height);
    Outline::from(x + radius, y)
        .line(right - radius, y)
        .quad(right, y, right, y + radius)
        .line(right, bottom - radius)
        .quad(right, bottom, right - radius, bottom)
        .line(x + radius, bottom)
        .quad(x, bottom, x, bottom - radius)
        .line(x, y + radius)
        .quad(x, y, x + radius, y)
        .closed()
}

/// How the person sits in the frame.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pose {
    /// Shift, in units.
    pub(super) shift: [f32; 2],
    pub(super) scale: f32,
    /// Tilt of the head, in radians; small.
    pub(super) tilt: f32,
}

/// What is painted on.
pub(super) struct Canvas {
    pixels: Pixmap,
    factor: u32,
    /// From units to pixels of the pixmap, without the pose.
    frame: Transform,
    /// The same with the pose.
    posed: Transform,
    clip: Option<Mask>,
}

impl Canvas {
    /// A canvas for an image of `size`, painted `factor` times as large.
    pub(super) fn new(size: u32, factor: u32, pose: Pose) -> Self {
        let side = size * factor;
        // There is a pixmap for every side from 1 to 2^14, and `face` asks for none beyond.
        let pixels = Pixmap::new(side, side).expect("a canvas has a side from 1 to 16384 pixels");
        let unit = side as f32 / 100.0;
        let frame = Transform::from_scale(unit, unit);
        // Series of sine and cosine: for these few degrees exact to a thousandth of a unit, and the same everywhere.
        let tilt = pose.tilt;
        let (sine, cosine) = (tilt - tilt * tilt * tilt / 6.0, 1.0 - tilt * tilt / 2.0);
        let turn = Transform::from_row(cosine, sine, -sine, cosine, 0.0, 0.0);
        let posed = frame
            .pre_translate(50.0 + pose.shift[0], 60.0 + pose.shift[1])
            .pre_concat(turn)
            .pre_scale(pose.scale, pose.scale)
            .pre_translate(-50.0, -60.0);
        Self { pixels, factor, frame, posed, clip: None }
    }

    /// The image, reduced to its size.
    pub(super) fn reduced(&self) -> RgbImage {
        let (side, factor) = (self.pixels.width() / self.factor, self.factor);
        let (data, stride) = (self.pixels.data(), self.pixels.width() as usize * 4);
        let area = factor * factor;
        let mut image = Vec::with_capacity((side * side * 3) as usize);
        for y in 0..side {
            for x in 0..side {
                let mut sums = [area / 2; 3];
                for row in 0..factor {
                    let start = (y * factor + row) as usize * stride + (x * factor) as usize * 4;
                    for pixel in data[start..start + factor as usize * 4].chunks_exact(4) {
                        sums.iter_mut().zip(pixel).for_each(|(sum, &value)| *sum += u32::from(value));
                    }
                }
                image.extend(sums.map(|sum| (sum / area) as u8));
            }
        }
        RgbImage::from_raw(side, side, image).unwrap_or_default()
    }

    /// Paints only inside `path` from now on, or everywhere again.
    pub(super) fn clip(&mut self, path: Option<&Path>) {
        self.clip = path.and_then(|path| {
            let mut mask = Mask::new(self.pixels.width(), self.pixels.height())?;
            mask.fill_path(path, FillRule::Winding, true, self.posed);
            Some(mask)
        });
    }

    pub(super) fn fill(&mut self, path: Option<Path>, colour: Colour) {
        self.fill_with(path, Shader::SolidColor(colour.opaque()));
    }

    /// Lays a colour over what is there.
    pub(super) fn tint(&mut self, path: Option<Path>, colour: Colour, alpha: f32) {
        self.fill_with(path, Shader::SolidColor(colour.with_alpha(alpha)));
    }

    /// Lays a colour over what is there that fades from the middle of a circle to its edge.
    ///
    /// Done here pixel by pixel: a gradient shader takes ten times as long for the same.
    pub(super) fn glow(&mut self, x: f32, y: f32, radius: f32, colour: Colour, alpha: f32) {
        let mut centre = Point::from_xy(x, y);
        self.posed.map_point(&mut centre);
        let (side, radius) = (self.pixels.width() as usize, radius * self.posed.get_scale().0);
        let within = |from: f32| {
            let last = side as f32;
            (from - radius).clamp(0.0, last) as usize..(from + radius + 1.0).clamp(0.0, last) as usize
        };
        let colour = colour.0.map(f32::from);
        for row in within(centre.y) {
            let down = row as f32 + 0.5 - centre.y;
            let columns = within(centre.x);
            let first = row * side + columns.start;
            let mask = self.clip.as_ref().map(|mask| &mask.data()[row * side..][..side]);
            let pixels = self.pixels.data_mut()[first * 4..].chunks_exact_mut(4);
            for (column, pixel) in columns.zip(pixels) {
                let across = column as f32 + 0.5 - centre.x;
                let near = (1.0 - (across * across + down * down) / (radius * radius)).max(0.0);
                let covered = mask.map_or(1.0, |mask| f32::from(mask[column]) / 255.0);
                let share = alpha * near * near.sqrt() * covered;
                for (value, colour) in pixel.iter_mut().zip(colour) {
                    *value = (f32::from(*value) * (1.0 - share) + colour * share + 0.5) as u8;
                }
            }
        }
    }

    fn fill_with(&mut self, path: Option<Path>, shader: Shader<'_>) {
        if let Some(path) = path {
            let paint = Paint { shader, ..Paint::default() };
            self.pixels.fill_path(&path, &paint, FillRule::Winding, self.posed, self.clip.as_ref());
        }
    }

    pub(super) fn ellipse(&mut self, x: f32, y: f32, across: f32, down: f32, colour: Colour) {
        self.fill(oval(x, y, across, down), colour);
    }

    /// A line with round ends.
    pub(super) fn stroke(&mut self, path: Option<Path>, colour: Colour, width: f32) {
        if let Some(path) = path {
            let paint = Paint { shader: Shader::SolidColor(colour.opaque()), ..Paint::default() };
            let stroke = Stroke { width, line_cap: LineCap::Round, line_join: LineJoin::Round, ..Stroke::default() };
            self.pixels.stroke_path(&path, &paint, &stroke, self.posed, self.clip.as_ref());
        }
    }

    /// Fills the frame, from `from` at `start` to `to` at `end`. Not posed.
    pub(super) fn flood(&mut self, from: Colour, to: Colour, start: [f32; 2], end: [f32; 2]) {
        if from == to {
            self.pixels.fill(from.opaque());
            return;
        }
        let stops = vec![GradientStop::new(0.0, from.opaque()), GradientStop::new(1.0, to.opaque())];
        let point = |[x, y]: [f32; 2]| Point::from_xy(x, y);
        let shader = LinearGradient::new(point(start), point(end), stops, SpreadMode::Pad, Transform::identity());
        let everything = Rect::from_xywh(-1.0, -1.0, 102.0, 102.0).map(PathBuilder::from_rect);
        if let (Some(shader), Some(path)) = (shader, everything) {
            // Without antialiasing: half a pixel of transparency at the rim would show as black.
            let paint = Paint { shader, anti_alias: false, ..Paint::default() };
            self.pixels.fill_path(&path, &paint, FillRule::Winding, self.frame, None);
        }
    }

    /// Paints on the backdrop. Not posed.
    pub(super) fn fill_behind(&mut self, path: Option<Path>, colour: Colour) {
        if let Some(path) = path {
            let paint = Paint { shader: Shader::SolidColor(colour.opaque()), ..Paint::default() };
            self.pixels.fill_path(&path, &paint, FillRule::Winding, self.frame, None);
        }
    }
}

/// An ellipse around (x, y), `across` and `down` being its half axes.
pub(super) fn oval(x: f32, y: f32, across: f32, down: f32) -> Option<Path> {
    Rect::from_ltrb(x - across, y - down, x + across, y + down).and_then(PathBuilder::from_oval)
}
