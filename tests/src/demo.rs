// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The demo as a process, and everything that it holds while it runs.

mod traces;

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

use crate::node::binary;

pub use traces::Traces;

/// How long it may take to end; for one that goes through all its steps, on a busy machine.
const END_LIMIT: Duration = Duration::from_secs(120);

/// The running demo. It is killed when the value is dropped.
#[derive(Debug)]
pub struct Demo {
    child: Child,
    output: BufReader<ChildStdout>,
    said: String,
    marker: String,
    temporary: TempDir,
}

impl Demo {
    /// Starts it with these arguments.
    ///
    /// # Panics
    /// When our binaries or the CNI plugins are missing; says what to do.
    pub fn start(arguments: &[&str]) -> Self {
        let plugins = Path::new("/usr/lib/cni");
        assert!(
            plugins.join("ptp").is_file(),
            "/usr/lib/cni/ptp is missing: apt-get install containernetworking-plugins, or tests/run ui"
        );
        let plugin = binary("podgate");
        let temporary = tempfile::Builder::new()
            .prefix("podgate-demo-")
            .tempdir()
            .expect("make a directory");
        let marker = temporary.path().display().to_string();
        let mut child = Command::new(binary("podgate-demo"))
            .arg("--demo-dir")
            .arg(demo_directory())
            .arg("--enforcer")
            .arg(binary("podgate-enforcer"))
            .arg("--cni-path")
            .arg(plugin.parent().expect("a directory"))
            .arg("--cni-path")
            .arg(plugins)
            .args(arguments)
            // Every process that it starts inherits this, and is known by it.
            .env("TMPDIR", &marker)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .expect("start the demo");
        let output = BufReader::new(child.stdout.take().expect("a pipe"));
        Self {
            child,
            output,
            said: String::new(),
            marker,
            temporary,
        }
    }

    /// Reads what it prints up to the line that contains `word`; that line.
    ///
    /// # Panics
    /// When it ends before.
    pub fn read_until(&mut self, word: &str) -> String {
        loop {
            let mut line = String::new();
            let read = self.output.read_line(&mut line).expect("read its output");
            assert!(read > 0, "the demo ended before {word:?}:\n{}", self.said);
            self.said += &line;
            if line.contains(word) {
                return line;
            }
        }
    }

    /// Where its page is, once it says so. For a demo that was started with `--ui`.
    ///
    /// # Panics
    /// When it ends before.
    pub fn page(&mut self) -> String {
        let line = self.read_until("the page is at ");
        let mut words = line.split_whitespace();
        let url = words.find(|word| word.starts_with("http://127.0.0.1:"));
        url.expect("the page's address").to_owned()
    }

    /// What it holds now.
    pub fn traces(&self) -> Traces {
        Traces::of(&self.marker)
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(self.child.id().cast_signed());
        kill(pid, signal).expect("send a signal");
    }

    /// Waits until it has ended; how, and all that it printed.
    ///
    /// # Panics
    /// When it does not end, or leaves a file in its temporary directory.
    pub fn wait(mut self) -> (ExitStatus, String) {
        let deadline = Instant::now() + END_LIMIT;
        let status = loop {
            if let Some(status) = self.child.try_wait().expect("wait for the demo") {
                break status;
            }
            assert!(
                Instant::now() < deadline,
                "the demo does not end:\n{}",
                self.said
            );
            std::thread::sleep(Duration::from_millis(10));
        };
        let mut line = String::new();
        while self.output.read_line(&mut line).expect("read its output") > 0 {
            self.said += &std::mem::take(&mut line);
        }
        let left: Vec<_> = std::fs::read_dir(self.temporary.path())
            .expect("list its temporary directory")
            .flatten()
            .collect();
        assert!(left.is_empty(), "the demo leaves {left:?}");
        (status, std::mem::take(&mut self.said))
    }
}

impl Drop for Demo {
    fn drop(&mut self) {
        // One that has ended already is ended as wished.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

fn demo_directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../demo")
}
