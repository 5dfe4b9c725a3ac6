//! Hair and hats: what is seen first, and from furthest away. Part of it hangs behind the head and part lies on it.

use tiny_skia::Path;

use super::canvas::{Canvas, Colour, Outline};
use super::head::TOP;
use super::person::{Hair, Person};

/// What hangs behind the head and shoulders.
pub(super) fn paint_behind(canvas: &mut Canvas, person: &Person) {
    let (w, volume) = (person.width, person.volume);
    let dark = person.hair_colour.darker(0.22);
    match person.hair {
        Hair::Long | Hair::LongFringe => canvas.fill(curtain(w + 6.0 + 3.0 * volume, 104.0, 0.0), dark),
        Hair::Waves => {
            let wide = w + 8.0 + 3.0 * volume;
            canvas.fill(curtain(wide, 96.0, 0.0), dark);
            for side in [-1.0, 1.0] {
                for curl in 0..5 {
                    let y = 44.0 + 12.0 * curl as f32;
                    canvas.ellipse(50.0 + side * (wide - 1.0), y, 7.0, 8.0, dark);
                }
            }
        }
        Hair::Bob => canvas.fill(curtain(w + 6.5 + 2.5 * volume, 74.0 + 8.0 * volume, 9.0), dark),
        Hair::Afro => {
            let radius = 38.0 + 4.0 * volume;
            canvas.ellipse(50.0, 37.0, radius, radius - 2.0, person.hair_colour);
            for bump in AROUND {
                let (x, y) = (50.0 + bump[0] * radius, 37.0 + bump[1] * (radius - 2.0));
                canvas.ellipse(x, y, 6.5, 6.5, person.hair_colour);
            }
        }
        Hair::Bun => {
            canvas.ellipse(50.0 + 2.0 * person.side, 10.0, 11.0 + 2.0 * volume, 10.0, person.hair_colour);
            canvas.ellipse(50.0 + 2.0 * person.side, 16.5, 7.0, 3.0, dark);
        }
        Hair::Pigtails => {
            for side in [-1.0, 1.0] {
                let x = 50.0 + side * (w + 9.0);
                canvas.ellipse(x + side * 2.0, 58.0 + 4.0 * volume, 8.5, 18.0 + 4.0 * volume, person.hair_colour);
                canvas.ellipse(x - side * 1.5, 38.0, 4.2, 4.2, person.clothes);
            }
        }
        _ => {}
    }
}

/// Sixteen directions around a circle.
const AROUND: [[f32; 2]; 16] = [
    [1.0, 0.0],
    [0.924, 0.383],
    [0.707, 0.707],
    [0.383, 0.924],
    [0.0, 1.0],
    [-0.383, 0.924],
    [-0.707, 0.707],
    [-0.924, 0.383],
    [-1.0, 0.0],
    [-0.924, -0.383],
    [-0.707, -0.707],
    [-0.383, -0.924],
    [0.0, -1.0],
    [0.383, -0.924],
    [0.707, -0.707],
    [0.924, -0.383],
];

/// Hair falling on both sides to `end`, its ends turned in by `inward`.
fn curtain(w: f32, end: f32, inward: f32) -> Option<Path> {
    let top = TOP - 8.0;
    Outline::from(50.0, top)
        .cubic(50.0 + 0.72 * w, top, 50.0 + w, 28.0, 50.0 + w, 52.0)
        .cubic(50.0 + w + 1.0, end - 12.0, 50.0 + w - inward * 0.2, end - 2.0, 50.0 + w - inward, end)
        .line(50.0 - w + inward, end)
        .cubic(50.0 - w + inward * 0.2, end - 2.0, 50.0 - w - 1.0, end - 12.0, 50.0 - w, 52.0)
        .cubic(50.0 - w, 28.0, 50.0 - 0.72 * w, top, 50.0, top)
        .closed()
}

/// The outer line of hair that lies on the head, from the left temple over the top to the right one. It stands off
/// by `off` at the sides and `high` at the top, and ends at the height `end`.
fn crown(w: f32, off: f32, high: f32, end: f32) -> Outline {
    let (outer, top) = (w + off, TOP - high);
    Outline::from(50.0 - w + 1.6, end)
        .quad(50.0 - outer, end - 2.0, 50.0 - outer, 42.0)
        .cubic(50.0 - outer, 28.0, 50.0 - 0.68 * outer, top, 50.0, top)
        .cubic(50.0 + 0.68 * outer, top, 50.0 + outer, 28.0, 50.0 + outer, 42.0)
        .quad(50.0 + outer, end - 2.0, 50.0 + w - 1.6, end)
}

