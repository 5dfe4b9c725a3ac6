//! Talking with the coordinator: watching the run, asking where it stands, asking it to stop.
//!
//! Nothing here waits without a bound for an answer; the watch itself lasts as long as the run.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use began_credentials::Client;
use began_proto::MAX_MESSAGE;
use began_proto::v1::control_request::Action;
use began_proto::v1::coordinator_client::CoordinatorClient;
use began_proto::v1::watch_event::Body;
use began_proto::v1::{ControlRequest, StatusRequest, StatusResponse, WatchRequest};
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};
use tonic::transport::{Channel, Endpoint};

/// How long the coordinator may take for one answer.
const ANSWER: Duration = Duration::from_secs(5);

/// How long, of the time that a stopping run has, is left for what comes after its last step.
const WRITING: Duration = Duration::from_secs(2);

/// Where a coordinator is, and what to show it.
#[derive(Clone, Debug)]
pub struct Contact {
    /// `host:port`.
    pub address: String,
    /// Who asks.
    pub credentials: Client,
}

/// A connection to a coordinator.
///
/// # Errors
/// If nothing answers there, or it does not let us in.
pub async fn connect(to: &Contact) -> Result<CoordinatorClient<Channel>> {
    let address = &to.address;
    let port = address.rsplit_once(':').and_then(|(host, port)| port.parse::<u16>().ok().filter(|_| !host.is_empty()));
    if port.is_none() {
        return Err(anyhow!("{address} is not an address of the form host:port, with a port up to 65535"));
    }
    let endpoint = Endpoint::from_shared(format!("http://{address}"))
        .with_context(|| format!("{address} is not an address of the form host:port"))?
        .connect_timeout(ANSWER);
    let channel = timeout(ANSWER, to.credentials.connect(endpoint, address))
        .await
        .map_err(|_| anyhow!("the coordinator at {address} did not answer within {} s", ANSWER.as_secs()))?
        .with_context(|| format!("no coordinator answers at {address}"))?;
    Ok(CoordinatorClient::new(channel).max_decoding_message_size(MAX_MESSAGE).max_encoding_message_size(MAX_MESSAGE))
}

/// Where the run of a coordinator stands.
///
/// # Errors
/// If it does not answer.
pub async fn status(to: &Contact) -> Result<StatusResponse> {
    let (address, mut client) = (&to.address, connect(to).await?);
    let answer = timeout(ANSWER, client.status(StatusRequest {})).await;
    let answer = answer.map_err(|_| {
        anyhow!("the coordinator at {address} did not say within {} s where the run stands", ANSWER.as_secs())
    })?;
    Ok(answer.map_err(|status| anyhow!("the coordinator at {address} said: {}", status.message()))?.into_inner())
}

/// Asks the coordinator to finish the step, write a checkpoint and end; returns the step after which it will. `grace`: after
/// how long whoever asks ends everything, if it will.
///
/// # Errors
/// If it does not answer, or refuses.
pub async fn ask_to_stop(to: &Contact, reason: &str, grace: Option<Duration>) -> Result<u64> {
    control(to, Action::Stop, reason, grace).await
}

/// As [`ask_to_stop`], with everything ended after `grace`; a coordinator that does not answer, because it is being started
/// again, is asked until half of that time is over.
///
/// # Errors
/// If it does not answer until then, or refuses.
pub async fn stop_within(to: &Contact, reason: &str, grace: Duration) -> Result<u64> {
    let start = Instant::now();
    loop {
        // What it takes to write the checkpoint and to end comes after the step, within the same time.
        let left = grace.saturating_sub(start.elapsed());
        let for_step = left.saturating_sub(WRITING).max(left / 2).max(Duration::from_millis(100));
        match connect(to).await {
            Err(_) if start.elapsed() < grace / 2 => sleep(Duration::from_millis(200)).await,
            Err(error) => return Err(error),
            Ok(_) => return ask_to_stop(to, reason, Some(for_step)).await,
        }
    }
}

/// Asks the coordinator for a checkpoint after the next step.
///
/// # Errors
/// If it does not answer, or refuses.
pub async fn ask_for_checkpoint(to: &Contact, reason: &str) -> Result<u64> {
    control(to, Action::Checkpoint, reason, None).await
}

/// Asks the coordinator for a grid of samples after the next step.
///
/// # Errors
/// If it does not answer, or refuses.
pub async fn ask_for_samples(to: &Contact, reason: &str) -> Result<u64> {
    control(to, Action::Sample, reason, None).await
}

/// Writes a sentence into the run's journal, as an event of the kind "chaos".
///
/// # Errors
/// If the coordinator does not answer.
pub async fn note(to: &Contact, text: &str) -> Result<()> {
    control(to, Action::Note, text, None).await.map(drop)
}

async fn control(to: &Contact, action: Action, reason: &str, grace: Option<Duration>) -> Result<u64> {
    let (address, mut client) = (&to.address, connect(to).await?);
    let grace_seconds = grace.map_or(0.0, |grace| grace.as_secs_f64());
    let request = ControlRequest { action: action.into(), reason: reason.into(), grace_seconds };
    let answer = timeout(ANSWER, client.control(request)).await;
    let answer =
        answer.map_err(|_| anyhow!("the coordinator at {address} did not answer within {} s", ANSWER.as_secs()))?;
    Ok(answer
        .map_err(|status| anyhow!("the coordinator at {address} refused: {}", status.message()))?
        .into_inner()
        .step)
}

/// Sends everything the coordinator tells about the run to `seen`, until it says that the run ended or nobody listens.
/// A broken stream is taken up again: whether the coordinator died is for those to say who see its process.
pub async fn follow(to: Contact, seen: mpsc::UnboundedSender<Body>) {
    let mut pause = Duration::from_millis(100);
    while !seen.is_closed() {
        if let Ok(mut client) = connect(&to).await
            && let Ok(Ok(stream)) = timeout(ANSWER, client.watch(WatchRequest {})).await
        {
            let mut stream = stream.into_inner();
            pause = Duration::from_millis(100);
            while let Ok(Some(event)) = stream.message().await {
                let Some(body) = event.body else { continue };
                let last = matches!(body, Body::Ended(_));
                if seen.send(body).is_err() || last {
                    return;
                }
            }
        }
        sleep(pause).await;
        pause = (pause * 2).min(Duration::from_secs(2));
    }
}
