//! Eyes, brows, nose, mouth, beard and glasses: large and of strong contrast, so that they survive at 32 pixels.

use super::canvas::{Canvas, Colour, Outline, oval, rounded};
use super::head;
use super::person::{Beard, Eyes, Glasses, Hair, Mouth, Nose, Person};

/// From the middle of the face to the middle of an eye.
const EYE_DISTANCE: f32 = 12.2;

const INK: Colour = Colour([34, 22, 26]);

pub(super) fn paint_eyes(canvas: &mut Canvas, person: &Person) {
    let (middle, y, size) = (person.middle(), person.eye_line(), person.eye_size);
    for side in [-1.0, 1.0] {
        let x = middle + side * EYE_DISTANCE;
        let (across, down) = match person.eyes {
            Eyes::Round => (6.4 * size, 6.4 * size),
            Eyes::Almond => (7.2 * size, 4.7 * size),
            Eyes::Happy => {
                let arc = Outline::from(x - 6.0, y + 2.0).quad(x, y - 7.0 * size, x + 6.0, y + 2.0).open();
                canvas.stroke(arc, INK, 2.9);
                continue;
            }
        };
        // Under the brow it is darker: the white stands out on light skin too.
        canvas.ellipse(x, y - 0.3, across + 1.1, down + 1.1, person.skin.darker(0.34));
        canvas.ellipse(x, y, across, down, Colour::WHITE);
        canvas.clip(oval(x, y, across, down).as_ref());
        let (gaze_x, gaze_y) = (x + 2.2 * person.gaze[0], y + 1.6 * person.gaze[1]);
        let iris = 4.4 * size;
        canvas.ellipse(gaze_x, gaze_y, iris, iris, person.iris);
        canvas.ellipse(gaze_x, gaze_y, iris * 0.62, iris * 0.62, INK);
        canvas.ellipse(gaze_x - 1.4, gaze_y - 1.6, 1.3, 1.3, Colour::WHITE);
        canvas.clip(None);
        let lid = Outline::from(x - across, y - 0.4).quad(x, y - 2.0 * down - 0.6, x + across, y - 0.4).open();
        canvas.stroke(lid, INK, 1.7);
    }
}

pub(super) fn paint_brows(canvas: &mut Canvas, person: &Person) {
    let mut colour = person.hair_colour.darker(0.3);
    // Fair brows on fair skin are still seen.
    if (colour.brightness() - person.skin.brightness()).abs() < 45.0 {
        colour = person.skin.darker(0.6);
    }
    let middle = person.middle();
    let y = person.eye_line() - 10.6 - person.brows.max(0.0) * 1.6;
    for side in [-1.0, 1.0] {
        let x = |along: f32| middle + side * along;
        let brow = Outline::from(x(6.0), y - 2.2 * person.brows)
            .quad(x(12.5), y - 3.6, x(19.0), y + 1.2 + person.brows)
            .open();
        canvas.stroke(brow, colour, person.brow_width);
    }
}

pub(super) fn paint_nose(canvas: &mut Canvas, person: &Person) {
    let (x, y) = (50.0 + 1.35 * person.turn[0], person.eye_line() + 11.6);
    let shade = person.skin.darker(0.26).mix(Colour([190, 70, 60]), 0.22);
    match person.nose {
        Nose::Button => {
            canvas.ellipse(x, y, 3.9, 3.2, shade);
            canvas.ellipse(x - 0.6, y - 1.2, 2.9, 2.1, person.skin.lighter(0.12));
        }
        Nose::Line => {
            let bend = person.side * 3.4;
            let line = Outline::from(x + bend * 0.4, y - 8.0).quad(x + bend * 1.7, y + 2.6, x - bend * 0.6, y + 2.2);
            canvas.stroke(line.open(), shade, 2.0);
        }
        Nose::Wide => {
            let line = Outline::from(x - 4.6, y + 0.6).cubic(x - 3.0, y + 4.2, x + 3.0, y + 4.2, x + 4.6, y + 0.6);
            canvas.stroke(line.open(), shade, 2.4);
        }
    }
}

pub(super) fn paint_mouth(canvas: &mut Canvas, person: &Person) {
    let (x, y, w) = (person.middle(), person.mouth_line(), person.mouth_width);
    let dark = Colour([96, 18, 30]);
    match person.mouth {
        Mouth::Smile => {
            let lips = Outline::from(x - w, y - 1.6).quad(x, y + 8.4, x + w, y - 1.6).open();
            canvas.stroke(lips, person.lips, 3.0);
        }
        Mouth::Grin => {
            let open = || {
                Outline::from(x - w, y - 2.6).quad(x, y + 0.2, x + w, y - 2.6).cubic(
                    x + w * 0.9,
                    y + 9.4,
                    x - w * 0.9,
                    y + 9.4,
                    x - w,
                    y - 2.6,
                )
            };
            canvas.fill(open().closed(), dark);
            canvas.clip(open().closed().as_ref());
            canvas.ellipse(x, y - 2.0, w, 5.2, Colour::WHITE);
            canvas.ellipse(x, y + 8.0, w * 0.5, 3.4, Colour([224, 90, 100]));
            canvas.clip(None);
            canvas.stroke(open().closed(), person.lips, 1.5);
        }
        Mouth::Neutral => {
            let lips = Outline::from(x - w * 0.75, y + 0.6).quad(x, y + 1.8, x + w * 0.75, y + 0.6).open();
            canvas.stroke(lips, person.lips, 3.2);
        }
        Mouth::Open => {
            canvas.ellipse(x, y + 1.2, w * 0.52 + 1.2, 6.4, person.lips);
            canvas.ellipse(x, y + 1.2, w * 0.52 - 0.6, 4.7, dark);
            canvas.ellipse(x, y + 4.0, w * 0.34, 1.9, Colour([224, 90, 100]));
        }
        Mouth::Smirk => {
            let (near, far) = (x - person.side * w * 0.8, x + person.side * w);
            let lips = Outline::from(near, y + 1.2).quad(x + person.side * 3.0, y + 4.8, far, y - 3.0).open();
            canvas.stroke(lips, person.lips, 3.0);
        }
        Mouth::Sad => {
            let lips = Outline::from(x - w * 0.8, y + 4.0).quad(x, y - 4.0, x + w * 0.8, y + 4.0).open();
            canvas.stroke(lips, person.lips, 3.0);
        }
    }
}