/// What lies on the head.
pub(super) fn paint_front(canvas: &mut Canvas, person: &Person) {
    let (w, side, volume) = (person.width, person.side, person.volume);
    let x = person.middle();
    let colour = person.hair_colour;
    match person.hair {
        Hair::Bald => {
            canvas.glow(50.0 - side * 9.0, 27.0, 10.0, Colour::WHITE, 0.35);
        }
        Hair::Buzz => {
            let hair = crown(w, 0.8, 0.8, 47.0)
                .cubic(50.0 + w - 3.0, 38.0, x + 18.0, 31.0, x + 8.0, 31.5)
                .quad(x, 33.0, x - 8.0, 31.5)
                .cubic(x - 18.0, 31.0, 50.0 - w + 3.0, 38.0, 50.0 - w + 1.6, 47.0)
                .closed();
            canvas.fill(hair, person.skin.mix(colour, 0.72));
        }
        Hair::SideParting => {
            let hair = crown(w, 2.6, 5.0 + 3.0 * volume, 54.0);
            canvas.fill(parted(hair, w, x, side), colour);
            shine(canvas, person, 6.0);
        }
        Hair::Quiff => {
            let hair = crown(w, 1.6, 3.0, 52.0);
            let line = hair
                .cubic(50.0 + w - 4.0, 44.0, x + 20.0, 33.0, x + 12.0, 32.0)
                .quad(x, 29.0, x - 12.0, 32.0)
                .cubic(x - 20.0, 33.0, 50.0 - w + 4.0, 44.0, 50.0 - w + 1.6, 52.0)
                .closed();
            canvas.fill(line, colour.darker(0.15));
            let height = 7.0 + 6.0 * volume;
            let wave = Outline::from(x - side * 21.0, 33.0)
                .cubic(x - side * 25.0, TOP - height, x + side * 8.0, TOP - height - 5.0, x + side * 25.0, TOP - 2.0)
                .cubic(x + side * 30.0, 22.0, x + side * 24.0, 32.0, x + side * 17.0, 33.0)
                .cubic(x + side * 6.0, 26.0, x - side * 8.0, 29.0, x - side * 21.0, 33.0)
                .closed();
            canvas.fill(wave, colour);
        }
        Hair::Fringe => {
            let hair = crown(w, 3.6, 6.0 + 2.0 * volume, 60.0);
            canvas.fill(fringed(hair, w, x, person.eye_line() - 12.0, 60.0), colour);
            shine(canvas, person, 5.0);
        }
        Hair::Curls => {
            let (radius, high) = (7.6 + 1.8 * volume, 3.0 + 2.0 * volume);
            let cap = crown(w, 1.0, 2.0, 48.0)
                .quad(50.0 + w - 4.0, 34.0, x, 32.0)
                .quad(50.0 - w + 4.0, 34.0, 50.0 - w + 1.6, 48.0)
                .closed();
            canvas.fill(cap, colour);
            for curl in 0..9 {
                let along = curl as f32 / 4.0 - 1.0;
                let y = TOP - high + 24.0 * along * along;
                canvas.ellipse(50.0 + along * (w + 1.0), y + 3.0, radius, radius, colour);
            }
            for curl in 0..6 {
                let along = curl as f32 / 2.5 - 1.0;
                canvas.ellipse(x + along * (w - 8.0), 29.0 + 7.0 * along * along, 6.0, 5.6, colour);
            }
            for curl in 0..4 {
                let along = curl as f32 / 1.5 - 1.0;
                canvas.ellipse(50.0 + along * 17.0, 19.0 + 7.0 * along * along, 3.4, 2.8, colour.lighter(0.13));
            }
        }
        Hair::Spikes => {
            let height = 8.0 + 6.0 * volume;
            let mut hair = Outline::from(50.0 - w + 1.6, 52.0).line(50.0 - w - 2.4, 36.0);
            for spike in 0..6 {
                let along = spike as f32 / 2.5 - 1.0;
                let base = TOP + 3.0 + 13.0 * along * along;
                let (left, tip) = (50.0 + along * (w - 1.0) - 5.6, 50.0 + along * (w + 6.0) + side * 2.5);
                hair = hair.line(left, base).line(tip, base - height);
            }
            let hair = hair
                .line(50.0 + w + 2.4, 36.0)
                .line(50.0 + w - 1.6, 52.0)
                .cubic(50.0 + w - 4.0, 42.0, x + 19.0, 35.0, x + 14.0, 33.0)
                .line(x + 9.0, 37.0)
                .line(x + 3.0, 32.0)
                .line(x - 4.0, 37.0)
                .line(x - 9.0, 32.0)
                .line(x - 14.0, 35.0)
                .cubic(x - 19.0, 35.0, 50.0 - w + 4.0, 42.0, 50.0 - w + 1.6, 52.0)
                .closed();
            canvas.fill(hair, colour);
        }
        Hair::Bob => {
            let end = 70.0 + 6.0 * volume;
            let hair = crown(w, 5.0 + 2.0 * volume, 7.0, end);
            canvas.fill(fringed(hair, w - 1.0, x, person.eye_line() - 12.5, end), colour);
            shine(canvas, person, 6.0);
        }
        Hair::Long | Hair::Waves => {
            let end = 82.0;
            let off = if person.hair == Hair::Waves { 6.0 } else { 4.5 };
            let hair = crown(w, off + 2.0 * volume, 6.0 + 2.0 * volume, end);
            canvas.fill(centre_parted(hair, w, x, side, end), colour);
            shine(canvas, person, 6.0);
        }
        Hair::LongFringe => {
            let end = 84.0;
            let hair = crown(w, 4.5 + 2.0 * volume, 7.0, end);
            canvas.fill(fringed(hair, w - 1.0, x, person.eye_line() - 12.0, end), colour);
            shine(canvas, person, 6.0);
        }
        Hair::Afro => {
            let cap = crown(w, 2.0, 6.0, 48.0)
                .quad(50.0 + w - 3.0, 33.0, x, 30.0)
                .quad(50.0 - w + 3.0, 33.0, 50.0 - w + 1.6, 48.0)
                .closed();
            canvas.fill(cap, colour);
            for curl in 0..7 {
                let along = curl as f32 / 3.0 - 1.0;
                canvas.ellipse(x + along * (w - 5.0), 30.0 + 9.0 * along * along, 4.6, 4.0, colour);
            }
            canvas.glow(50.0 - side * 10.0, 16.0, 26.0, colour.lighter(0.4), 0.3);
        }
        Hair::Bun => {
            let hair = crown(w, 1.8, 4.0, 52.0)
                .cubic(50.0 + w - 3.0, 38.0, x + 16.0, 30.0, x, 29.0)
                .cubic(x - 16.0, 30.0, 50.0 - w + 3.0, 38.0, 50.0 - w + 1.6, 52.0)
                .closed();
            canvas.fill(hair, colour);
            shine(canvas, person, 4.0);
        }
        Hair::Pigtails => {
            let hair = crown(w, 2.6, 5.0, 54.0);
            canvas.fill(centre_parted(hair, w, x, 0.0, 54.0), colour);
            shine(canvas, person, 4.0);
        }
        Hair::Beanie => {
            let (wool, rim) = (person.clothes.darker(0.08), person.clothes.lighter(0.35));
            for side in [-1.0, 1.0] {
                let lock = Outline::from(50.0 + side * (w + 1.8), 34.0)
                    .line(50.0 + side * (w + 1.4), 50.0)
                    .line(50.0 + side * (w - 3.4), 48.0)
                    .line(50.0 + side * (w - 5.0), 34.0)
                    .closed();
                canvas.fill(lock, colour);
            }
            canvas.ellipse(50.0, TOP - 10.0 - 3.0 * volume, 6.0, 5.6, rim);
            canvas.fill(crown(w, 3.4, 8.0 + 3.0 * volume, 38.0).closed(), wool);
            let band = Outline::from(50.0 - w - 3.8, 29.0)
                .quad(50.0, 24.0, 50.0 + w + 3.8, 29.0)
                .line(50.0 + w + 3.8, 38.0)
                .quad(50.0, 33.0, 50.0 - w - 3.8, 38.0)
                .closed();
            canvas.fill(band, rim);
        }
    }
}

