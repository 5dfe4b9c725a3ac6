//! Who it is: every trait of a face, drawn from the numbers of (seed, index). Nothing is painted here.
//!
//! The order of the draws is part of the data: a trait that is added draws last, or every face changes.

use began::random::{Purpose, Stream};

use super::canvas::{Colour, Pose};
use super::palette::{BACKDROPS, BRIGHT_HAIRS, CLOTHES, HAIRS, IRISES, SKINS};

/// Not the lane of any trainer: made-up images of benches and made-up faces share a purpose.
const LANE: u32 = u32::MAX;

/// Numbers drawn one after the other.
struct Dice {
    stream: Stream,
    next: u64,
}

impl Dice {
    /// Evenly from [0, 1).
    fn unit(&mut self) -> f32 {
        let raw = self.stream.at(self.next);
        self.next += 1;
        (raw >> 8) as f32 / (1 << 24) as f32
    }

    fn between(&mut self, low: f32, high: f32) -> f32 {
        low + (high - low) * self.unit()
    }

    /// Around 0, mostly near it, never beyond 1.
    fn near_zero(&mut self) -> f32 {
        self.unit() + self.unit() - 1.0
    }

    fn chance(&mut self, chance: f32) -> bool {
        self.unit() < chance
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        let index = (self.unit() * from.len() as f32) as usize;
        from[index.min(from.len() - 1)]
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pattern {
    Plain,
    Gradient,
    Halves,
    Stripes,
    Disc,
    Dots,
    Hills,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Hair {
    Bald,
    Buzz,
    SideParting,
    Quiff,
    Fringe,
    Curls,
    Spikes,
    Bob,
    Long,
    LongFringe,
    Waves,
    Afro,
    Bun,
    Pigtails,
    Beanie,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Eyes {
    Round,
    Almond,
    Happy,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mouth {
    Smile,
    Grin,
    Neutral,
    Open,
    Smirk,
    Sad,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Nose {
    Button,
    Line,
    Wide,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Beard {
    None,
    Full,
    Goatee,
    Moustache,
    Stubble,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Glasses {
    None,
    Round,
    Square,
    Dark,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Neckline {
    Round,
    Pointed,
    Collar,
    Stripes,
}

/// A person.
#[derive(Clone, Debug)]
pub(super) struct Person {
    pub(super) pattern: Pattern,
    /// The two colours of the backdrop.
    pub(super) backdrop: [Colour; 2],
    /// Where the pattern of the backdrop is, from -1 to 1.
    pub(super) backdrop_place: f32,
    pub(super) skin: Colour,
    /// Half the width of the head, in units.
    pub(super) width: f32,
    /// The lowest point of the head.
    pub(super) chin: f32,
    /// How square the jaw is, from 0 to 1.
    pub(super) jaw: f32,
    /// Where the head looks: how far the features are off the middle, in units.
    pub(super) turn: [f32; 2],
    pub(super) hair: Hair,
    pub(super) hair_colour: Colour,
    /// Size of what the hair does, from 0 to 1.
    pub(super) volume: f32,
    /// On which side a parting is: -1 or 1.
    pub(super) side: f32,
    pub(super) eyes: Eyes,
    pub(super) eye_size: f32,
    pub(super) iris: Colour,
    /// Where the eyes look, each from -1 to 1.
    pub(super) gaze: [f32; 2],
    /// From angry, -1, to surprised, 1.
    pub(super) brows: f32,
    pub(super) brow_width: f32,
    pub(super) nose: Nose,
    pub(super) mouth: Mouth,
    pub(super) mouth_width: f32,
    pub(super) lips: Colour,
    pub(super) blush: f32,
    pub(super) beard: Beard,
    pub(super) glasses: Glasses,
    pub(super) frame: Colour,
    pub(super) earrings: bool,
    pub(super) clothes: Colour,
    pub(super) neckline: Neckline,
    pose: Pose,
}

/// Darker than fair skin and lighter than dark skin: a mouth is seen on both.
fn lips(skin: Colour, redness: f32) -> Colour {
    if skin.brightness() > 112.0 {
        skin.mix(Colour([190, 40, 60]), redness).darker(0.34)
    } else {
        skin.mix(Colour([236, 112, 112]), 0.35 + 0.5 * redness)
    }
}

impl Person {
    /// The person of (seed, index).
    pub(super) fn draw(seed: u64, index: u64) -> Self {
        let mut dice = Dice { stream: Stream::new(seed, Purpose::Bench, index, LANE), next: 0 };
        let d = &mut dice;
        let pattern = d.pick(&[
            Pattern::Plain,
            Pattern::Plain,
            Pattern::Gradient,
            Pattern::Gradient,
            Pattern::Halves,
            Pattern::Stripes,
            Pattern::Disc,
            Pattern::Dots,
            Pattern::Hills,
        ]);
        let ground = Colour(d.pick(&BACKDROPS)).mix(Colour(d.pick(&BACKDROPS)), d.between(0.0, 0.3));
        let second = match pattern {
            // Patterns in two shades of one colour stay behind the face; gradients may go anywhere.
            Pattern::Gradient | Pattern::Halves => ground.mix(Colour(d.pick(&BACKDROPS)), 0.65),
            _ if d.chance(0.5) => ground.lighter(0.28),
            _ => ground.darker(0.18),
        };
        let tone = d.unit() * (SKINS.len() - 1) as f32;
        let skin =
            Colour(SKINS[tone as usize]).mix(Colour(SKINS[(tone as usize + 1).min(SKINS.len() - 1)]), tone % 1.0);
        let hair = d.pick(&[
            Hair::Bald,
            Hair::Buzz,
            Hair::SideParting,
            Hair::SideParting,
            Hair::Quiff,
            Hair::Fringe,
            Hair::Fringe,
            Hair::Curls,
            Hair::Spikes,
            Hair::Bob,
            Hair::Bob,
            Hair::Long,
            Hair::Long,
            Hair::LongFringe,
            Hair::Waves,
            Hair::Afro,
            Hair::Bun,
            Hair::Pigtails,
            Hair::Beanie,
        ]);
        let short = matches!(
            hair,
            Hair::Bald | Hair::Buzz | Hair::SideParting | Hair::Quiff | Hair::Curls | Hair::Spikes | Hair::Beanie
        );
        let hair_colour = if d.chance(0.07) { Colour(d.pick(&BRIGHT_HAIRS)) } else { Colour(d.pick(&HAIRS)) };
        let amount = d.between(0.0, 0.12);
        let hair_colour = if d.chance(0.5) { hair_colour.lighter(amount) } else { hair_colour.darker(amount) };
        let beard = if short && d.chance(0.42) {
            d.pick(&[Beard::Full, Beard::Full, Beard::Goatee, Beard::Moustache, Beard::Stubble])
        } else {
            Beard::None
        };
        Self {
            pattern,
            backdrop: [ground, second],
            backdrop_place: d.between(-1.0, 1.0),
            skin,
            width: 27.5 + 2.5 * d.near_zero(),
            chin: 87.0 + 2.5 * d.near_zero(),
            jaw: d.unit(),
            turn: [2.8 * d.near_zero(), 1.2 * d.near_zero()],
            hair,
            hair_colour,
            volume: d.unit(),
            side: d.pick(&[-1.0, 1.0]),
            eyes: d.pick(&[
                Eyes::Round,
                Eyes::Round,
                Eyes::Round,
                Eyes::Almond,
                Eyes::Almond,
                Eyes::Almond,
                Eyes::Happy,
            ]),
            eye_size: d.between(0.9, 1.15),
            iris: Colour(d.pick(&IRISES)),
            gaze: [d.near_zero(), 0.6 * d.near_zero()],
            brows: d.near_zero(),
            brow_width: d.between(2.0, 3.6),
            nose: d.pick(&[Nose::Button, Nose::Line, Nose::Wide]),
            mouth: d.pick(&[
                Mouth::Smile,
                Mouth::Smile,
                Mouth::Smile,
                Mouth::Grin,
                Mouth::Grin,
                Mouth::Grin,
                Mouth::Neutral,
                Mouth::Open,
                Mouth::Smirk,
                Mouth::Sad,
            ]),
            mouth_width: d.between(9.5, 13.0),
            lips: lips(skin, if short { 0.45 } else { 0.75 }),
            blush: if d.chance(0.5) { d.between(0.25, 0.6) * (skin.brightness() / 220.0) } else { 0.0 },
            beard,
            glasses: if d.chance(0.2) {
                d.pick(&[Glasses::Round, Glasses::Round, Glasses::Square, Glasses::Square, Glasses::Dark])
            } else {
                Glasses::None
            },
            frame: Colour(d.pick(&[[30, 30, 36], [30, 30, 36], [120, 50, 40], [40, 70, 120], [190, 150, 60]])),
            earrings: !short && d.chance(0.35),
            clothes: Colour(d.pick(&CLOTHES)),
            neckline: d.pick(&[Neckline::Round, Neckline::Pointed, Neckline::Collar, Neckline::Stripes]),
            pose: Pose {
                shift: [2.2 * d.near_zero(), 1.6 * d.near_zero()],
                scale: 1.0 + 0.05 * d.near_zero(),
                tilt: 0.09 * d.near_zero(),
            },
        }
    }

    pub(super) fn pose(&self) -> Pose {
        self.pose
    }

    /// The middle of the features across.
    pub(super) fn middle(&self) -> f32 {
        50.0 + self.turn[0]
    }

    /// The height of the eyes.
    pub(super) fn eye_line(&self) -> f32 {
        51.0 + self.turn[1]
    }

    /// The height of the mouth.
    pub(super) fn mouth_line(&self) -> f32 {
        72.5 + self.turn[1] + (self.chin - 87.0) * 0.5
    }
}
