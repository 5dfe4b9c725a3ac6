//! Who may speak to a coordinator: strangers of every kind come to one that has a run going on. Each is refused and said once, and
//! the run ends with the digest of one that nobody disturbed.

use std::io;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result, ensure};
use began::RunConfig;
use began_credentials::authority::Validity;
use began_credentials::bundle::Paths;
use began_credentials::{Authority, Bundle, Client, Role, Stream, Token, token};
use began_proto::v1::control_request::Action;
use began_proto::v1::coordinator_client::CoordinatorClient;
use began_proto::v1::{ControlRequest, ExchangeRequest, StatusRequest};
use began_record::{RunDir, RunManifest};
use began_tests::{Course, Desk, Disturbed, Running, program, said, succeed, wait_for};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::unistd::Pid;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::runtime::Runtime;
use tokio::time::timeout;
use tonic::Code;
use tonic::transport::{Channel, Endpoint};

/// No single thing here takes longer.
const PATIENCE: Duration = Duration::from_secs(40);
/// How many connections a flood has.
const FLOOD: u64 = 10_000;

/// A coordinator that takes certificates and a token, and two trainers: one shows a certificate, one holds the token.
struct Guarded {
    // In this order: who runs is ended before what it runs on is taken away.
    trainers: Vec<Running>,
    coordinator: Option<Running>,
    desk: Desk,
    authority: Authority,
    token: String,
    address: String,
    runtime: Runtime,
}

impl Guarded {
    fn start() -> Result<Self> {
        let desk = Desk::new()?;
        let authority = Authority::new("test")?;
        let token = "a token of a test, which is long enough".to_owned();
        std::fs::write(desk.path("token"), &token)?;
        let config = config(&desk)?;
        let digest = began_data::Manifest::load(&desk.path("data"))?.digest;
        RunDir::create(&desk.path("run"), &config, &RunManifest::new(&config, digest))?;
        let mut command = program("coordinator");
        command.args(["--run", &desk.arg("run"), "--world", "2", "--token-file", &desk.arg("token")]);
        show(&mut command, &desk, &authority.issue(Role::Coordinator, &["127.0.0.1".into()])?, Role::Coordinator)?;
        let coordinator = Some(Running::start(command)?);
        let run = RunDir::open(&desk.path("run"))?;
        let announced = wait_for("the coordinator to listen", || run.announcement().ok().flatten())?;
        ensure!(announced.tls, "it listens in plain text");
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
        let mut guarded =
            Self { trainers: Vec::new(), coordinator, desk, authority, token, address: announced.address, runtime };
        for local_rank in 0..2 {
            let mut command = program("trainer");
            let (desk, local_rank) = (&guarded.desk, local_rank.to_string());
            command.args(["run", "--coordinator", &guarded.address, "--run", &desk.arg("run"), "--device", "cpu"]);
            command
                .args(["--node", "0", "--local-rank", &local_rank])
                .env("OMP_NUM_THREADS", "1")
                .env("MKL_NUM_THREADS", "1");
            match local_rank.as_str() {
                "0" => show(&mut command, desk, &guarded.authority.issue(Role::Trainer, &[])?, Role::Trainer)?,
                _ => drop(command.args(["--token-file", &desk.arg("token")])),
            }
            guarded.trainers.push(Running::start(command)?);
        }
        Ok(guarded)
    }

    fn pid(&self) -> Result<Pid> {
        Ok(self.coordinator.as_ref().context("it ended")?.pid())
    }

    /// As one of the run's own.
    fn client(&self, role: Role) -> Result<Client> {
        Ok(Client::with_certificate(&self.authority.issue(role, &[])?)?)
    }

    fn call(&self, role: Role) -> Result<CoordinatorClient<Channel>> {
        let client = self.client(role)?;
        let (address, endpoint) = (&self.address, endpoint(&self.address)?);
        Ok(CoordinatorClient::new(
            self.runtime.block_on(async { timeout(PATIENCE, client.connect(endpoint, address)).await })??,
        ))
    }