/// Ends a crown with a hairline that falls from a parting on one side.
fn parted(hair: Outline, w: f32, x: f32, side: f32) -> Option<Path> {
    let (part, low) = (x + side * 10.0, 40.0);
    let (left, right) = (50.0 - w + 1.6, 50.0 + w - 1.6);
    if side > 0.0 {
        hair.quad(right - 2.4, 38.0, part, 27.5).cubic(x - 4.0, 38.0, x - 16.0, low, left + 4.0, low).line(left, 54.0)
    } else {
        hair.line(right - 4.0, low).cubic(x + 16.0, low, x + 4.0, 38.0, part, 27.5).quad(left + 2.4, 38.0, left, 54.0)
    }
    .closed()
}

/// Ends a crown with a parting near the middle; the hair falls past the temples to `end`.
fn centre_parted(hair: Outline, w: f32, x: f32, side: f32, end: f32) -> Option<Path> {
    let (left, right, part) = (50.0 - w + 1.6, 50.0 + w - 1.6, x + side * 4.0);
    hair.cubic(right + 1.0, 62.0, right - 1.0, 40.0, part, 26.5)
        .cubic(left + 1.0, 40.0, left - 1.0, 62.0, left, end)
        .closed()
}

/// Ends a crown with a fringe down to `brow`.
fn fringed(hair: Outline, w: f32, x: f32, brow: f32, end: f32) -> Option<Path> {
    let (left, right) = (50.0 - w + 1.6, 50.0 + w - 1.6);
    hair.cubic(right + 1.0, 58.0, right - 1.0, brow + 6.0, right - 4.0, brow + 2.0)
        .quad(x, brow - 4.0, left + 4.0, brow + 2.0)
        .cubic(left + 1.0, brow + 6.0, left - 1.0, 58.0, left, end)
        .closed()
}

/// Light on smooth hair.
fn shine(canvas: &mut Canvas, person: &Person, high: f32) {
    let (x, y) = (50.0 - person.side * 12.0, TOP + 4.0 - high * 0.5);
    let light = person.hair_colour.lighter(0.22);
    let streak = Outline::from(x - 8.0, y + 5.0).quad(x - 1.0, y - 1.5, x + 9.0, y - 1.0).open();
    canvas.stroke(streak, light, 2.6);
}
