//! A real Chromium without a screen, driven over WebDriver; it ends with the test.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use fantoccini::wd::WebDriverCompatibleCommand;
use fantoccini::{Client, ClientBuilder, Locator};
use nix::unistd::Pid;
use serde_json::{Value, json};

/// How long the page may take to show something.
const PATIENCE: Duration = Duration::from_secs(30);

/// A window of Chromium.
pub struct Browser {
    client: Client,
    driver: Driver,
}

/// The program that drives it, and its port.
struct Driver {
    child: Child,
    port: u16,
}

impl Drop for Driver {
    fn drop(&mut self) {
        // Where a test fails nobody has closed the window, and a driver that is killed leaves it open.
        let windows = self.descendants();
        let _ = self.child.kill();
        let _ = self.child.wait();
        for pid in windows {
            let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL);
        }
    }
}

impl Driver {
    /// The processes that it has started, and theirs.
    fn descendants(&self) -> Vec<Pid> {
        let parent_of = |pid: i32| {
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
            stat.rsplit_once(") ")?.1.split(' ').nth(1)?.parse::<i32>().ok()
        };
        let all: Vec<(i32, i32)> = std::fs::read_dir("/proc")
            .into_iter()
            .flatten()
            .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
            .filter_map(|pid| Some((pid, parent_of(pid)?)))
            .collect();
        let mut found = vec![self.child.id() as i32];
        let mut next = 0;
        while let Some(&parent) = found.get(next) {
            found.extend(all.iter().filter(|(_, of)| *of == parent).map(|(pid, _)| *pid));
            next += 1;
        }
        found.into_iter().skip(1).map(Pid::from_raw).collect()
    }
}

/// Whether there is a Chromium with its driver; said where there is none.
#[must_use]
pub fn there_is_a_browser() -> bool {
    let there = ["chromium", "chromedriver"].into_iter().all(|name| {
        let asked = Command::new(name).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
        asked.is_ok_and(|status| status.success())
    });
    if !there {
        eprintln!("skipped: chromium and chromedriver are not here (Debian: chromium, chromium-driver)");
    }
    there
}

impl Driver {
    fn start() -> Result<Self> {
        let mut child = Command::new("chromedriver")
            .args(["--port=0", "--log-level=SEVERE"])
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .context("chromedriver")?;
        let stdout = child.stdout.take().context("chromedriver's stdout")?;
        let mut driver = Self { child, port: 0 };
        let (tell, told) = mpsc::channel();
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                let port = line.split_once("started successfully on port ").map(|(_, rest)| rest.trim_end_matches('.'));
                if let Some(port) = port.and_then(|port| port.parse::<u16>().ok()) {
                    let _ = tell.send(port);
                }
            }
        });
        driver.port = told.recv_timeout(PATIENCE).context("chromedriver did not say its port")?;
        Ok(driver)
    }
}

impl Browser {
    /// Opens a window of that many pixels, in light or dark.
    ///
    /// # Errors
    /// If the browser does not start.
    pub async fn open(width: u32, height: u32, dark: bool) -> Result<Self> {
        let driver = Driver::start()?;
        let mut arguments = vec![
            "--headless=new".to_owned(),
            "--no-sandbox".into(),
            "--disable-dev-shm-usage".into(),
            "--disable-background-networking".into(),
            "--hide-scrollbars".into(),
            format!("--window-size={width},{height}"),
        ];
        if dark {
            arguments.push("--blink-settings=preferredColorScheme=0".into());
        } else {
            arguments.push("--blink-settings=preferredColorScheme=1".into());
        }
        let mut options = json!({ "args": arguments });
        if width < 600 {
            options["mobileEmulation"] =
                json!({ "deviceMetrics": { "width": width, "height": height, "pixelRatio": 2.0, "touch": true } });
        }
        let capabilities = json!({
            "acceptInsecureCerts": true,
            "goog:chromeOptions": options,
            "goog:loggingPrefs": { "browser": "ALL" },
        });
        let Value::Object(capabilities) = capabilities else { bail!("no capabilities") };
        let started = ClientBuilder::new(hyper_util::client::legacy::connect::HttpConnector::new())
            .capabilities(capabilities)
            .connect(&format!("http://127.0.0.1:{}", driver.port))
            .await;
        Ok(Self { client: started.context("cannot start Chromium")?, driver })
    }

    /// Goes to an address.
    ///
    /// # Errors
    /// If it cannot be reached.
    pub async fn go(&self, url: &str) -> Result<()> {
        self.client.goto(url).await.with_context(|| format!("cannot open {url}"))
    }

    /// What a script gives; `arguments` are its `arguments`.
    ///
    /// # Errors
    /// If it throws.
    pub async fn run(&self, script: &str, arguments: Vec<Value>) -> Result<Value> {
        self.client.execute(script, arguments).await.with_context(|| format!("the script: {script}"))
    }

    /// The text of an element.
    ///
    /// # Errors
    /// If there is none with that id.
    pub async fn text(&self, id: &str) -> Result<String> {
        let text = self.run("return document.getElementById(arguments[0])?.innerText", vec![id.into()]).await?;
        text.as_str().map(str::to_owned).with_context(|| format!("there is no #{id}"))
    }