pub(super) fn paint_beard(canvas: &mut Canvas, person: &Person) {
    let (x, y, w) = (person.middle(), person.mouth_line(), person.width);
    let colour = person.hair_colour.darker(0.08);
    let moustache = |canvas: &mut Canvas| {
        for side in [-1.0, 1.0] {
            let half = Outline::from(x, y - 7.6)
                .cubic(x + side * 7.0, y - 8.6, x + side * 13.0, y - 4.0, x + side * 15.0, y + 0.6)
                .cubic(x + side * 9.0, y + 0.4, x + side * 4.0, y - 2.6, x, y - 3.2)
                .closed();
            canvas.fill(half, colour);
        }
    };
    match person.beard {
        Beard::None => {}
        Beard::Full => {
            // From ear to ear, grown a little beyond the chin, with a lip's room around the mouth.
            canvas.clip(head::outline(person, 2.2).as_ref());
            let beard = Outline::from(50.0 - w - 4.0, 50.0)
                .cubic(50.0 - w + 3.0, 60.0, x - 20.0, 66.0, x - 13.0, y - 7.0)
                .cubic(x - 6.0, y - 9.4, x + 6.0, y - 9.4, x + 13.0, y - 7.0)
                .cubic(x + 20.0, 66.0, 50.0 + w - 3.0, 60.0, 50.0 + w + 4.0, 50.0)
                .line(50.0 + w + 4.0, 96.0)
                .line(50.0 - w - 4.0, 96.0)
                .closed();
            canvas.fill(beard, colour);
            canvas.ellipse(x, y + 1.6, person.mouth_width + 1.8, 6.2, person.skin.darker(0.06));
            canvas.clip(None);
        }
        Beard::Goatee => {
            let tuft = Outline::from(x - 8.0, y + 7.0)
                .quad(x, y + 4.0, x + 8.0, y + 7.0)
                .cubic(x + 8.0, person.chin + 3.0, x - 8.0, person.chin + 3.0, x - 8.0, y + 7.0)
                .closed();
            canvas.fill(tuft, colour);
            moustache(canvas);
        }
        Beard::Moustache => moustache(canvas),
        Beard::Stubble => {
            canvas.clip(head::outline(person, 0.0).as_ref());
            let shadow = Outline::from(50.0 - w - 4.0, 56.0)
                .cubic(x - 18.0, 64.0, x - 12.0, y - 8.0, x, y - 8.0)
                .cubic(x + 12.0, y - 8.0, x + 18.0, 64.0, 50.0 + w + 4.0, 56.0)
                .line(50.0 + w + 4.0, 96.0)
                .line(50.0 - w - 4.0, 96.0)
                .closed();
            canvas.tint(shadow, colour, 0.33);
            canvas.clip(None);
        }
    }
}

pub(super) fn paint_glasses(canvas: &mut Canvas, person: &Person) {
    if person.glasses == Glasses::None {
        return;
    }
    let (middle, y) = (person.middle(), person.eye_line() + 0.6);
    let lens = |side: f32| {
        let x = middle + side * (EYE_DISTANCE + 0.2);
        match person.glasses {
            Glasses::Round => oval(x, y, 9.6, 9.6),
            _ => rounded(x - 10.2, y - 8.0, 20.4, 16.0, 4.5),
        }
    };
    for side in [-1.0, 1.0] {
        if person.glasses == Glasses::Dark {
            canvas.fill(lens(side), Colour([38, 38, 52]));
            let x = middle + side * EYE_DISTANCE;
            let gleam = Outline::from(x - 5.5, y + 2.0).line(x + 0.5, y - 4.8).open();
            canvas.stroke(gleam, Colour([120, 126, 150]), 2.0);
        } else {
            canvas.tint(lens(side), Colour::WHITE, 0.16);
        }
        canvas.stroke(lens(side), person.frame, 2.1);
        // Temples run under hair that covers the ears, and are too fine to matter there.
        if !matches!(person.hair, Hair::Long | Hair::LongFringe | Hair::Waves | Hair::Bob) {
            let from = middle + side * (EYE_DISTANCE + 9.8);
            let arm = Outline::from(from, y - 1.0).line(50.0 + side * person.width, y).open();
            canvas.stroke(arm, person.frame, 1.8);
        }
    }
    let bridge = Outline::from(middle - 3.0, y - 1.0).quad(middle, y - 3.6, middle + 3.0, y - 1.0).open();
    canvas.stroke(bridge, person.frame, 2.1);
}
