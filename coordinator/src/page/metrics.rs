//! `/metrics`: the run for Prometheus, in the OpenMetrics text format. Names begin with `began_` and end with their unit.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt::Error;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use began_proto::v1::{Phase, StatusResponse, TrainerStatus};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::{Registry, Unit};

use super::Hall;
use crate::meters::CLASSES;
use crate::recorder::wall_clock;

/// The answer's content type.
pub const CONTENT: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

type Counts = ([u64; CLASSES.len() + 1], f64);
type Written = Result<(), Error>;

/// The text.
///
/// # Errors
/// If the coordinator does not answer.
pub async fn text(hall: &Arc<Hall>) -> Result<String, String> {
    let snapshot = Snapshot::take(hall).await?;
    let mut registry = Registry::default();
    registry.register_collector(Box::new(snapshot));
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, &registry).map_err(|error| error.to_string())?;
    Ok(text)
}

/// Everything at one moment.
#[derive(Debug)]
struct Snapshot {
    run: String,
    gamma: f64,
    status: Arc<StatusResponse>,
    last: Option<[f64; 5]>,
    images_per_second: f64,
    steps_finished: u64,
    step_seconds: Counts,
    answers: Counts,
    events: BTreeMap<String, u64>,
    checkpoint_age: Option<f64>,
    checkpoint_every: u64,
    behind: u64,
    visitors: usize,
    process: Process,
}

impl Snapshot {
    async fn take(hall: &Arc<Hall>) -> Result<Self, String> {
        let status = hall.status().await?;
        let last = hall.course().last().map(|row| {
            let record = row.record;
            [record.real, record.fake, record.k, record.m_global, record.rate]
        });
        let end = hall.course().end();
        let tally = hall.tally();
        let text = |name: &str| hall.facts.get(name).and_then(|value| value.as_str()).unwrap_or_default().to_owned();
        Ok(Self {
            run: text("run"),
            gamma: hall.facts.get("gamma").and_then(serde_json::Value::as_f64).unwrap_or(f64::NAN),
            status,
            last,
            images_per_second: tally.images_per_second,
            steps_finished: tally.steps,
            step_seconds: tally.seconds.counts(),
            answers: hall.meters.answers.counts(),
            events: tally.events.clone(),
            checkpoint_age: tally.checkpoint_time.map(|time| (wall_clock() - time).max(0.0)),
            checkpoint_every: hall.past.config().run.checkpoint_every,
            behind: end.saturating_sub(hall.durable.load(Ordering::Relaxed)),
            visitors: hall.live.receiver_count(),
            process: Process::look(),
        })
    }
}