    /// Whether an element is there and can be seen.
    ///
    /// # Errors
    /// If the browser is gone.
    pub async fn sees(&self, id: &str) -> Result<bool> {
        let script = "const e = document.getElementById(arguments[0]); return !!e && e.checkVisibility()";
        Ok(self.run(script, vec![id.into()]).await? == true)
    }

    /// Clicks as a person would: what cannot be seen or is covered cannot be clicked.
    ///
    /// # Errors
    /// If it cannot be clicked in time.
    pub async fn click(&self, id: &str) -> Result<()> {
        let began = Instant::now();
        loop {
            let clicked = async { self.client.find(Locator::Id(id)).await?.click().await }.await;
            match clicked {
                Ok(()) => return Ok(()),
                Err(error) if began.elapsed() > PATIENCE => bail!("#{id} cannot be clicked: {error}"),
                Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
            }
        }
    }

    /// Types into an element.
    ///
    /// # Errors
    /// If it takes no text.
    pub async fn type_into(&self, id: &str, text: &str) -> Result<()> {
        let element = self.client.find(Locator::Id(id)).await.with_context(|| format!("there is no #{id}"))?;
        element.send_keys(text).await.with_context(|| format!("#{id} takes no text"))
    }

    /// Sets a slider or a choice, and tells the page of it.
    ///
    /// # Errors
    /// If it is not there.
    pub async fn set(&self, id: &str, value: &str) -> Result<()> {
        let script = "const e = document.getElementById(arguments[0]); e.value = arguments[1]; \
                      for (const kind of ['input', 'change']) e.dispatchEvent(new Event(kind, { bubbles: true }))";
        self.run(script, vec![id.into(), value.into()]).await.map(|_| ())
    }

    /// Waits until a script gives something that is neither false nor null, and gives that.
    ///
    /// # Errors
    /// If it never does; with what the page says then.
    pub async fn wait(&self, what: &str, script: &str) -> Result<Value> {
        let began = Instant::now();
        loop {
            let found = self.run(script, vec![]).await?;
            if !found.is_null() && found != false && found != "" {
                return Ok(found);
            }
            if began.elapsed() > PATIENCE {
                let said = self.run("return document.body.innerText", vec![]).await?;
                bail!("{what} did not come within {} s; the page says: {said}", PATIENCE.as_secs());
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// Waits until the text of an element contains `words`.
    ///
    /// # Errors
    /// If it never does.
    pub async fn wait_for_text(&self, id: &str, words: &str) -> Result<()> {
        let (id, words) = (json!(id), json!(words));
        let script = format!("return document.getElementById({id})?.textContent.includes({words})");
        self.wait(&format!("{words} in #{id}"), &script).await.map(|_| ())
    }

    /// Errors in the browser's console since the last look, but for those that hold one of `expected`.
    ///
    /// # Errors
    /// If there are any.
    pub async fn no_complaints(&self, expected: &[&str]) -> Result<()> {
        let entries = self.client.issue_cmd(ConsoleLog).await?;
        let entries: Vec<Value> = entries.as_array().cloned().unwrap_or_default();
        let bad = |entry: &&Value| {
            let text = entry["message"].as_str().unwrap_or_default();
            entry["level"] == "SEVERE" && !expected.iter().any(|words| text.contains(words))
        };
        let bad: Vec<&Value> = entries.iter().filter(bad).collect();
        ensure!(bad.is_empty(), "the console has {bad:#?}");
        Ok(())
    }

    /// What the window shows, into `FOLDER/NAME.png`, if the environment variable `BEGAN_SHOTS` names a folder.
    ///
    /// # Errors
    /// If it cannot be written.
    pub async fn shoot(&self, name: &str) -> Result<()> {
        let Some(folder) = std::env::var_os("BEGAN_SHOTS") else { return Ok(()) };
        let folder = std::path::PathBuf::from(folder);
        std::fs::create_dir_all(&folder)?;
        std::fs::write(folder.join(format!("{name}.png")), self.client.screenshot().await?)?;
        Ok(())
    }

    /// The processes of the browser.
    #[must_use]
    pub fn processes(&self) -> Vec<Pid> {
        self.driver.descendants()
    }

    /// Closes the window.
    ///
    /// # Errors
    /// If it does not close.
    pub async fn close(self) -> Result<()> {
        let Self { client, driver } = self;
        client.close().await?;
        drop(driver);
        Ok(())
    }
}

/// What the browser's console says: an extension of ChromeDriver.
#[derive(Debug)]
struct ConsoleLog;

impl WebDriverCompatibleCommand for ConsoleLog {
    fn endpoint(&self, base: &url::Url, session: Option<&str>) -> Result<url::Url, url::ParseError> {
        base.join(&format!("session/{}/se/log", session.unwrap_or_default()))
    }

    fn method_and_body(&self, _: &url::Url) -> (http::Method, Option<String>) {
        (http::Method::POST, Some(json!({ "type": "browser" }).to_string()))
    }
}
