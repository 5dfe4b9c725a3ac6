//! The page of a live run in a real Chromium: every view, every button, what assistive technology meets, how fast it is there.
//! Skipped where there is no Chromium.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use began_tests::browser::{Browser, there_is_a_browser};
use began_tests::{Desk, programs, said, succeed, wait_for};
use serde_json::{Value, json};

/// Long enough that no test sees its end.
const FOREVER: u64 = 1_000_000;
const VIEWS: [&str; 7] = ["overview", "phase", "samples", "losses", "world", "history", "manifest"];
const LAPTOP: (u32, u32) = (1440, 900);
const PHONE: (u32, u32) = (390, 844);

fn in_a_runtime(test: impl Future<Output = Result<()>>) -> Result<()> {
    if !there_is_a_browser() {
        return Ok(());
    }
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(test)
}

/// axe-core, if set-up has fetched it.
fn axe() -> Option<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../third_party/axe/axe.min.js");
    let text = std::fs::read_to_string(path).ok();
    if text.is_none() {
        eprintln!("skipped: accessibility is not checked, axe-core is not here (setup/axe.py fetches it)");
    }
    text
}

async fn show(browser: &Browser, view: &str) -> Result<()> {
    browser.click(&format!("tab-{view}")).await?;
    let script = format!(
        "const p = document.getElementById('panel-{view}'); \
         return p && !p.hidden && p.innerText.trim().length > 20 && location.hash === '#/{view}'"
    );
    browser.wait(&format!("the view {view}"), &script).await.map(|_| ())
}

/// Nothing of impact serious or critical in the view that is shown.
async fn accessible(browser: &Browser, axe: &str, place: &str) -> Result<()> {
    // Run as the driver's own script: the page's policy would not let it be a part of the page.
    browser.run(&format!("{axe}; window.axe = axe;"), vec![]).await?;
    let found = browser
        .run("return axe.run(document, { resultTypes: ['violations'] }).then((found) => found.violations)", vec![])
        .await?;
    let bad: Vec<String> = found
        .as_array()
        .context("axe said nothing")?
        .iter()
        .filter(|one| one["impact"] == "serious" || one["impact"] == "critical")
        .map(|one| format!("{} ({}): {}", one["id"], one["impact"], one["nodes"][0]["html"]))
        .collect();
    ensure!(bad.is_empty(), "{place}: {bad:#?}");
    Ok(())
}

/// No text or control sticks out of the window sideways.
async fn fits(browser: &Browser, place: &str) -> Result<()> {
    let width = browser.run("return document.documentElement.scrollWidth - window.innerWidth", vec![]).await?;
    ensure!(width.as_f64().is_some_and(|more| more <= 1.0), "{place}: the page is {width} pixels too wide");
    Ok(())
}

#[test]
fn every_view_shows_a_live_run_of_four_trainers_and_every_button_does_what_it_says() -> Result<()> {
    in_a_runtime(async {
        let desk = Desk::new()?;
        let http = ["--http", "127.0.0.1:0", "--set", "run.sample_every=5"];
        let running = desk.start("run", 2, 2, FOREVER, &http)?;
        let page = desk.page("run")?;
        desk.reach("run", 12)?;
        let browser = Browser::open(LAPTOP.0, LAPTOP.1, false).await?;
        browser.go(&page).await?;

        browser.wait_for_text("run-name", "run").await?;
        browser.wait_for_text("phase", "running").await?;
        first_paint(&browser, &page).await?;

        // It is live: the step goes up by itself.
        let step = "return Number(document.getElementById('step-now').textContent.replace(/\\D/g, ''))";
        let before = browser.wait("a step", step).await?;
        let later = format!(
            "const now = Number(document.getElementById('step-now').textContent.replace(/\\D/g, '')); return now > {before} && now"
        );
        browser.wait("a later step", &later).await?;

        for view in VIEWS {
            show(&browser, view).await?;
            browser.shoot(&format!("four-{view}-laptop-light")).await?;
        }
        overview(&browser).await?;
        samples(&browser).await?;
        others(&browser).await?;

        // Buttons: what they bring about stands in the journal.
        browser.click("do-checkpoint").await?;
        wait_for("a checkpoint", || desk.told("run", "checkpoint").ok()?.pop())?;
        browser.click("do-sample").await?;
        browser.wait_for_text("announcer", "ample").await?;
        browser.click("do-stop").await?;
        browser.wait("the question", "return document.getElementById('stop-run')?.open").await?;
        browser.click("stop-cancel").await?;
        browser.wait("the question gone", "return !document.getElementById('stop-run')?.open").await?;
        browser.click("do-stop").await?;
        browser.type_into("stop-reason", "seen enough").await?;
        browser.click("stop-go").await?;
        browser.wait_for_text("banner", "nded").await?;
        let output = running.finish()?;
        ensure!(output.status.code() == Some(0), "{:?}: {}", output.status, said(&output));
        let why = desk.events("run")?.into_iter().map(|event| event.text).collect::<String>();
        ensure!(why.contains("seen enough"), "the reason is not in the journal: {why}");
        // Once the coordinator is gone its page says so, and asks in vain.
        browser.no_complaints(&["Failed to load resource", "net::ERR"]).await?;
        browser.close().await
    })
}

