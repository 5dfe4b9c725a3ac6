//! Who looks on while the bench runs: one that follows the page's live events as a browser does, and one that asks for
//! `/metrics` each second, far more often than Prometheus would.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

/// Nothing takes longer.
const PATIENCE: Duration = Duration::from_secs(30);

/// See the module. They go when this is dropped.
pub(crate) struct Onlookers {
    live: Arc<AtomicU64>,
    metrics: Arc<AtomicU64>,
    tasks: Vec<JoinHandle<()>>,
}

impl Onlookers {
    /// Lets them come to the page at `HOST:PORT`.
    pub(crate) fn come(page: &str) -> Self {
        let (live, metrics) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
        let (address, counted) = (page.to_owned(), live.clone());
        let follows = tokio::spawn(async move {
            let Ok(mut stream) = TcpStream::connect(&address).await else { return };
            let asked = request("/api/live", &address, "keep-alive");
            if stream.write_all(asked.as_bytes()).await.is_err() {
                return;
            }
            let mut buffer = vec![0; 1 << 16];
            while let Ok(bytes) = stream.read(&mut buffer).await
                && bytes > 0
            {
                counted.fetch_add(bytes as u64, Ordering::Relaxed);
            }
        });
        let (address, counted) = (page.to_owned(), metrics.clone());
        let scrapes = tokio::spawn(async move {
            loop {
                tokio::time::sleep(Duration::from_secs(1)).await;
                if let Ok(text) = get(&address, "/metrics").await {
                    counted.fetch_add(text.len() as u64, Ordering::Relaxed);
                }
            }
        });
        Self { live, metrics, tasks: vec![follows, scrapes] }
    }

    /// Bytes of live events, and of metrics, so far.
    pub(crate) fn bytes(&self) -> (u64, u64) {
        (self.live.load(Ordering::Relaxed), self.metrics.load(Ordering::Relaxed))
    }
}

impl Drop for Onlookers {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

fn request(path: &str, address: &str, connection: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: {connection}\r\n\r\n")
}

/// An answer, whole, with its head.
async fn get(address: &str, path: &str) -> Result<String> {
    let answered = async {
        let mut stream = TcpStream::connect(address).await?;
        stream.write_all(request(path, address, "close").as_bytes()).await?;
        let mut text = String::new();
        stream.read_to_string(&mut text).await?;
        anyhow::Ok(text)
    };
    let text = tokio::time::timeout(PATIENCE, answered).await.context("the page did not answer")??;
    ensure!(text.starts_with("HTTP/1.1 200"), "{path}: {}", text.lines().next().unwrap_or_default());
    Ok(text)
}

/// How often the coordinator took at most how long to answer: the bound in seconds and the count up to it.
pub(crate) type Answers = Vec<(f64, f64)>;

/// What the coordinator itself has measured so far, from the last losses in to each equilibrium out.
pub(crate) async fn answers(page: &str) -> Result<Answers> {
    let text = get(page, "/metrics").await?;
    let classes = text.lines().filter_map(|line| {
        let (bound, count) = line.strip_prefix("began_equilibrium_answer_seconds_bucket{le=\"")?.split_once("\"} ")?;
        Some((bound.replace("+Inf", "inf").parse().ok()?, count.trim().parse().ok()?))
    });
    Ok(classes.collect())
}

/// The time, in seconds, that `part` of what came between two looks stayed under; within a class as if it were spread evenly.
pub(crate) fn quantile(before: &Answers, after: &Answers, part: f64) -> f64 {
    let counts: Vec<(f64, f64)> = after
        .iter()
        .enumerate()
        .map(|(class, (bound, count))| (*bound, count - before.get(class).map_or(0.0, |(_, count)| *count)))
        .collect();
    let wanted = counts.last().map_or(0.0, |(_, all)| all * part);
    let mut below = (0.0, 0.0);
    for (bound, count) in counts {
        if count >= wanted && count > below.1 {
            let within = (wanted - below.1) / (count - below.1);
            return if bound.is_finite() { below.0 + within * (bound - below.0) } else { below.0 };
        }
        below = (bound, count);
    }
    f64::NAN
}