    /// That one who shows this is not let in.
    fn refuses(&self, client: &Client) -> Result<()> {
        let answered = self.runtime.block_on(async {
            let mut stream = client.open(&self.address).await?;
            heard(&mut stream).await
        });
        match answered {
            Ok(heard) => anyhow::bail!("it was answered {heard:?}"),
            Err(_) => Ok(()),
        }
    }

    fn status(&self) -> Result<u64> {
        let mut client = self.call(Role::Observer)?;
        Ok(self.runtime.block_on(client.status(StatusRequest {}))?.into_inner().step)
    }

    /// Inside TLS, without a word about who this is.
    async fn without_certificate(&self, protocol: &[u8]) -> Result<tokio_rustls::client::TlsStream<TcpStream>> {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(self.authority.certificate().as_bytes())?)?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
        let mut config = builder.with_root_certificates(roots).with_no_client_auth();
        config.alpn_protocols = vec![protocol.to_vec()];
        let name = ServerName::try_from(began_credentials::COORDINATOR_NAME)?;
        let stream = TcpStream::connect(&self.address).await?;
        Ok(tokio_rustls::TlsConnector::from(Arc::new(config)).connect(name, stream).await?)
    }
}

/// What comes from the other side; an error if it hangs up.
async fn heard(stream: &mut (impl AsyncReadExt + Unpin)) -> io::Result<Vec<u8>> {
    let mut heard = [0; 64];
    match timeout(PATIENCE, stream.read(&mut heard)).await?? {
        0 => Err(io::ErrorKind::UnexpectedEof.into()),
        length => Ok(heard[..length].to_vec()),
    }
}

fn endpoint(address: &str) -> Result<Endpoint> {
    Ok(Endpoint::from_shared(format!("http://{address}"))?)
}

fn show(command: &mut Command, desk: &Desk, bundle: &Bundle, role: Role) -> Result<()> {
    let paths: Paths = bundle.write(&desk.path("tls"), role)?;
    command.envs(paths.environment());
    Ok(())
}

/// What [`Desk::training`] trains, without an end.
fn config(desk: &Desk) -> Result<RunConfig> {
    let mut config = RunConfig::default();
    (config.model.size, config.model.filters, config.model.latent) = (16, 4, 6);
    (config.run.lanes, config.run.batch, config.run.steps) = (4, 3, 1_000_000);
    config.data.path = desk.arg("data");
    config.validate()?;
    Ok(config)
}

#[test]
fn strangers_are_refused_and_said_once_each_and_the_run_goes_on() -> Result<()> {
    let mut run = Guarded::start()?;
    run.desk.reach("run", 3)?;
    // Twice each: what is said once is said once.
    for _ in 0..2 {
        no_certificate(&run)?;
        certificates_of_others(&run)?;
        a_replayed_token(&run)?;
        plain_text(&run)?;
        a_message_of_a_gibibyte(&run)?;
        others_rights(&run)?;
    }
    let before = run.status()?;
    let hurried = ten_thousand_connections(&run)?;
    run.desk.reach("run", before as usize + 1)?;

    let mut control = run.call(Role::Control)?;
    let stop = ControlRequest { action: Action::Stop.into(), reason: "the test".into(), grace_seconds: 0.0 };
    run.runtime.block_on(control.control(stop))?;
    let output = run.coordinator.take().context("it ended")?.finish()?;
    let log = said(&output);
    ensure!(output.status.success() && !log.contains("panicked at"), "{log}");
    for trainer in std::mem::take(&mut run.trainers) {
        let output = trainer.finish()?;
        ensure!(output.status.success(), "{}", said(&output));
    }
    for (words, due) in [
        ("showed no certificate", true),
        ("not of this run's authority", true),
        ("has expired", true),
        ("does not hold the run token", true),
        ("speaks plain text", true),
        ("a message of more than", true),
        ("a stream is closed: Error, decoded message length too large", true),
        ("as trainer it may not ask for /began.v1.Coordinator/Control", true),
        ("as observer it may not ask for /began.v1.Coordinator/Exchange", true),
        ("as observer it may not ask for /nothing.of.the.kind/Here", true),
        ("it connects too often", hurried),
        ("its had waited longest", true),
    ] {
        let lines: Vec<&str> = log.lines().filter(|line| line.contains(words) && line.contains("said once")).collect();
        ensure!(lines.len() == 1 || !due && lines.is_empty(), "{words:?} is in {} lines of\n{log}", lines.len());
    }
    ensure!(log.contains("were turned away in all"), "{log}");
    ensure!(!log.contains(&run.token), "the token is in the log");

    let digest = run.desk.digest("run")?;
    let steps = digest.split_whitespace().next().context("no digest")?.parse()?;
    let undisturbed = run.desk.train("undisturbed", 1, 2, steps, &[])?;
    ensure!(digest == undisturbed, "{digest} is not {undisturbed}");
    Ok(())
}