/// The first paint comes within a second, at the best of a few tries: trainers and other tests want the same cores.
async fn first_paint(browser: &Browser, page: &str) -> Result<()> {
    let mut best = f64::INFINITY;
    for _ in 0..8 {
        let script = "return performance.getEntriesByName('first-contentful-paint')[0]?.startTime";
        best = best.min(browser.wait("the first paint", script).await?.as_f64().context("no time")?);
        if best < 1000.0 {
            eprintln!("first paint after {best:.0} ms");
            return Ok(());
        }
        browser.go(page).await?;
        browser.wait_for_text("phase", "running").await?;
    }
    bail!("first paint after {best:.0} ms at best")
}

/// The curves: zoom, scale, smoothing, values as text and as a table.
async fn overview(browser: &Browser) -> Result<()> {
    show(browser, "overview").await?;
    let range = "return document.getElementById('panel-overview').innerText";
    browser.wait("the verdict", "return document.getElementById('verdict')?.innerText").await?;
    let all = browser.run(range, vec![]).await?;
    for id in ["zoom-in", "zoom-in", "pan-left", "pan-right", "zoom-out", "zoom-reset"] {
        browser.click(id).await?;
    }
    ensure!(all.as_str().is_some_and(|text| text.contains("M_global")), "{all}");
    browser.click("logarithmic").await?;
    browser.set("smoothing", "0.5").await?;
    let drawn = "const canvas = document.querySelector('#plot-losses canvas'); \
                 const data = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data; \
                 return new Set(new Uint32Array(data.buffer)).size > 8";
    browser.wait("the losses as curves", drawn).await?;
    browser.click("logarithmic").await?;
    browser.run("document.querySelector('#plot-losses details.as-table').open = true", vec![]).await?;
    browser
        .wait(
            "the losses as a table",
            "return document.querySelectorAll('#plot-losses details.as-table tr').length > 3",
        )
        .await?;
    Ok(())
}

/// The film of samples.
async fn samples(browser: &Browser) -> Result<()> {
    show(browser, "samples").await?;
    browser.wait("a sample's step", "return /\\d/.test(document.getElementById('film-step')?.innerText)").await?;
    let drawn = "const canvas = document.getElementById('film-canvas'); \
                 const data = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data; \
                 return new Set(new Uint32Array(data.buffer)).size > 50";
    browser.wait("a sample grid", drawn).await?;
    browser.click("film-first").await?;
    browser.wait_for_text("film-step", "5").await?;
    browser.click("film-next").await?;
    browser.wait_for_text("film-step", "10").await?;
    browser.click("film-previous").await?;
    browser.click("film-play").await?;
    browser.click("film-play").await?;
    browser.click("film-last").await?;
    Ok(())
}

/// Phase plot, distributions, world, history, manifest.
async fn others(browser: &Browser) -> Result<()> {
    show(browser, "phase").await?;
    browser
        .wait("the phase plot", "return document.querySelector('#phase-chart canvas, canvas#phase-chart') !== null")
        .await?;
    show(browser, "losses").await?;
    show(browser, "world").await?;
    browser
        .wait("four trainers", "return document.querySelectorAll('#world-table tbody tr:not(.spacer)').length === 4")
        .await?;
    browser.set("world-filter", "rank 3").await?;
    browser.set("world-filter", "").await?;
    let colours =
        browser.run("return [...document.getElementById('map-colour').options].map((o) => o.value)", vec![]).await?;
    let colours: Vec<&str> = colours.as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    ensure!(colours.len() >= 5, "the map has the colours {colours:?}");
    for colour in colours {
        browser.set("map-colour", colour).await?;
    }
    show(browser, "history").await?;
    browser.wait_for_text("generations", "generation 1 opens with 4 trainers").await?;
    browser.wait_for_text("events", "joined").await?;
    browser.set("event-text", "nothing holds this").await?;
    browser.wait("no events", "return !document.getElementById('events').innerText.includes('joined')").await?;
    browser.set("event-text", "").await?;
    browser.wait_for_text("events", "joined").await?;
    show(browser, "manifest").await?;
    browser.wait_for_text("run-toml", "[objective]").await?;
    browser.wait_for_text("launches", "cpu").await?;
    Ok(())
}

