//! What is behind the person: simple and large, so that it is learned early and never mistaken for a face.

use super::canvas::{Canvas, Outline, oval};
use super::person::{Pattern, Person};

pub(super) fn paint(canvas: &mut Canvas, person: &Person) {
    let [ground, second] = person.backdrop;
    let place = person.backdrop_place;
    match person.pattern {
        Pattern::Gradient => {
            canvas.flood(ground, second, [50.0 - 40.0 * place, 0.0], [50.0 + 40.0 * place, 100.0]);
            return;
        }
        _ => canvas.flood(ground, ground, [0.0, 0.0], [0.0, 100.0]),
    }
    match person.pattern {
        Pattern::Plain | Pattern::Gradient => {}
        Pattern::Halves => {
            let (top, bottom) = (50.0 + 30.0 * place, 50.0 - 30.0 * place);
            let half = Outline::from(top, -1.0).line(101.0, -1.0).line(101.0, 101.0).line(bottom, 101.0).closed();
            canvas.fill_behind(half, second);
        }
        Pattern::Stripes => {
            let lean = 24.0 * place;
            for stripe in -2..6 {
                let x = stripe as f32 * 25.0 + 6.0 * place;
                let band = Outline::from(x, -1.0)
                    .line(x + 12.5, -1.0)
                    .line(x + 12.5 + lean, 101.0)
                    .line(x + lean, 101.0)
                    .closed();
                canvas.fill_behind(band, second);
            }
        }
        Pattern::Disc => canvas.fill_behind(oval(50.0 + 6.0 * place, 46.0, 44.0, 44.0), second),
        Pattern::Dots => {
            for row in 0..5 {
                for column in 0..5 {
                    let offset = if row % 2 == 0 { 0.0 } else { 12.5 };
                    let (x, y) = (column as f32 * 25.0 + offset + 5.0 * place, row as f32 * 24.0 + 4.0);
                    canvas.fill_behind(oval(x, y, 5.5, 5.5), second);
                }
            }
        }
        Pattern::Hills => {
            let height = 62.0 + 8.0 * place;
            let hills = Outline::from(-1.0, height)
                .cubic(20.0, height - 22.0, 35.0, height - 6.0, 50.0, height)
                .cubic(66.0, height + 4.0, 80.0, height - 24.0, 101.0, height - 8.0)
                .line(101.0, 101.0)
                .line(-1.0, 101.0)
                .closed();
            canvas.fill_behind(hills, second);
        }
    }
}
