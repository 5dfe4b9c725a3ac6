//! What people and programs see while a launch lasts: progress, events, and the one line at the end.
//!
//! It never fails: a terminal that went away, or a pipe whose reader did, must not end a training.

use std::collections::VecDeque;
use std::io::{IsTerminal, Write};
use std::path::Path;
use std::time::{Duration, Instant};

use began_proto::v1::{Event, Progress};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::{Value, json};

use crate::cli::{LaunchArgs, LogFormat};
use crate::page::Place;

/// Between two lines of progress where there is no terminal to redraw.
const PLAIN_PAUSE: Duration = Duration::from_secs(5);
/// Between two objects of progress.
const JSON_PAUSE: Duration = Duration::from_secs(1);
/// The time left is told from the steps of this long.
const PACE_WINDOW: Duration = Duration::from_secs(60);

/// Where a launch is shown.
pub struct Show {
    form: Form,
    pace: Pace,
    latest: Option<Progress>,
    shown: Option<Instant>,
    /// Whether `latest` was shown already.
    fresh: bool,
}

enum Form {
    Quiet,
    Json,
    Plain,
    Bar(ProgressBar),
}

impl Show {
    /// As the flags say; a progress line is redrawn only on a terminal.
    #[must_use]
    pub fn new(args: &LaunchArgs) -> Self {
        let form = match args.log_format {
            _ if args.quiet => Form::Quiet,
            LogFormat::Json => Form::Json,
            LogFormat::Text if std::io::stderr().is_terminal() => {
                let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
                bar.set_style(
                    ProgressStyle::with_template("{msg}").unwrap_or_else(|_| ProgressStyle::default_spinner()),
                );
                Form::Bar(bar)
            }
            LogFormat::Text => Form::Plain,
        };
        Self { form, pace: Pace::default(), latest: None, shown: None, fresh: false }
    }

    /// The newest progress.
    pub fn progress(&mut self, progress: Progress, now: Instant) {
        self.pace.add(progress.step, now);
        self.latest = Some(progress);
        self.fresh = true;
        let pause = match self.form {
            Form::Quiet => return,
            Form::Bar(_) => Duration::ZERO,
            Form::Json => JSON_PAUSE,
            Form::Plain => PLAIN_PAUSE,
        };
        if self.shown.is_none_or(|before| now >= before + pause) {
            self.shown = Some(now);
            self.show_progress();
        }
    }

    fn show_progress(&mut self) {
        let Some(progress) = &self.latest else { return };
        if !std::mem::take(&mut self.fresh) {
            return;
        }
        let left = self.pace.left(progress.steps);
        match &self.form {
            Form::Quiet => {}
            Form::Json => print(&progress_object(progress, left)),
            Form::Plain => write_line(&progress_line(progress, left)),
            Form::Bar(bar) => bar.set_message(progress_line(progress, left)),
        }
    }

    /// An event, as the coordinator tells it.
    pub fn event(&self, event: &Event) {
        match self.form {
            Form::Quiet => {}
            Form::Json => print(&json!({
                "kind": "event", "event": event.kind, "text": event.text, "time": event.time, "step": event.step,
                "rank": event.rank, "node": event.node,
            })),
            // Leases follow from the generation; they are for the journal.
            Form::Plain | Form::Bar(_) if event.kind == "lease" => {}
            Form::Plain | Form::Bar(_) => {
                self.above(&format!("{}  {}: {}", time_of_day(event.time), event.kind, event.text))
            }
        }
    }

    /// A line that a trainer wrote.
    pub fn output(&self, node: u32, rank: u32, line: &str) {
        match self.form {
            Form::Json => print(&json!({ "kind": "output", "node": node, "rank": rank, "line": line })),
            Form::Quiet | Form::Plain | Form::Bar(_) => self.above(&format!("[node {node} rank {rank}] {line}")),
        }
    }

    /// Where the run's page is. Its key is for people alone: what is no terminal may be kept and read by others.
    pub fn page(&self, place: &Place, run: &Path) {
        let fingerprint = place.fingerprint.as_deref();
        match self.form {
            Form::Quiet => {}
            Form::Json => print(&json!({ "kind": "page", "url": place.url, "fingerprint": fingerprint })),
            Form::Plain | Form::Bar(_) => {
                let terminal = matches!(self.form, Form::Bar(_));
                self.above(&format!("page: {}", if terminal { place.with_key() } else { place.url.clone() }));
                if place.key.is_some() && !terminal {
                    self.above(&format!("page: `launcher page {}` prints it with its key", run.display()));
                }
                if let Some(fingerprint) = fingerprint {
                    self.above(&format!("page: the SHA-256 of its certificate is {fingerprint}"));
                }
            }
        }
    }

    /// Something the launcher itself has to say.
    pub fn say(&self, text: &str) {
        match self.form {
            Form::Quiet => {}
            Form::Json => print(&json!({ "kind": "message", "text": text })),
            Form::Plain | Form::Bar(_) => self.above(text),
        }
    }