#[test]
fn in_dark_and_light_on_a_laptop_and_a_phone_every_view_is_accessible_and_fits() -> Result<()> {
    in_a_runtime(async {
        let axe = axe();
        let desk = Desk::new()?;
        let running = desk.start("run", 2, 2, FOREVER, &["--http", "127.0.0.1:0", "--set", "run.sample_every=5"])?;
        let page = desk.page("run")?;
        desk.reach("run", 12)?;
        for (size, (width, height)) in [("laptop", LAPTOP), ("phone", PHONE)] {
            for (scheme, dark) in [("light", false), ("dark", true)] {
                let browser = Browser::open(width, height, dark).await?;
                browser.go(&page).await?;
                browser.wait_for_text("phase", "running").await?;
                for view in VIEWS {
                    show(&browser, view).await?;
                    let place = format!("{view}, {size}, {scheme}");
                    fits(&browser, &place).await?;
                    if let Some(axe) = &axe {
                        accessible(&browser, axe, &place).await?;
                    }
                    browser.shoot(&format!("four-{view}-{size}-{scheme}")).await?;
                }
                browser.no_complaints(&[]).await?;
                browser.close().await?;
            }
        }
        succeed("launcher", ["stop", &desk.arg("run")])?;
        running.finish()?;
        Ok(())
    })
}

#[test]
fn a_run_with_a_token_asks_who_is_there_and_gives_buttons_only_to_those_who_may() -> Result<()> {
    in_a_runtime(async {
        let desk = Desk::new()?;
        let token = desk.path("token");
        std::fs::write(&token, "0123456789abcdef0123456789abcdef")?;
        let token = token.display().to_string();
        let running = desk.start("run", 1, 2, FOREVER, &["--http", "127.0.0.1:0", "--token-file", &token])?;
        let page = desk.page("run")?;
        ensure!(page.starts_with("https://"), "{page}");
        desk.reach("run", 3)?;
        let address =
            |role: &str| succeed("launcher", ["page", &desk.arg("run"), "--role", role, "--token-file", &token]);
        let (control, observer) = (address("control")?, address("observer")?);
        let key = control.trim().split_once("#key=").context("no key in the address")?.1.to_owned();

        let browser = Browser::open(LAPTOP.0, LAPTOP.1, false).await?;
        browser.go(&page).await?;
        browser.wait("the sign-in", "return document.getElementById('sign-in').open").await?;
        browser.shoot("sign-in-laptop-light").await?;
        browser.type_into("key", "not the key").await?;
        browser.click("sign-in-go").await?;
        browser
            .wait("a refusal", "return document.getElementById('sign-in').innerText.includes('no page key')")
            .await?;
        browser.run("document.getElementById('key').value = ''", vec![]).await?;
        browser.type_into("key", &key).await?;
        browser.click("sign-in-go").await?;
        browser.wait_for_text("phase", "running").await?;
        ensure!(browser.sees("do-stop").await?, "who may control sees no buttons");
        browser.close().await?;

        let browser = Browser::open(LAPTOP.0, LAPTOP.1, true).await?;
        browser.go(observer.trim()).await?;
        browser.wait_for_text("phase", "running").await?;
        ensure!(
            !browser.sees("do-stop").await? && !browser.sees("do-checkpoint").await?,
            "who only looks sees buttons"
        );
        let there = browser.run("return location.href + document.cookie", vec![]).await?;
        ensure!(!there.to_string().contains("key="), "the key can be read in {there}");
        browser.close().await?;
        succeed("launcher", ["stop", &desk.arg("run"), "--token-file", &token])?;
        running.finish()?;
        Ok(())
    })
}

/// A coordinator with a world of made-up trainers; it ends with this.
struct MadeUp {
    child: Child,
    page: String,
}

impl MadeUp {
    fn start(trainers: u32) -> Result<Self> {
        let program: PathBuf = programs().join("bench-coordinator");
        let mut child = Command::new(&program)
            .args(["--trainers", &trainers.to_string(), "--show", "300", "--pace", "4"])
            .env("BEGAN_COORDINATOR", programs().join("coordinator"))
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .with_context(|| program.display().to_string())?;
        let mut line = String::new();
        let stdout = child.stdout.take().context("no stdout")?;
        std::io::BufRead::read_line(&mut std::io::BufReader::new(stdout), &mut line)?;
        let said: Value = serde_json::from_str(&line).unwrap_or_default();
        let made = Self { child, page: said["page"].as_str().unwrap_or_default().to_owned() };
        ensure!(!made.page.is_empty(), "the made-up world did not say where its page is: {line:?}");
        Ok(made)
    }
}

