//! The page's interface and `/metrics`, as a script or Prometheus meets them: what is answered, what is refused and how.

use std::fmt::Write as _;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use began_record::{Journal, RunDir};
use began_tests::{Desk, fail, said, succeed, wait_for};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use serde_json::{Value, json};

const FOREVER: u64 = 1_000_000;
/// More than a minute of them.
const STEPS: u64 = 10_000;
const PATIENCE: Duration = Duration::from_secs(20);

/// An answer.
struct Answer {
    status: u16,
    head: String,
    body: Vec<u8>,
}

impl Answer {
    fn json(&self) -> Result<Value> {
        serde_json::from_slice(&self.body).with_context(|| String::from_utf8_lossy(&self.body).into_owned())
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

fn talk(mut stream: impl Read + Write, host: &str, line: &str, headers: &[(&str, &str)], body: &str) -> Result<Answer> {
    let mut request = format!("{line} HTTP/1.1\r\nConnection: close\r\n");
    if !headers.iter().any(|(name, _)| *name == "Host") {
        write!(request, "Host: {host}\r\n")?;
    }
    for (name, value) in headers {
        write!(request, "{name}: {value}\r\n")?;
    }
    if !body.is_empty() {
        write!(request, "Content-Length: {}\r\n", body.len())?;
    }
    stream.write_all(format!("{request}\r\n{body}").as_bytes())?;
    let mut bytes = Vec::new();
    match stream.read_to_end(&mut bytes) {
        // The other end need not say good-bye in TLS.
        Err(error) if error.kind() != std::io::ErrorKind::UnexpectedEof => return Err(error.into()),
        _ => {}
    }
    let end = bytes.windows(4).position(|four| four == b"\r\n\r\n").context("no head")?;
    let head = String::from_utf8(bytes[..end].to_vec())?;
    let status = head.split(' ').nth(1).context("no status")?.parse()?;
    let mut body = bytes[end + 4..].to_vec();
    if head.to_lowercase().contains("transfer-encoding: chunked") {
        body = joined(&body)?;
    }
    Ok(Answer { status, head, body })
}

/// Chunks, joined.
fn joined(mut chunks: &[u8]) -> Result<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let end = chunks.windows(2).position(|two| two == b"\r\n").context("half a chunk")?;
        let length = usize::from_str_radix(std::str::from_utf8(&chunks[..end])?, 16)?;
        if length == 0 {
            return Ok(body);
        }
        body.extend_from_slice(chunks.get(end + 2..end + 2 + length).context("half a chunk")?);
        chunks = &chunks[end + 4 + length..];
    }
}

/// A page in plain text.
struct Page(String);

impl Page {
    fn of(desk: &Desk, name: &str) -> Result<Self> {
        let url = desk.page(name)?;
        let place = url.split("://").nth(1).context("no address")?.trim_end_matches('/').to_owned();
        Ok(Self(place))
    }

    fn connect(&self) -> Result<TcpStream> {
        let stream = TcpStream::connect(&self.0)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        Ok(stream)
    }

    fn ask(&self, line: &str, headers: &[(&str, &str)], body: &str) -> Result<Answer> {
        talk(self.connect()?, &self.0, line, headers, body)
    }

    fn get(&self, path: &str) -> Result<Answer> {
        self.ask(&format!("GET {path}"), &[], "")
    }

    fn post(&self, path: &str, body: &Value) -> Result<Answer> {
        self.ask(&format!("POST {path}"), &[("Content-Type", "application/json")], &body.to_string())
    }

    /// Over TLS, by whom `config` says.
    fn secure(&self, config: &Arc<ClientConfig>, line: &str, headers: &[(&str, &str)], body: &str) -> Result<Answer> {
        let name = ServerName::try_from(began_credentials::COORDINATOR_NAME)?;
        let connection = ClientConnection::new(config.clone(), name)?;
        talk(StreamOwned::new(connection, self.connect()?), &self.0, line, headers, body)
    }
}

