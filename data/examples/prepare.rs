//! Prepares a set and says how fast: `cargo run -p began-data --example prepare -- SOURCE OUT SIZE COUNT`.
//! The command for people is `trainer prepare`; this one needs no libtorch.

use std::error::Error;

use began_data::prepare::{Options, prepare};

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [source, out, size, count] = arguments.as_slice() else {
        return Err("usage: prepare SOURCE OUT SIZE COUNT (0 for all)".into());
    };
    let report = prepare(&Options {
        source: source.clone(),
        out: out.into(),
        size: size.parse()?,
        count: count.parse()?,
        ..Options::default()
    })?;
    println!(
        "{} images in {} shards, {} skipped, {:.1} s ({:.0} a second), digest {}",
        report.samples,
        report.shards,
        report.skipped.len(),
        report.seconds,
        report.samples as f64 / report.seconds,
        report.digest
    );
    Ok(())
}
