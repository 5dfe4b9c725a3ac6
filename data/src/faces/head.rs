//! Head, ears, neck and shoulders.

use tiny_skia::Path;

use super::canvas::{Canvas, Colour, Outline, oval};
use super::person::{Neckline, Person};

/// The top of the skull.
pub(super) const TOP: f32 = 19.0;

/// Where the head is widest.
const WIDEST: f32 = 50.0;

/// The outline of the head, larger by `more` units.
pub(super) fn outline(person: &Person, more: f32) -> Option<Path> {
    let (w, top, chin) = (person.width + more, TOP - more, person.chin + more);
    let drop = 0.55 + 0.2 * person.jaw;
    let jaw = 0.42 + 0.3 * person.jaw;
    let cheek = WIDEST + drop * (chin - WIDEST);
    Outline::from(50.0, top)
        .cubic(50.0 + 0.62 * w, top, 50.0 + w, top + 0.3 * (WIDEST - top), 50.0 + w, WIDEST)
        .cubic(50.0 + w, cheek, 50.0 + jaw * w, chin, 50.0, chin)
        .cubic(50.0 - jaw * w, chin, 50.0 - w, cheek, 50.0 - w, WIDEST)
        .cubic(50.0 - w, top + 0.3 * (WIDEST - top), 50.0 - 0.62 * w, top, 50.0, top)
        .closed()
}

pub(super) fn paint(canvas: &mut Canvas, person: &Person) {
    canvas.fill(outline(person, 0.0), person.skin);
    canvas.clip(outline(person, 0.0).as_ref());
    // The side away from the light.
    let shade = person.skin.darker(0.55).mix(Colour([150, 50, 40]), 0.35);
    canvas.glow(50.0 + person.side * (person.width + 10.0), 66.0, 34.0, shade, 0.42);
    if person.blush > 0.0 {
        let (middle, y) = (person.middle(), person.eye_line() + 14.0);
        for side in [-1.0, 1.0] {
            canvas.glow(middle + side * 17.0, y, 8.5, Colour([236, 80, 90]), person.blush);
        }
    }
    canvas.clip(None);
}

pub(super) fn paint_ears(canvas: &mut Canvas, person: &Person) {
    for side in [-1.0, 1.0] {
        // The far ear hides as the head turns.
        let x = 50.0 + side * (person.width + 0.6) - person.turn[0] * 0.5;
        let y = WIDEST + 5.0 + person.turn[1];
        canvas.ellipse(x, y, 5.0, 7.6, person.skin.darker(0.06));
        canvas.ellipse(x + side * 0.6, y, 2.6, 4.6, person.skin.darker(0.25));
        if person.earrings {
            canvas.ellipse(x + side * 0.8, y + 9.6, 2.3, 2.3, Colour([250, 206, 70]));
        }
    }
}

pub(super) fn paint_shoulders(canvas: &mut Canvas, person: &Person) {
    let (cloth, neck) = (person.clothes, person.width * 0.46);
    let shadow = person.skin.darker(0.26);
    let throat = Outline::from(50.0 - neck, 72.0)
        .line(50.0 + neck, 72.0)
        .line(50.0 + neck + 2.0, 112.0)
        .line(50.0 - neck - 2.0, 112.0)
        .closed();
    let body = Outline::from(50.0 - neck - 1.0, 89.0)
        .cubic(50.0 - 26.0, 91.0, 6.0, 92.0, -4.0, 118.0)
        .line(104.0, 118.0)
        .cubic(94.0, 92.0, 50.0 + 26.0, 91.0, 50.0 + neck + 1.0, 89.0)
        .closed();
    canvas.fill(body.clone(), cloth);
    canvas.clip(body.as_ref());
    match person.neckline {
        Neckline::Round | Neckline::Pointed => {}
        Neckline::Stripes => {
            let stripe = if cloth.brightness() > 130.0 { cloth.darker(0.45) } else { cloth.lighter(0.6) };
            for band in 0..3 {
                let y = 95.0 + band as f32 * 6.5;
                canvas.stroke(Outline::from(-5.0, y).quad(50.0, y + 4.0, 105.0, y).open(), stripe, 2.6);
            }
        }
        Neckline::Collar => {
            for side in [-1.0, 1.0] {
                let flap = Outline::from(50.0 + side * (neck - 3.0), 86.0)
                    .line(50.0 + side * (neck + 9.0), 90.0)
                    .line(50.0 + side * (neck + 4.0), 101.0)
                    .line(50.0, 96.0)
                    .closed();
                canvas.fill(flap, cloth.lighter(0.5));
            }
        }
    }
    canvas.clip(None);
    let opening = match person.neckline {
        Neckline::Pointed => Outline::from(50.0 - neck, 86.0).line(50.0, 104.0).line(50.0 + neck, 86.0).closed(),
        Neckline::Collar => Outline::from(50.0 - neck, 86.0).line(50.0, 97.0).line(50.0 + neck, 86.0).closed(),
        Neckline::Round | Neckline::Stripes => oval(50.0, 88.0, neck + 0.5, 7.0),
    };
    canvas.fill(opening, shadow);
    let throat_clip = Outline::from(0.0, 0.0).line(100.0, 0.0).line(100.0, 90.0).line(0.0, 90.0).closed();
    canvas.clip(throat_clip.as_ref());
    canvas.fill(throat, shadow);
    canvas.clip(None);
}