#[test]
fn what_is_asked_for_is_answered_from_the_journal_and_what_makes_no_sense_is_refused_by_name() -> Result<()> {
    let desk = Desk::new()?;
    // Windows of the diagnosis grow with the run.
    let running = desk.start("run", 1, 2, STEPS, &["--http", "127.0.0.1:0", "--set", "run.sample_every=4"])?;
    let page = Page::of(&desk, "run")?;
    desk.reach("run", 60)?;

    let run = page.get("/api/run")?.json()?;
    ensure!(run["steps"] == STEPS && run["lanes"] == 4 && run["size"] == 16 && run["world"] == 2, "{run}");
    ensure!(run["rights"] == json!({ "look": true, "control": true }), "{run}");
    ensure!(run["config"].as_str().is_some_and(|text| text.contains("[objective]")), "{run}");
    ensure!(run["manifest"]["launches"][0]["world"] == 2, "{run}");

    let curves = page.get("/api/curves?from=10&to=40&points=100")?.json()?;
    let rows = Journal::read(&RunDir::open(&desk.path("run"))?)?.steps()?;
    ensure!(curves["step"] == json!((10..40).collect::<Vec<u64>>()), "{curves}");
    for (at, row) in rows[10..40].iter().enumerate() {
        let record = row.record;
        for (name, value) in
            [("real", record.real), ("fake", record.fake), ("k", record.k), ("m_global", record.m_global)]
        {
            for part in ["min", "mean", "max"] {
                let there = curves[name][part][at].as_f64().context("no number")?;
                ensure!(there as f32 == value as f32, "step {}: {name} is {there}, not {value}", at + 10);
            }
        }
    }
    let few = page.get("/api/curves?to=40&points=5")?.json()?;
    let counts: u64 = few["count"].as_array().context("no counts")?.iter().filter_map(Value::as_u64).sum();
    ensure!(counts == 40 && few["step"].as_array().is_some_and(|steps| steps.len() <= 5), "{few}");

    let told = desk.events("run")?;
    let events = page.get("/api/events?kind=generation,joined&limit=3")?.json()?;
    let newest = told.iter().rev().find(|event| event.kind == "generation").context("no generation")?;
    ensure!(events["events"][0]["text"] == newest.text.as_str(), "{events}");
    ensure!(events["events"].as_array().is_some_and(|events| events.len() == 3) && events["more"] == false, "{events}");

    wait_for("a window of the diagnosis", || {
        let windows = page.get("/api/windows").ok()?.json().ok()?;
        windows["windows"].get(0).cloned()
    })?;
    let window = page.get("/api/windows")?.json()?["windows"][0].clone();
    let whole = page.get(&format!("/api/windows/{}", window["to"]))?.json()?;
    let counted: u64 =
        whole["real"]["histogram"]["counts"].as_array().context("no counts")?.iter().filter_map(Value::as_u64).sum();
    ensure!(whole["real"]["count"] == counted && window["real"]["histogram"].is_null(), "{whole}");
    let diagnosis = page.get("/api/diagnosis")?.json()?;
    ensure!(diagnosis["findings"].as_array().is_some_and(|findings| findings.len() > 4), "{diagnosis}");

    let steps = page.get("/api/samples")?.json()?["steps"].clone();
    let picture = page.get(&format!("/api/samples/{}", steps[0]))?;
    let file =
        std::fs::read(desk.path("run").join(format!("samples/step-{:08}.png", steps[0].as_u64().context("no step")?)))?;
    ensure!(picture.body == file && picture.head.contains("image/png"), "{}", picture.head);

    let metrics = page.get("/metrics")?.text();
    for name in
        ["began_equilibrium_k ", "began_step_seconds_count ", "began_trainer_resident_bytes{rank=\"1\"", "# EOF"]
    {
        ensure!(metrics.contains(name), "{name} is not in {metrics}");
    }
    ensure!(page.get("/healthz")?.text() == "ok\n", "not healthy");
    let index = page.get("/")?;
    ensure!(
        index.text().contains("<!doctype html>") && index.head.contains("content-security-policy"),
        "{}",
        index.head
    );
    let tag = index.head.lines().find_map(|line| line.strip_prefix("etag: ")).context("no tag")?.to_owned();
    ensure!(page.ask("GET /", &[("If-None-Match", &tag)], "")?.status == 304, "the same page was sent again");

    for (path, status, words) in [
        ("/api/curves?points=1", 400, "points must be 2 to 4096"),
        ("/api/curves?points=many", 400, "makes no sense"),
        ("/api/curves?form=3", 400, "makes no sense"),
        ("/api/windows/999999999", 404, "no window"),
        ("/api/samples/3", 404, "no sample grid of step 3"),
        ("/api/samples/..%2f..%2frun.toml", 400, ""),
        ("/assets/..%2f..%2fCargo.toml", 404, "no file"),
        ("/nothing", 404, "no such thing"),
        ("/api/control", 405, "another way"),
    ] {
        let answer = page.get(path)?;
        ensure!(
            answer.status == status && answer.text().contains(words),
            "{path}: {} {}",
            answer.status,
            answer.text()
        );
    }
    let checkpoint = page.post("/api/control", &json!({ "action": "checkpoint", "reason": "a test" }))?;
    let step = checkpoint.json()?["step"].as_u64().context("no step")?;
    wait_for("the checkpoint", || {
        RunDir::open(&desk.path("run")).ok()?.latest_checkpoint().ok()?.filter(|newest| newest.step.0 >= step)
    })?;
    for (body, words) in [
        (json!({ "action": "explode" }), "there is no action"),
        (json!({ "do": "stop" }), "makes no sense"),
        (json!({ "action": "stop", "reason": "x".repeat(20_000) }), ""),
    ] {
        let answer = page.post("/api/control", &body)?;
        ensure!(
            (400..500).contains(&answer.status) && answer.text().contains(words),
            "{} {}",
            answer.status,
            answer.text()
        );
    }
    ensure!(page.post("/api/control", &json!({ "action": "stop" }))?.status == 200, "it does not stop");
    let output = running.finish()?;
    ensure!(output.status.code() == Some(0), "{:?}: {}", output.status, said(&output));
    Ok(())
}