fn no_certificate(run: &Guarded) -> Result<()> {
    run.runtime.block_on(async {
        let mut stream = run.without_certificate(b"h2").await?;
        ensure!(heard(&mut stream).await.is_err(), "it was answered");
        Ok(())
    })
}

fn certificates_of_others(run: &Guarded) -> Result<()> {
    let mut forged = Authority::new("test")?.issue(Role::Control, &[])?;
    forged.authority = run.authority.certificate().to_owned();
    run.refuses(&Client::with_certificate(&forged)?)?;
    let (now, hour) = (SystemTime::now(), Duration::from_secs(3600));
    let expired = Validity { from: now - 2 * hour, until: now - hour };
    run.refuses(&Client::with_certificate(&run.authority.issue_for(Role::Control, &[], expired)?)?)
}

/// What was said on one connection, by one who holds the token, is said again on another.
fn a_replayed_token(run: &Guarded) -> Result<()> {
    run.runtime.block_on(async {
        let mut honest = run.without_certificate(token::PROTOCOL).await?;
        let proof = Token::new(&run.token)?.prove(Role::Control, &token::binding(honest.get_ref().1)?);
        honest.write_all(&proof).await?;
        honest.flush().await?;
        ensure!(heard(&mut honest).await?.len() >= token::PROOF, "the honest one is not let in");
        let mut replayed = run.without_certificate(token::PROTOCOL).await?;
        replayed.write_all(&proof).await?;
        replayed.flush().await?;
        ensure!(heard(&mut replayed).await.is_err(), "it was answered");
        Ok(())
    })
}

fn plain_text(run: &Guarded) -> Result<()> {
    let connected = run.runtime.block_on(async {
        let channel = endpoint(&run.address)?.connect().await?;
        Ok::<_, anyhow::Error>(CoordinatorClient::new(channel).status(StatusRequest {}).await?)
    });
    ensure!(connected.is_err(), "it was answered {connected:?}");
    // The tool, too, has nothing to show.
    let mut command = program("launcher");
    command.args(["status", &run.address]);
    let output = began_tests::finish(command)?;
    ensure!(output.status.code() == Some(2), "{}", said(&output));
    Ok(())
}

/// One of the run's own trainers announces more than anybody sends.
fn a_message_of_a_gibibyte(run: &Guarded) -> Result<()> {
    let client = run.client(Role::Trainer)?;
    for method in ["Exchange", "Session"] {
        let status = run.runtime.block_on(async {
            let stream = client.open(&run.address).await?;
            timeout(PATIENCE, gibibyte(stream, method)).await?
        })?;
        ensure!(status == Code::OutOfRange, "{method}: {status:?}");
    }
    Ok(())
}