impl Drop for MadeUp {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_thousand_trainers_are_clear_on_a_laptop_and_on_a_phone_and_cost_little_to_watch() -> Result<()> {
    in_a_runtime(async {
        let made = MadeUp::start(1024)?;
        let axe = axe();
        for (size, (width, height), scheme, dark) in [
            ("laptop", LAPTOP, "light", false),
            ("laptop", LAPTOP, "dark", true),
            ("phone", PHONE, "light", false),
            ("phone", PHONE, "dark", true),
        ] {
            let browser = Browser::open(width, height, dark).await?;
            browser.go(&made.page).await?;
            browser.wait_for_text("phase", "running").await?;
            for view in ["overview", "phase", "losses", "world"] {
                show(&browser, view).await?;
                let place = format!("{view} of 1,024, {size}, {scheme}");
                fits(&browser, &place).await?;
                if let Some(axe) = &axe {
                    accessible(&browser, axe, &place).await?;
                }
                browser.shoot(&format!("many-{view}-{size}-{scheme}")).await?;
            }
            browser
                .wait("their number", "return document.getElementById('world-summary').innerText.includes('1,024')")
                .await?;
            // A row each would be a thousand rows a second.
            let rows = browser
                .run("return document.querySelectorAll('#world-table tbody tr:not(.spacer)').length", vec![])
                .await?;
            ensure!(rows.as_u64().is_some_and(|rows| (5..200).contains(&rows)), "{rows} rows");
            if (size, dark) == ("laptop", false) {
                traffic(&browser).await?;
            }
            browser.no_complaints(&[]).await?;
            browser.close().await?;
        }
        Ok(())
    })
}

/// What all that the page asks for and follows comes to, in ten seconds of looking at it.
async fn traffic(browser: &Browser) -> Result<()> {
    let follow = "window.liveBytes = 0; fetch('/api/live').then(async (answer) => { const reader = answer.body.getReader(); \
                  for (;;) { const { value, done } = await reader.read(); if (done) return; window.liveBytes += value.length; } })";
    let asked = "return performance.getEntriesByType('resource').reduce((sum, one) => sum + one.transferSize, 0)";
    let before = browser.run(asked, vec![]).await?.as_f64().unwrap_or(0.0);
    browser.run(follow, vec![]).await?;
    tokio::time::sleep(Duration::from_secs(10)).await;
    let live = browser.run("return window.liveBytes", vec![]).await?.as_f64().context("nothing was followed")?;
    let asked = browser.run(asked, vec![]).await?.as_f64().unwrap_or(0.0) - before;
    let rate = (live + asked) / 10.0 / 1e3;
    eprintln!("page traffic at 1,024 trainers: {rate:.0} kB/s, of which {:.0} live", live / 1e4);
    if rate >= 200.0 {
        bail!("the page costs {rate:.0} kB/s at 1,024 trainers");
    }
    Ok(())
}

#[test]
fn the_page_comes_back_by_itself_after_its_coordinator_was_killed() -> Result<()> {
    in_a_runtime(async {
        let desk = Desk::new()?;
        let running = desk.start("run", 1, 2, FOREVER, &["--http", "127.0.0.1:0"])?;
        let page = desk.page("run")?;
        desk.reach("run", 5)?;
        let browser = Browser::open(LAPTOP.0, LAPTOP.1, false).await?;
        browser.go(&page).await?;
        browser.wait_for_text("phase", "running").await?;
        for pid in desk.processes("run", "coordinator") {
            nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL)?;
        }
        browser.wait("the banner", "return document.getElementById('banner')?.checkVisibility()").await?;
        browser.wait("the banner gone", "return !document.getElementById('banner')?.checkVisibility()").await?;
        let step = "return Number(document.getElementById('step-now').textContent.replace(/\\D/g, ''))";
        let before = browser.wait("a step", step).await?;
        browser.wait("a later step", &step.replace("return ", &format!("return {} < ", json!(before)))).await?;
        ensure!(desk.page("run")? == page, "the page moved");
        browser.close().await?;
        succeed("launcher", ["stop", &desk.arg("run")])?;
        running.finish()?;
        Ok(())
    })
}

#[test]
fn a_window_that_a_failed_test_leaves_open_goes_with_its_driver() -> Result<()> {
    in_a_runtime(async {
        let browser = Browser::open(LAPTOP.0, LAPTOP.1, false).await?;
        let processes = browser.processes();
        ensure!(processes.len() > 2, "{processes:?}");
        drop(browser);
        wait_for("the browser's processes to end", || {
            processes.iter().all(|&pid| nix::sys::signal::kill(pid, None).is_err()).then_some(())
        })
    })
}
