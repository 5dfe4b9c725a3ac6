//! A sheet of made-up faces as a PNG, and how fast they are made:
//! `cargo run --release -p began-data --example faces -- SIZE COLUMNS ROWS SEED OUT.png`.

use std::error::Error;
use std::time::Instant;

use began_data::faces::face;
use image::{RgbImage, imageops};
use rayon::prelude::*;

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [size, columns, rows, seed, out] = arguments.as_slice() else {
        return Err("usage: faces SIZE COLUMNS ROWS SEED OUT.png".into());
    };
    let (size, columns, rows): (u32, u32, u32) = (size.parse()?, columns.parse()?, rows.parse()?);
    let seed: u64 = seed.parse()?;
    let start = Instant::now();
    let faces: Vec<_> = (0..u64::from(columns * rows)).into_par_iter().map(|index| face(seed, index, size)).collect();
    let seconds = start.elapsed().as_secs_f64();
    let mut sheet = RgbImage::new(columns * size, rows * size);
    for (index, face) in (0..).zip(&faces) {
        imageops::replace(&mut sheet, face, i64::from(index % columns * size), i64::from(index / columns * size));
    }
    sheet.save(out)?;
    println!("{} faces of {size} px in {seconds:.2} s: {:.0} a second", faces.len(), faces.len() as f64 / seconds);
    Ok(())
}
