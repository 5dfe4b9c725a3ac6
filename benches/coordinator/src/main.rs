//! `make bench-coordinator`: how fast the coordinator is with many trainers.
//!
//! The trainers are made up: they speak the protocol over connections of their own and compute nothing. They share the machine's
//! cores with the coordinator, which is a process of its own; they get what it leaves idle, as if they were elsewhere.

mod fleet;
mod onlooker;
mod program;

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::Parser;

use fleet::{Fleet, Seen};
use onlooker::Onlookers;
use program::Starter;
use thread_priority::{
    NormalThreadSchedulePolicy, ThreadPriority, ThreadSchedulePolicy, set_thread_priority_and_policy, thread_native_id,
};

/// Steps of a run that no measurement ends.
const ENDLESS: u64 = 1 << 40;
/// Steps that are not counted: the world's first ones find cold caches and an empty journal.
const WARM_UP: Duration = Duration::from_secs(1);
/// Steps of a run that is looked at.
const SHOWN: u64 = 20_000;

/// Measures generations, broken streams, silence and steps.
#[derive(Debug, Parser)]
#[command(version)]
struct Cli {
    /// Numbers of trainers
    #[arg(long, value_delimiter = ',', default_values_t = [32, 256, 1024])]
    trainers: Vec<u32>,
    /// Rounds of each measurement
    #[arg(long, default_value_t = 7)]
    rounds: usize,
    /// Steps a second that the trainers try for
    #[arg(long, default_value_t = 20)]
    pace: u64,
    /// Seconds of steps
    #[arg(long, default_value_t = 6)]
    seconds: u64,
    /// run.heartbeat_timeout
    #[arg(long, default_value_t = 5.0)]
    heartbeat: f64,
    /// No page, nobody who looks on, and nothing told of single images: for measuring what all that costs
    #[arg(long)]
    bare: bool,
    /// Let the made-up trainers have the cores as often as the coordinator; without this they get what it leaves over, as if they
    /// were on other machines
    #[arg(long)]
    as_equals: bool,
    /// Measure nothing: keep a world going for so many seconds, for looking at its page
    #[arg(long, value_name = "SECONDS")]
    show: Option<u64>,
    /// Where the page listens
    #[arg(long, default_value = "127.0.0.1:0")]
    http: String,
}

impl Cli {
    fn http(&self) -> Option<&str> {
        (!self.bare).then_some(self.http.as_str())
    }
}

/// The figures of one number of trainers, in milliseconds.
#[derive(Debug, Default)]
struct Figures {
    formed: Vec<f64>,
    broken: Vec<f64>,
    grown: Vec<f64>,
    silence_beyond: Vec<f64>,
    answer: Vec<f64>,
    /// As the coordinator itself has measured it, once for each trainer: p50 and p99.
    own_answer: Option<(f64, f64)>,
    /// Kilobytes a second of the page's live events and of metrics.
    traffic: Option<(f64, f64)>,
    steps_a_second: f64,
    cores: f64,
    megabytes: f64,
}

fn main() -> Result<()> {
    let cli = Cli::parse();
    let (starter, wanted) = Starter::new();
    // Elsewhere a trainer never takes a core away from the coordinator. This thread, which starts it, stays as it is: what is
    // started inherits that.
    let bench = std::thread::Builder::new().name("bench".into()).spawn(move || {
        // A world for looking at must not lose anybody on a machine that has other things to do.
        if !cli.as_equals
            && cli.show.is_none()
            && let Err(error) = idle()
        {
            eprintln!("the made-up trainers compete with the coordinator: {error:?}");
        }
        bench(&cli, &starter)
    })?;
    Starter::serve(&wanted);
    bench.join().map_err(|_| anyhow::anyhow!("the bench ended by a panic"))?
}