    /// The end: the last progress, what failed (on stderr, in every form), and the last line on stdout.
    pub fn end(&mut self, failure: Option<&str>, line: &str, object: &Value) {
        self.show_progress();
        if let Form::Bar(bar) = &self.form {
            bar.abandon();
        }
        if let Some(failure) = failure {
            write_line(failure);
        }
        let _ = match self.form {
            Form::Json => writeln!(std::io::stdout(), "{object}"),
            _ => writeln!(std::io::stdout(), "{line}"),
        };
    }

    fn above(&self, line: &str) {
        match &self.form {
            Form::Bar(bar) => bar.suspend(|| write_line(line)),
            _ => write_line(line),
        }
    }
}

fn print(object: &Value) {
    let _ = writeln!(std::io::stdout(), "{object}");
}

fn write_line(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}");
}

fn progress_line(progress: &Progress, left: Option<Duration>) -> String {
    let Progress { step, steps, real, fake, k, m_global, rate, images_per_second, .. } = progress;
    let left = left.map(|left| format!("  {} left", in_words(left))).unwrap_or_default();
    format!(
        "step {step}/{steps}  {images_per_second:.1} images/s  L(x) {real:.4}  L(G(z)) {fake:.4}  k {k:.4}  \
         M {m_global:.4}  rate {rate:.1e}{left}"
    )
}

fn progress_object(progress: &Progress, left: Option<Duration>) -> Value {
    json!({
        "kind": "progress", "step": progress.step, "steps": progress.steps, "real": progress.real, "fake": progress.fake,
        "k": progress.k, "m_global": progress.m_global, "rate": progress.rate,
        "images_per_second": progress.images_per_second, "world_size": progress.world_size,
        "seconds_left": left.map(|left| left.as_secs_f64()),
    })
}

/// How fast the run goes, from its last minute.
#[derive(Debug, Default)]
struct Pace {
    seen: VecDeque<(Instant, u64)>,
}

impl Pace {
    fn add(&mut self, step: u64, now: Instant) {
        self.seen.push_back((now, step));
        // Two always stay, so that steps longer than the window tell something, too.
        while self.seen.len() > 2 && self.seen.front().is_some_and(|(time, _)| now.duration_since(*time) > PACE_WINDOW)
        {
            self.seen.pop_front();
        }
    }

    fn left(&self, steps: u64) -> Option<Duration> {
        let ((first, from), (last, to)) = (self.seen.front()?, self.seen.back()?);
        let done = to.checked_sub(*from).filter(|done| *done > 0)?;
        let seconds = last.duration_since(*first).as_secs_f64() / done as f64 * steps.saturating_sub(*to) as f64;
        Duration::try_from_secs_f64(seconds).ok()
    }
}

/// "12 s", "3 min 20 s", "5 h 10 min", "3 d 4 h".
#[must_use]
pub fn in_words(duration: Duration) -> String {
    let s = duration.as_secs();
    match s {
        0..60 => format!("{s} s"),
        60..3_600 => format!("{} min {} s", s / 60, s % 60),
        3_600..86_400 => format!("{} h {} min", s / 3_600, s % 3_600 / 60),
        _ => format!("{} d {} h", s / 86_400, s % 86_400 / 3_600),
    }
}

/// "13:05:09", in UTC.
#[must_use]
pub fn time_of_day(since_1970: f64) -> String {
    let s = since_1970.max(0.0) as u64 % 86_400;
    format!("{:02}:{:02}:{:02}", s / 3_600, s % 3_600 / 60, s % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_left_follows_from_the_last_steps() {
        let (mut pace, start) = (Pace::default(), Instant::now());
        assert_eq!(pace.left(100), None);
        pace.add(10, start);
        pace.add(20, start + Duration::from_secs(5));
        assert_eq!(pace.left(100), Some(Duration::from_secs(40)));
        pace.add(21, start + Duration::from_secs(500));
        pace.add(22, start + Duration::from_secs(1000));
        assert_eq!(pace.left(23), Some(Duration::from_secs(500)));
        assert_eq!(pace.left(3), Some(Duration::ZERO));
    }

    #[test]
    fn times_are_said_in_words() {
        let words = [12, 200, 18_600, 273_600].map(|s| in_words(Duration::from_secs(s)));
        assert_eq!(words, ["12 s", "3 min 20 s", "5 h 10 min", "3 d 4 h"]);
        assert_eq!(time_of_day(47_109.7), "13:05:09");
    }

    #[test]
    fn a_line_of_progress_has_what_people_look_for() {
        let progress = Progress {
            step: 12,
            steps: 100,
            real: 0.5,
            fake: 0.25,
            k: 0.01,
            m_global: 0.6,
            rate: 1e-4,
            images_per_second: 31.25,
            world_size: 2,
        };
        let line = progress_line(&progress, Some(Duration::from_secs(70)));
        assert_eq!(
            line,
            "step 12/100  31.2 images/s  L(x) 0.5000  L(G(z)) 0.2500  k 0.0100  M 0.6000  rate 1.0e-4  1 min 10 s left"
        );
    }
}