impl Collector for Snapshot {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> Written {
        let mut to = Writer(encoder);
        let status = &self.status;
        to.family(
            "began_run",
            "The run and the version that serves it",
            None,
            [(vec![("run", self.run.as_str()), ("version", env!("CARGO_PKG_VERSION"))], 1.0)],
        )?;
        to.gauge("began_step", "Committed steps", None, status.step as f64)?;
        to.gauge("began_steps", "Steps that the run is to have", None, status.steps as f64)?;
        to.counter(
            "began_steps_finished",
            "Steps finished since the coordinator started, computed again or not",
            self.steps_finished as f64,
        )?;
        to.gauge("began_equilibrium_gamma", "gamma: E[L(G(z))] / E[L(x)] that k steers towards", None, self.gamma)?;
        if let Some([real, fake, k, m_global, rate]) = self.last {
            to.gauge("began_loss_real", "L(x) of the last step, mean over images", None, real)?;
            to.gauge("began_loss_fake", "L(G(z)) of the last step, mean over images", None, fake)?;
            to.gauge("began_equilibrium_k", "k of the last step, 0 to 1", None, k)?;
            to.gauge(
                "began_equilibrium_m_global",
                "M_global = L(x) + |gamma L(x) - L(G(z))| of the last step",
                None,
                m_global,
            )?;
            to.gauge("began_optimizer_rate", "Learning rate of the last step", None, rate)?;
        }
        to.gauge(
            "began_images_per_second",
            "Real images a second, all trainers together",
            None,
            self.images_per_second,
        )?;
        to.histogram("began_step", "Time of a step", &self.step_seconds)?;
        to.histogram(
            "began_equilibrium_answer",
            "From the last losses of a step in to its equilibrium out, once for each trainer",
            &self.answers,
        )?;
        let phases = ["forming", "running", "regrouping", "ended"];
        let phase = |name: &'static str| (vec![("phase", name)], f64::from(u8::from(status.phase == name)));
        to.family("began_phase", "1 for the phase that the run is in", None, phases.map(phase))?;
        to.gauge(
            "began_generation",
            "The generation: changes whenever membership does",
            None,
            status.generation as f64,
        )?;
        to.gauge("began_trainers_expected", "Trainers that make the world", None, f64::from(status.expected_trainers))?;
        to.gauge("began_trainers", "Trainers that are connected", None, status.trainers.len() as f64)?;
        self.activities(&mut to)?;
        self.trainers(&mut to)?;
        to.counters(
            "began_events",
            "Events of the run by kind",
            self.events.iter().map(|(kind, count)| (kind.as_str(), *count)),
        )?;
        to.gauge(
            "began_checkpoint_every_steps",
            "Steps between checkpoints; 0: none but the last",
            None,
            self.checkpoint_every as f64,
        )?;
        let behind = status.step.saturating_sub(status.last_checkpoint.unwrap_or(0));
        to.gauge("began_checkpoint_behind_steps", "Steps since the newest checkpoint", None, behind as f64)?;
        if let Some(step) = status.last_checkpoint {
            to.gauge("began_checkpoint_step", "Step of the newest checkpoint", None, step as f64)?;
        }
        if let Some(age) = self.checkpoint_age {
            to.gauge("began_checkpoint_age", "Since the newest checkpoint was written", Some(&Unit::Seconds), age)?;
        }
        to.gauge("began_journal_behind_steps", "Steps that are not in the journal yet", None, self.behind as f64)?;
        to.gauge("began_page_visitors", "Browsers that follow the run", None, self.visitors as f64)?;
        to.gauge("began_uptime", "Since the coordinator started", Some(&Unit::Seconds), status.uptime_seconds)?;
        self.process.encode(&mut to)
    }
}

impl Snapshot {
    fn activities(&self, to: &mut Writer<'_>) -> Written {
        let mut counts = [0_u32; 9];
        for trainer in &self.status.trainers {
            counts[usize::try_from(trainer.phase).unwrap_or(0).min(8)] += 1;
        }
        let named = (0_i32..).zip(counts).filter_map(|(phase, count)| {
            let name = Phase::try_from(phase).ok()?.as_str_name().trim_start_matches("PHASE_").to_lowercase();
            Some((name, f64::from(count)))
        });
        let named: Vec<(String, f64)> = named.collect();
        let rows = named.iter().map(|(name, count)| (vec![("activity", name.as_str())], *count));
        to.family("began_trainers_active", "Trainers by what they do", None, rows)
    }