#[test]
fn live_events_follow_the_run_and_a_page_of_another_site_gets_nothing_and_brings_nothing_about() -> Result<()> {
    let desk = Desk::new()?;
    let running = desk.start("run", 1, 1, FOREVER, &["--http", "127.0.0.1:0"])?;
    let page = Page::of(&desk, "run")?;
    desk.reach("run", 5)?;
    let json_kind = ("Content-Type", "application/json");
    for headers in [
        vec![json_kind, ("Origin", "http://evil.example")],
        vec![json_kind, ("Host", "evil.example")],
        vec![("Content-Type", "text/plain")],
    ] {
        let answer = page.ask("POST /api/control", &headers, r#"{"action":"stop"}"#)?;
        ensure!((400..500).contains(&answer.status), "{headers:?}: {}", answer.status);
    }
    ensure!(page.ask("GET /api/run", &[("Host", "evil.example:80")], "")?.status == 400, "it answers to another name");

    // Rubbish and silence cost nobody else anything.
    let silent: Vec<TcpStream> = (0..40).map(|_| page.connect()).collect::<Result<_>>()?;
    let mut rubbish = page.connect()?;
    rubbish.write_all(&[0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3])?;
    let mut long = page.connect()?;
    let _ =
        long.write_all(format!("GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nX: {}\r\n\r\n", "x".repeat(100_000)).as_bytes());

    let mut live = page.connect()?;
    live.write_all(format!("GET /api/live HTTP/1.1\r\nHost: {}\r\n\r\n", page.0).as_bytes())?;
    let (mut heard, mut buffer) = (String::new(), [0; 4096]);
    while !["event: world", "event: pulse", "event: steps"].iter().all(|kind| heard.contains(kind)) {
        let bytes = live.read(&mut buffer)?;
        ensure!(bytes > 0, "it ended after {heard}");
        heard.push_str(&String::from_utf8_lossy(&buffer[..bytes]));
    }
    drop(silent);
    ensure!(
        page.post("/api/control", &json!({ "action": "stop", "reason": "over" }))?.status == 200,
        "it does not stop"
    );
    while let Ok(bytes) = live.read(&mut buffer)
        && bytes > 0
    {
        heard.push_str(&String::from_utf8_lossy(&buffer[..bytes]));
    }
    ensure!(heard.contains("event: ended") && heard.contains("\"failed\":false"), "{heard}");
    running.finish()?;
    Ok(())
}

#[test]
fn a_run_with_certificates_serves_https_and_each_role_gets_what_it_may() -> Result<()> {
    let desk = Desk::new()?;
    let state = desk.path("state");
    let mut launch = desk.launch("run", 1, 1, FOREVER, &["--http", "127.0.0.1:0", "--tls", "required"]);
    launch.env("XDG_STATE_HOME", &state);
    let running = began_tests::Running::start(launch)?;
    let page = Page::of(&desk, "run")?;
    desk.reach("run", 3)?;
    let announced = RunDir::open(&desk.path("run"))?.announcement()?.context("no announcement")?;
    let folder = announced.credentials.context("no folder of credentials")?;
    let plain = page.get("/").map(|answer| answer.status);
    ensure!(plain.is_err(), "it answers in plain text: {plain:?}");

    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut roots = RootCertStore::empty();
    for certificate in pem(&folder.join("ca.pem"))? {
        roots.add(certificate)?;
    }
    let builder = || {
        let builder =
            ClientConfig::builder_with_provider(provider.clone()).with_protocol_versions(&[&rustls::version::TLS13])?;
        anyhow::Ok(builder.with_root_certificates(roots.clone()))
    };
    let nobody = Arc::new(builder()?.with_no_client_auth());
    let holder = |role: &str| {
        let key = rustls::pki_types::pem::PemObject::from_pem_file(folder.join(format!("{role}.key")))?;
        anyhow::Ok(Arc::new(builder()?.with_client_auth_cert(pem(&folder.join(format!("{role}.pem")))?, key)?))
    };
    let key = |role: &str| {
        let line = succeed("launcher", ["page", &desk.arg("run"), "--role", role])?;
        Ok::<_, anyhow::Error>(format!("Bearer {}", line.trim().split_once("#key=").context("no key")?.1))
    };
    let stop = (r#"{"action":"sample"}"#, ("Content-Type", "application/json"));
    ensure!(page.secure(&nobody, "GET /", &[], "")?.status == 200, "the page itself needs no key");
    for path in ["/api/run", "/metrics", "/api/live"] {
        let answer = page.secure(&nobody, &format!("GET {path}"), &[], "")?;
        ensure!(answer.status == 401 && answer.text().contains("launcher page"), "{path}: {}", answer.text());
    }
    let (observer, control) = (holder("observer")?, holder("control")?);
    ensure!(page.secure(&observer, "GET /metrics", &[], "")?.text().contains("began_equilibrium_k"), "no metrics");
    ensure!(page.secure(&observer, "POST /api/control", &[stop.1], stop.0)?.status == 403, "an observer may control");
    ensure!(page.secure(&control, "POST /api/control", &[stop.1], stop.0)?.status == 200, "control may not");
    let (observer, control) = (key("observer")?, key("control")?);
    let with = |key: &str, line: &str, body: &str| page.secure(&nobody, line, &[("Authorization", key), stop.1], body);
    ensure!(with(&observer, "GET /metrics", "")?.status == 200, "a key does not open the metrics");
    ensure!(with(&observer, "POST /api/control", stop.0)?.status == 403, "an observer's key may control");
    ensure!(with(&control, "POST /api/control", stop.0)?.status == 200, "control's key may not");
    ensure!(with("Bearer wrong", "GET /api/run", "")?.status == 401, "a wrong key opens it");
    let signed_in = with("", "POST /api/login", &json!({ "key": control.trim_start_matches("Bearer ") }).to_string())?;
    for word in ["HttpOnly", "Secure", "SameSite=Strict"] {
        ensure!(signed_in.status == 204 && signed_in.head.contains(word), "{}", signed_in.head);
    }
    drop(running);
    Ok(())
}

fn pem(path: &std::path::Path) -> Result<Vec<rustls::pki_types::CertificateDer<'static>>> {
    use rustls::pki_types::pem::PemObject;
    let read = rustls::pki_types::CertificateDer::pem_file_iter(path)?.collect::<std::result::Result<_, _>>();
    read.with_context(|| path.display().to_string())
}

#[test]
fn an_address_that_cannot_be_used_is_named_and_nothing_is_left() -> Result<()> {
    let desk = Desk::new()?;
    let taken = std::net::TcpListener::bind("127.0.0.1:0")?;
    let taken = taken.local_addr()?.to_string();
    for (more, words) in [
        (vec!["--http", taken.as_str()], "choose another --http"),
        (vec!["--http", "nonsense"], "the page cannot listen on nonsense"),
        (vec!["--http", "0.0.0.0:0", "--tls", "off"], "reachable from other machines"),
    ] {
        let (code, text) = fail("launcher", desk.training("run", 1, 1, 5, &more))?;
        ensure!(code == 2 && text.contains(words), "{more:?}: {code} {text}");
        let _ = std::fs::remove_dir_all(desk.path("run"));
    }
    let (code, text) = fail("launcher", ["page", &desk.arg("nowhere")])?;
    ensure!(code == 2 && text.contains("nowhere"), "{text}");
    Ok(())
}