async fn gibibyte(stream: Stream, method: &str) -> Result<Code> {
    let (mut client, connection) = h2::client::handshake(stream).await?;
    let connection = tokio::spawn(connection);
    let request = http::Request::post(format!("http://coordinator/began.v1.Coordinator/{method}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(())?;
    let (response, mut body) = client.send_request(request, false)?;
    // Not compressed, and 2^30 bytes long.
    let mut message = vec![0, 0x40, 0, 0, 0];
    message.resize(10_000, 7);
    body.send_data(message.into(), false)?;
    let response = response.await?;
    let status = match response.headers().get("grpc-status") {
        Some(status) => status.clone(),
        None => {
            let mut incoming = response.into_body();
            while let Some(chunk) = incoming.data().await {
                let _: bytes::Bytes = chunk?;
            }
            let trailers = incoming.trailers().await?.context("no trailers")?;
            trailers.get("grpc-status").context("no status")?.clone()
        }
    };
    connection.abort();
    Ok(Code::from_bytes(status.as_bytes()))
}

/// Whoever has some rights learns nothing of what others have.
fn others_rights(run: &Guarded) -> Result<()> {
    let (mut trainer, mut observer) = (run.call(Role::Trainer)?, run.call(Role::Observer)?);
    let stop = ControlRequest { action: Action::Stop.into(), reason: "mischief".into(), grace_seconds: 0.0 };
    let refused = run.runtime.block_on(async {
        let stopped = trainer.control(stop).await.err();
        let exchanged = observer.exchange(ExchangeRequest::default()).await.err();
        let client = run.client(Role::Observer)?;
        let channel = client.connect(endpoint(&run.address)?, &run.address).await?;
        let mut any = tonic::client::Grpc::new(channel);
        any.ready().await?;
        let path = http::uri::PathAndQuery::from_static("/nothing.of.the.kind/Here");
        let codec = tonic_prost::ProstCodec::<StatusRequest, StatusRequest>::default();
        let unknown = any.unary(tonic::Request::new(StatusRequest {}), path, codec).await.err();
        Ok::<_, anyhow::Error>([stopped, exchanged, unknown])
    })?;
    for status in refused {
        let status = status.context("it was allowed")?;
        ensure!(status.code() == Code::PermissionDenied && status.message() == "not allowed", "{status:?}");
    }
    Ok(())
}

/// Whether they came much faster than one address may connect: on a busy machine they may not.
fn ten_thousand_connections(run: &Guarded) -> Result<bool> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    let files = if setrlimit(Resource::RLIMIT_NOFILE, hard, hard).is_ok() { hard } else { soft };
    let many = FLOOD.min(files.saturating_sub(256));
    if many < FLOOD {
        println!("only {many} connections: no more than {files} files may be open here");
    }
    let start = Instant::now();
    run.runtime.block_on(async {
        let mut open = Vec::new();
        let flood = async {
            while (open.len() as u64) < many {
                let more = (many - open.len() as u64).min(250);
                let connecting: Vec<_> =
                    (0..more).map(|_| tokio::spawn(TcpStream::connect(run.address.clone()))).collect();
                for connection in connecting {
                    // One that is closed before it is taken counts as well: it came.
                    open.push(connection.await.ok().and_then(Result::ok));
                }
            }
        };
        timeout(PATIENCE, flood).await.context("the flood does not get through")?;
        let came = open.iter().flatten().count() as u64;
        ensure!(came > many / 2, "only {came} of {many} connections were made");
        let held = std::fs::read_dir(format!("/proc/{}/fd", run.pid()?))?.count();
        ensure!(held < 1200, "the coordinator holds {held} files");
        Ok(())
    })?;
    // 1,024 and twice the world at once, 500 a second after that.
    let allowed = 1028.0 + 500.0 * start.elapsed().as_secs_f64();
    // One of the run's own is let in again as soon as the pace allows.
    wait_for("an observer to be let in after the flood", || run.status().ok())?;
    Ok(many as f64 > 2.0 * allowed)
}

#[test]
fn a_launch_with_tls_required_heals_answers_its_own_tools_and_leaves_no_keys() -> Result<()> {
    let state = tempfile::tempdir()?;
    let home = state.path().display().to_string();
    let environment = [("XDG_STATE_HOME", home.as_str())];
    let mut run =
        Disturbed::start(Course { habits: &["--tls", "required"], environment: &environment, ..Course::default() })?;
    run.reach(20)?;
    let folder = RunDir::open(&run.desk.path("run"))?.announcement()?.context("nothing is announced")?.credentials;
    let folder = folder.context("no credentials are announced")?;
    ensure!(folder.starts_with(state.path()) && folder.join("trainer.key").is_file(), "{folder:?}");
    let status = succeed("launcher", ["status", &run.desk.arg("run")])?;
    ensure!(status.contains("is running"), "{status}");
    run.kill(&run.processes("coordinator"))?;
    run.ends_as_if_undisturbed()?;
    ensure!(!folder.exists(), "the keys are still in {folder:?}");
    Ok(())
}
