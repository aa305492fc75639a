// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Chromium without a screen, driven by chromedriver's HTTP (W3C WebDriver).
//!
//! ```text
//! test ──HTTP──► chromedriver ──► chromium        both in a process namespace that ends with the Browser
//! ```

mod http;

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};
use tempfile::TempDir;

use http::post;

/// What chromedriver says when it accepts connections; the port follows.
const STARTED: &str = "started successfully on port ";

/// What Chromium must do without: a sandbox (it runs as root), a graphics card, and everything that calls home.
const FLAGS: [&str; 12] = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-default-apps",
    "--disable-extensions",
    "--disable-sync",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
];

/// A browser with one page. It is gone, with all its processes and files, when the value is dropped.
#[derive(Debug)]
pub struct Browser {
    driver: Child,
    port: u16,
    session: String,
    _files: TempDir,
}

impl Browser {
    /// Starts a browser that knows nothing from before.
    ///
    /// # Errors
    /// When chromium or chromedriver is missing, or does not start; says what to install.
    pub fn start() -> Result<Self> {
        for program in ["chromium", "chromedriver"] {
            ensure!(
                on_path(program),
                "{program} is missing: apt-get install chromium chromium-driver, or tests/run ui"
            );
        }
        let files = tempfile::Builder::new()
            .prefix("podgate-browser-")
            .tempdir()
            .context("make a directory for the browser")?;
        // With its process namespace ends every process in it, whatever Chromium forked; and it ends with this
        // thread, so that a test that is killed leaves no browser.
        let mut driver = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "unshare", "--pid", "--fork"])
            .args(["--mount-proc", "--kill-child", "chromedriver", "--port=0"])
            .env("TMPDIR", files.path())
            .env("HOME", files.path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .context("start chromedriver in a process namespace of its own")?;
        let port = read_port(&mut driver);
        let mut browser = Self {
            driver,
            port: port?,
            session: String::new(),
            _files: files,
        };
        let mut flags = FLAGS.map(str::to_owned).to_vec();
        let profile = browser._files.path().join("profile");
        flags.push(format!("--user-data-dir={}", profile.display()));
        let wishes =
            json!({"capabilities": {"alwaysMatch": {"goog:chromeOptions": {"args": flags}}}});
        let opened = browser.call("/session", &wishes)?;
        let id = opened["sessionId"]
            .as_str()
            .context("chromedriver names no session")?;
        browser.session = format!("/session/{id}");
        Ok(browser)
    }

    /// Opens a page and waits until it is loaded.
    ///
    /// # Errors
    /// When it cannot be loaded.
    pub fn open(&self, url: &str) -> Result<()> {
        self.in_session("/url", &json!({ "url": url }))
            .with_context(|| format!("open {url}"))?;
        Ok(())
    }

    /// Clicks the middle of the one element that the CSS selector finds, as a mouse would.
    ///
    /// # Errors
    /// When there is none, or something else lies over it.
    pub fn click(&self, selector: &str) -> Result<()> {
        let by = json!({"using": "css selector", "value": selector});
        let found = self
            .in_session("/element", &by)
            .with_context(|| format!("find {selector}"))?;
        // An object with one key, whose name the standard fixes.
        let element = found
            .as_object()
            .and_then(|object| object.values().next())
            .and_then(Value::as_str)
            .with_context(|| format!("find {selector}: {found}"))?;
        self.in_session(&format!("/element/{element}/click"), &json!({}))
            .with_context(|| format!("click {selector}"))?;
        Ok(())
    }

    /// What the JavaScript function body returns in the page.
    ///
    /// # Errors
    /// When it throws.
    pub fn evaluate(&self, body: &str) -> Result<Value> {
        let script = json!({"script": body, "args": []});
        self.in_session("/execute/sync", &script)
            .with_context(|| format!("evaluate {body}"))
    }

    fn in_session(&self, path: &str, body: &Value) -> Result<Value> {
        self.call(&format!("{}{path}", self.session), body)
    }

    /// One command; its `value`.
    fn call(&self, path: &str, body: &Value) -> Result<Value> {
        let (status, text) = post(self.port, path, &body.to_string())?;
        let mut answer: Value = serde_json::from_str(&text)
            .with_context(|| format!("read what chromedriver answers: {text:?}"))?;
        if status != 200 {
            bail!(
                "chromedriver answers {status}: {}",
                answer["value"]["message"]
            );
        }
        Ok(answer["value"].take())
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // The kernel ends the rest with it. One that has ended already is ended as wished.
        self.driver.kill().ok();
        self.driver.wait().ok();
    }
}

fn on_path(program: &str) -> bool {
    std::env::var_os("PATH").is_some_and(|path| {
        std::env::split_paths(&path).any(|directory| Path::new(&directory).join(program).is_file())
    })
}

/// The port that chromedriver took.
fn read_port(driver: &mut Child) -> Result<u16> {
    let output = driver.stdout.take().context("read from chromedriver")?;
    for line in BufReader::new(output).lines() {
        let line = line.context("read from chromedriver")?;
        if let Some((_, port)) = line.split_once(STARTED) {
            let port = port.trim_end_matches('.');
            return port
                .parse()
                .with_context(|| format!("read the port in {line:?}"));
        }
    }
    let status = driver.wait().context("wait for chromedriver")?;
    bail!("chromedriver ended before it was ready: {status}")
}
