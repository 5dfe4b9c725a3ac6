//! The `trainer` command.

use clap::{Parser, Subcommand};
use trainer::commands::{
    bench::Bench, conform::Conform, describe::Describe, evaluate::Evaluate, export::Export, features::Features,
    interpolate::Interpolate, invert::Invert, prepare::Prepare, run::Run, sample::Sample,
};

/// Trains BEGAN on one device, and does what belongs to that: prepares data, draws samples, checks itself.
#[derive(Debug, Parser)]
#[command(version, max_term_width = 110)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Prepare(Prepare),
    Sample(Sample),
    Interpolate(Interpolate),
    Invert(Invert),
    Evaluate(Evaluate),
    Features(Features),
    Export(Export),
    Describe(Describe),
    Conform(Conform),
    Bench(Bench),
    Run(Run),
}

fn main() {
    let cli = Cli::parse();
    tracing_subscriber::fmt()
        .with_env_filter(
            tracing_subscriber::EnvFilter::try_from_env("BEGAN_LOG")
                .unwrap_or_else(|_| "info,h2=warn,tonic=warn".into()),
        )
        .with_writer(std::io::stderr)
        .with_ansi(false)
        .with_target(false)
        .init();
    let done = match cli.command {
        Command::Prepare(command) => command.run().map(|()| 0),
        Command::Sample(command) => command.run().map(|()| 0),
        Command::Interpolate(command) => command.run().map(|()| 0),
        Command::Invert(command) => command.run().map(|()| 0),
        Command::Evaluate(command) => command.run().map(|()| 0),
        Command::Features(command) => command.run().map(|()| 0),
        Command::Export(command) => command.run().map(|()| 0),
        Command::Describe(command) => command.run().map(|()| 0),
        Command::Conform(command) => command.run().map(|passed| u8::from(!passed)),
        Command::Bench(command) => command.run().map(|()| 0),
        Command::Run(command) => command.run(),
    };
    torch_ext::exit(done.unwrap_or_else(|error| {
        eprintln!("trainer: {error:#}");
        1
    }))
}