    fn trainers(&self, to: &mut Writer<'_>) -> Written {
        let bytes = |bytes: u64| (bytes > 0).then_some(bytes as f64);
        let seconds = |seconds: f64, known: f64| (known > 0.0).then_some(seconds);
        type Value<'a> = &'a dyn Fn(&TrainerStatus) -> Option<f64>;
        let families: [(&str, &str, Unit, Value<'_>); 6] = [
            ("began_trainer_step", "The last step of a trainer", Unit::Seconds, &|t| {
                seconds(t.step_seconds, t.step_seconds)
            }),
            ("began_trainer_waited", "The part of it spent waiting for others", Unit::Seconds, &|t| {
                seconds(t.waited_seconds, t.step_seconds)
            }),
            ("began_trainer_silent", "Since a trainer was last heard of", Unit::Seconds, &|t| {
                Some(t.seconds_since_heard)
            }),
            ("began_trainer_resident", "Memory of a trainer's process", Unit::Bytes, &|t| bytes(t.resident_bytes)),
            ("began_trainer_device", "Memory in use on a trainer's GPU", Unit::Bytes, &|t| bytes(t.device_bytes)),
            ("began_trainer_device_total", "Memory of a trainer's GPU", Unit::Bytes, &|t| bytes(t.device_total_bytes)),
        ];
        let names: Vec<[String; 3]> = self
            .status
            .trainers
            .iter()
            .map(|t| {
                [
                    t.rank.map_or_else(|| "none".into(), |rank| rank.to_string()),
                    t.node.to_string(),
                    t.local_rank.to_string(),
                ]
            })
            .collect();
        for (name, help, unit, value) in families {
            let rows = self.status.trainers.iter().zip(&names).filter_map(|(trainer, [rank, node, local_rank])| {
                let labels = vec![
                    ("rank", rank.as_str()),
                    ("node", node.as_str()),
                    ("local_rank", local_rank.as_str()),
                    ("host", trainer.host.as_str()),
                ];
                value(trainer).map(|value| (labels, value))
            });
            to.family(name, help, Some(&unit), rows)?;
        }
        Ok(())
    }
}

/// The coordinator's own process.
#[derive(Debug, Default)]
struct Process {
    cpu_seconds: f64,
    resident_bytes: f64,
    open_files: f64,
}

impl Process {
    fn look() -> Self {
        let usage = nix::sys::resource::getrusage(nix::sys::resource::UsageWho::RUSAGE_SELF);
        let seconds = |time: nix::sys::time::TimeVal| time.tv_sec() as f64 + time.tv_usec() as f64 / 1e6;
        let cpu_seconds = usage.map_or(0.0, |usage| seconds(usage.user_time()) + seconds(usage.system_time()));
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        let kilobytes = status
            .lines()
            .find_map(|line| line.strip_prefix("VmRSS:")?.trim().strip_suffix("kB")?.trim().parse::<f64>().ok());
        let open_files = std::fs::read_dir("/proc/self/fd").map_or(0, Iterator::count) as f64;
        Self { cpu_seconds, resident_bytes: kilobytes.unwrap_or(0.0) * 1024.0, open_files }
    }

    fn encode(&self, to: &mut Writer<'_>) -> Written {
        to.counter("process_cpu_seconds", "Processor time of the coordinator", self.cpu_seconds)?;
        to.gauge("process_resident_memory_bytes", "Memory of the coordinator", None, self.resident_bytes)?;
        to.gauge("process_open_fds", "Files and sockets that the coordinator has open", None, self.open_files)
    }
}

/// A label's value as it stands between quotes: the encoder takes it as it is, and a trainer names its own host.
fn escaped(value: &str) -> Cow<'_, str> {
    if value.contains(['\\', '"', '\n']) {
        return value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n").into();
    }
    value.into()
}

struct Writer<'a>(DescriptorEncoder<'a>);

