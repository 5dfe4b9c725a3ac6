//! `simulate`: plays histories, and says the seed of the one that breaks a promise.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::time::Instant;

use clap::Parser;
use simulation::World;
use simulation::faults::KINDS;

/// Plays made-up histories of whole runs through the real coordinator and the real session, over a simulated network and clock.
#[derive(Debug, Parser)]
#[command(version)]
struct Cli {
    /// How many histories
    #[arg(long, default_value_t = 10_000)]
    histories: u64,
    /// The first seed
    #[arg(long, default_value_t = 0)]
    from: u64,
    /// Play this seed alone, and tell what happens
    #[arg(long)]
    seed: Option<u64>,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    if let Some(seed) = cli.seed {
        let report = World::new(seed, true).play();
        println!("seed {seed}: no promise broken; {report:?}");
        return ExitCode::SUCCESS;
    }
    std::panic::set_hook(Box::new(|_| {}));
    let began = Instant::now();
    let (mut faults, mut generations, mut lives, mut events, mut virtual_ms) = ([0; KINDS.len()], 0, 0, 0, 0);
    let mut broken = 0u64;
    for seed in cli.from..cli.from + cli.histories {
        match catch_unwind(AssertUnwindSafe(|| World::new(seed, false).play())) {
            Ok(report) => {
                faults.iter_mut().zip(report.faults).for_each(|(sum, count)| *sum += count);
                generations += report.generations;
                lives += report.coordinator_lives;
                events += report.events;
                virtual_ms += report.ended_at;
            }
            Err(panic) => {
                let why = panic.downcast_ref::<String>().cloned();
                let why = why.or_else(|| panic.downcast_ref::<&str>().map(|why| (*why).to_owned())).unwrap_or_default();
                broken += 1;
                if broken <= 10 {
                    println!("seed {seed} breaks a promise: {why:.600}\n  replay it with: simulate --seed {seed}");
                }
            }
        }
    }
    let counted: Vec<String> = KINDS.iter().zip(faults).map(|(kind, count)| format!("{count} {kind}")).collect();
    println!(
        "{} histories, {broken} broke a promise; {} faults ({}), {generations} generations, {lives} lives of the \
         coordinator, {events} events, {:.0} simulated hours in {:.1} s",
        cli.histories,
        faults.iter().sum::<u64>(),
        counted.join(", "),
        virtual_ms as f64 / 3.6e6,
        began.elapsed().as_secs_f64()
    );
    ExitCode::from(u8::from(broken > 0))
}