/// This thread, and those it starts, run where nothing else wants to. The lowest niceness would not do: the kernel starts the
/// coordinator's threads on one core where the other is busy with trainers.
fn idle() -> Result<(), thread_priority::Error> {
    let policy = ThreadSchedulePolicy::Normal(NormalThreadSchedulePolicy::Idle);
    set_thread_priority_and_policy(thread_native_id(), ThreadPriority::Min, policy)
}

fn bench(cli: &Cli, starter: &Starter) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    if let Some(seconds) = cli.show {
        return runtime.block_on(show(cli, starter, Duration::from_secs(seconds)));
    }
    println!(
        "trainers  generation formed  broken stream -> new one  grown by one  silence beyond its limit  answer p50/p99 to the last of all"
    );
    let mut lines = Vec::new();
    for &count in &cli.trainers {
        let figures =
            runtime.block_on(measure(cli, starter, count)).with_context(|| format!("with {count} trainers"))?;
        let mid = |values: &[f64]| percentile(values, 0.5);
        let worst = |values: &[f64]| percentile(values, 1.0);
        println!(
            "{count:>8}  {:>7.1} ms (max {:.1})  {:>9.1} ms (max {:.1})  {:>8.1} ms  {:>12.0} ms (max {:.0})  {:.2}/{:.2} ms at {:.1} \
             steps/s, {:.2} cores, {:.0} MB",
            mid(&figures.formed),
            worst(&figures.formed),
            mid(&figures.broken),
            worst(&figures.broken),
            mid(&figures.grown),
            mid(&figures.silence_beyond),
            worst(&figures.silence_beyond),
            mid(&figures.answer),
            percentile(&figures.answer, 0.99),
            figures.steps_a_second,
            figures.cores,
            figures.megabytes,
        );
        if let (Some((p50, p99)), Some((live, metrics))) = (figures.own_answer, figures.traffic) {
            println!(
                "{count:>8}  from the last losses in to the equilibrium out, as the coordinator measures it for each trainer: p50 {p50:.2}, \
                 p99 {p99:.2} ms; page {live:.0} kB/s, metrics each second {metrics:.0} kB/s"
            );
        }
        lines.push(serde_json::json!({
            "trainers": count,
            "generation_ms": mid(&figures.formed), "generation_ms_max": worst(&figures.formed),
            "broken_to_generation_ms": mid(&figures.broken), "broken_to_generation_ms_max": worst(&figures.broken),
            "grown_ms": mid(&figures.grown),
            "silence_beyond_limit_ms": mid(&figures.silence_beyond),
            "silence_beyond_limit_ms_max": worst(&figures.silence_beyond),
            "own_answer_p50_ms": figures.own_answer.map(|own| own.0), "own_answer_p99_ms": figures.own_answer.map(|own| own.1),
            "page_kb_per_s": figures.traffic.map(|traffic| traffic.0), "metrics_kb_per_s": figures.traffic.map(|traffic| traffic.1),
            "answer_p50_ms": mid(&figures.answer), "answer_p99_ms": percentile(&figures.answer, 0.99),
            "steps_per_s": figures.steps_a_second, "coordinator_cores": figures.cores, "coordinator_mb": figures.megabytes,
        }));
    }
    println!("{}", serde_json::json!({ "coordinator": lines }));
    Ok(())
}