impl Writer<'_> {
    fn gauge(&mut self, name: &str, help: &str, unit: Option<&Unit>, value: f64) -> Written {
        let gauge = ConstGauge::new(value);
        let metric = self.0.encode_descriptor(name, help, unit, gauge.metric_type())?;
        gauge.encode(metric)
    }

    fn counter(&mut self, name: &str, help: &str, value: f64) -> Written {
        let counter = ConstCounter::new(value);
        let metric = self.0.encode_descriptor(name, help, None, counter.metric_type())?;
        counter.encode(metric)
    }

    fn counters<'r>(&mut self, name: &str, help: &str, rows: impl Iterator<Item = (&'r str, u64)>) -> Written {
        let mut metric = self.0.encode_descriptor(name, help, None, MetricType::Counter)?;
        for (kind, count) in rows {
            ConstCounter::new(count).encode(metric.encode_family(&[("kind", escaped(kind))])?)?;
        }
        Ok(())
    }

    fn family<'r>(
        &mut self,
        name: &str,
        help: &str,
        unit: Option<&Unit>,
        rows: impl IntoIterator<Item = (Vec<(&'r str, &'r str)>, f64)>,
    ) -> Written {
        let mut metric = self.0.encode_descriptor(name, help, unit, MetricType::Gauge)?;
        for (labels, value) in rows {
            let labels: Vec<(Cow<'_, str>, Cow<'_, str>)> =
                labels.into_iter().map(|(name, value)| (name.into(), escaped(value))).collect();
            ConstGauge::new(value).encode(metric.encode_family(&labels)?)?;
        }
        Ok(())
    }

    /// In seconds.
    fn histogram(&mut self, name: &str, help: &str, (counts, sum): &Counts) -> Written {
        let mut metric = self.0.encode_descriptor(name, help, Some(&Unit::Seconds), MetricType::Histogram)?;
        let bounds = CLASSES.into_iter().chain([f64::MAX]);
        let buckets: Vec<(f64, u64)> = bounds.zip(counts.iter().copied()).collect();
        metric.encode_histogram::<NoLabelSet>(*sum, counts.iter().sum(), &buckets, None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    fn written() -> Result<String, Error> {
        let trainer = TrainerStatus {
            rank: Some(3),
            host: "a \"strange\"\nhost".into(),
            step_seconds: 0.5,
            resident_bytes: 1,
            device_bytes: 1,
            device_total_bytes: 1,
            ..Default::default()
        };
        let status = StatusResponse {
            phase: "running".into(),
            trainers: vec![trainer],
            last_checkpoint: Some(7),
            ..Default::default()
        };
        let mut counts = [0; CLASSES.len() + 1];
        (counts[3], counts[CLASSES.len()]) = (5, 1);
        let snapshot = Snapshot {
            run: "0123456789abcdef".into(),
            gamma: 0.5,
            status: Arc::new(status),
            last: Some([0.2, 0.1, f64::NAN, 0.3, 1e-4]),
            images_per_second: 100.0,
            steps_finished: 9,
            step_seconds: (counts, 1.5),
            answers: (counts, 0.5),
            events: [("lost".to_owned(), 2)].into(),
            checkpoint_age: Some(4.0),
            checkpoint_every: 100,
            behind: 1,
            visitors: 2,
            process: Process::look(),
        };
        let mut registry = Registry::default();
        registry.register_collector(Box::new(snapshot));
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry)?;
        Ok(text)
    }

    #[test]
    fn names_have_their_units_histograms_add_up_and_labels_are_escaped() -> Result<(), Error> {
        let text = written()?;
        for line in [
            "began_equilibrium_k NaN",
            "began_step_seconds_bucket{le=\"0.002\"} 5",
            "began_step_seconds_bucket{le=\"5.0\"} 5",
            "began_step_seconds_bucket{le=\"+Inf\"} 6",
            "began_step_seconds_count 6",
            "began_step_seconds_sum 1.5",
            "began_events_total{kind=\"lost\"} 2",
            "began_phase{phase=\"running\"} 1.0",
            "began_phase{phase=\"ended\"} 0.0",
            "# UNIT began_checkpoint_age_seconds seconds",
            "# EOF",
        ] {
            assert!(text.lines().any(|there| there == line), "{line} is not in\n{text}");
        }
        assert!(text.contains("host=\"a \\\"strange\\\"\\nhost\"} 0.5"), "{text}");
        Ok(())
    }

    #[test]
    fn dashboard_and_alerts_ask_for_nothing_that_is_not_served() -> Result<(), Box<dyn std::error::Error>> {
        let text = written()?;
        let there: Vec<&str> = text.lines().filter_map(|line| line.split(['{', ' ']).next()).collect();
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/monitoring");
        for file in ["dashboard.json", "alerts.yaml", "alerts_test.yaml"] {
            let asked = std::fs::read_to_string(folder.join(file))?;
            let words = asked.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_' || c == '-'));
            let names: Vec<&str> =
                words.filter(|word| word.starts_with("began_") || word.starts_with("process_")).collect();
            assert!(names.len() > 20, "{file}");
            for name in names {
                assert!(there.contains(&name), "{file} asks for {name}");
            }
        }
        Ok(())
    }
}