fn percentile(values: &[f64], part: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let last = sorted.len().saturating_sub(1);
    sorted.get((part * last as f64).round() as usize).copied().unwrap_or(f64::NAN)
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

async fn measure(cli: &Cli, starter: &Starter, count: u32) -> Result<Figures> {
    let mut figures = Figures::default();
    for _ in 0..cli.rounds {
        let program = starter.start(count, ENDLESS, cli.heartbeat, cli.http())?;
        let mut fleet = Fleet::new(&program.address, count, ENDLESS, !cli.bare, !cli.as_equals);
        for place in 0..count - 1 {
            fleet.connect(place).await?;
        }
        // From the last join to the last one told.
        fleet.prepare(count - 1).await?;
        let began = Instant::now();
        fleet.hello(count - 1)?;
        let told = fleet.all_opened(1, count as usize).await?;
        figures.formed.push(milliseconds(told - began));

        // A stream breaks: the others are asked what they hold, answer, and are told of the next generation.
        let began = Instant::now();
        fleet.drop_stream(count / 2);
        let told = fleet.all_opened(2, count as usize - 1).await?;
        figures.broken.push(milliseconds(told - began));
    }
    // One long-lived world for the rest.
    let program = starter.start(count, ENDLESS, cli.heartbeat, cli.http())?;
    let mut fleet = Fleet::new(&program.address, count, ENDLESS, !cli.bare, !cli.as_equals);
    for place in 0..count {
        fleet.connect(place).await?;
    }
    fleet.all_opened(1, count as usize).await?;
    let onlookers = program.page.as_deref().map(Onlookers::come);
    fleet.steps(cli.pace, WARM_UP).await?;
    let before = match &program.page {
        Some(page) => onlooker::answers(page).await?,
        None => Vec::new(),
    };
    let bytes = onlookers.as_ref().map(Onlookers::bytes);
    let cpu = program.cpu_seconds()?;
    let began = Instant::now();
    let answers = fleet.steps(cli.pace, Duration::from_secs(cli.seconds)).await?;
    let took = began.elapsed().as_secs_f64();
    figures.answer = answers.iter().copied().map(milliseconds).collect();
    figures.steps_a_second = answers.len() as f64 / took;
    figures.cores = (program.cpu_seconds()? - cpu) / took;
    figures.megabytes = program.megabytes()?;
    if let (Some(page), Some(onlookers), Some((live, metrics))) = (&program.page, onlookers, bytes) {
        let (live_now, metrics_now) = onlookers.bytes();
        figures.traffic = Some(((live_now - live) as f64 / 1e3 / took, (metrics_now - metrics) as f64 / 1e3 / took));
        let after = onlooker::answers(page).await?;
        let own = |part| 1e3 * onlooker::quantile(&before, &after, part);
        figures.own_answer = Some((own(0.5), own(0.99)));
    }

    let mut generation = 1;
    for round in 0..cli.rounds.min(3) {
        let place = round as u32 % count;
        let limit = Duration::from_secs_f64(cli.heartbeat);
        let silent_since = fleet.silence(place);
        let halted = fleet.first_halt().await?;
        ensure!(halted > silent_since + limit / 2, "a halt came before the silence could be noticed");
        figures.silence_beyond.push(milliseconds(halted.saturating_duration_since(silent_since + limit)));
        generation += 1;
        fleet.all_opened(generation, count as usize - 1).await?;
        // It comes back: the generation grows at a step's end.
        let began = Instant::now();
        fleet.replace(place).await?;
        generation += 1;
        let told = fleet.grow(generation, count as usize).await?;
        figures.grown.push(milliseconds(told - began));
    }
    Ok(figures)
}

/// Keeps a world going.
async fn show(cli: &Cli, starter: &Starter, time: Duration) -> Result<()> {
    let count = cli.trainers.last().copied().unwrap_or(1024);
    let program = starter.start(count, SHOWN, cli.heartbeat.max(60.0), Some(&cli.http))?;
    let mut fleet = Fleet::new(&program.address, count, SHOWN, true, false);
    for place in 0..count {
        fleet.connect(place).await?;
    }
    fleet.all_opened(1, count as usize).await?;
    let page = program.page.as_deref().context("the coordinator serves no page")?;
    println!("{}", serde_json::json!({ "trainers": count, "page": format!("http://{page}/") }));
    let steps = fleet.steps(cli.pace, time).await?;
    println!("{} steps in {} s", steps.len(), time.as_secs());
    Ok(())
}

impl Seen {
    /// Whether it is the opening of that generation.
    fn opens(&self, generation: u64) -> bool {
        matches!(self, Self::Opened(opened) if *opened == generation)
    }
}
