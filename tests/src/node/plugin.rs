// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Our binaries, and one call of the plugin as a runtime makes it.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use serde_json::Value;

use super::Node;

/// The binary `name`, which stands beside this test's directory.
///
/// # Panics
/// When it has not been built: `cargo build --bins` does.
pub fn binary(name: &str) -> PathBuf {
    let own = std::env::current_exe().expect("the path of the test");
    let path = own
        .parent()
        .and_then(Path::parent)
        .expect("the directory of the profile")
        .join(name);
    assert!(
        path.is_file(),
        "there is no {}: build it with `cargo build --bins`, as tests/run does",
        path.display()
    );
    path
}

/// What a plugin answered.
#[derive(Debug)]
pub struct Answer {
    /// Whether it exited with 0.
    pub success: bool,
    /// What it printed.
    pub stdout: String,
    /// What it told people.
    pub stderr: String,
}

impl Answer {
    /// The CNI error code that it printed; none if it printed no error.
    pub fn code(&self) -> Option<u64> {
        let printed: Value = serde_json::from_str(&self.stdout).ok()?;
        printed["code"].as_u64()
    }

    /// The answer of one that must succeed.
    pub fn ok(self) -> Self {
        assert!(self.success, "{self:?}");
        self
    }

    /// The answer of one that must fail with this code, and say this.
    pub fn refused(&self, code: u64, says: &str) {
        assert!(!self.success, "{self:?}");
        assert_eq!(self.code(), Some(code), "{self:?}");
        assert!(self.stdout.contains(says), "{self:?} does not say {says:?}");
    }
}

/// A call of our plugin.
#[derive(Debug, Clone)]
pub struct Call {
    environment: Vec<(&'static str, String)>,
    stdin: Vec<u8>,
    on_linux_2_6: bool,
}

impl Call {
    /// `CNI_COMMAND` and nothing else.
    pub fn new(verb: &str) -> Self {
        Self {
            environment: vec![("CNI_COMMAND", verb.to_owned())],
            stdin: Vec::new(),
            on_linux_2_6: false,
        }
    }

    /// Interface `eth0` of this container, in this namespace.
    #[must_use]
    pub fn of(self, container_id: &str, netns: &Path) -> Self {
        self.env("CNI_CONTAINERID", container_id)
            .env("CNI_IFNAME", "eth0")
            .env("CNI_NETNS", &netns.display().to_string())
    }

    /// Sets a variable.
    #[must_use]
    pub fn env(mut self, name: &'static str, value: &str) -> Self {
        self.environment.retain(|(set, _)| *set != name);
        self.environment.push((name, value.to_owned()));
        self
    }

    /// The network configuration, as it is written.
    #[must_use]
    pub fn stdin(mut self, stdin: impl Into<Vec<u8>>) -> Self {
        self.stdin = stdin.into();
        self
    }

    /// The kernel tells the plugin that it is 2.6, as it does under this personality.
    #[must_use]
    pub fn on_linux_2_6(mut self) -> Self {
        self.on_linux_2_6 = true;
        self
    }

    /// Starts it on `node`.
    pub fn start(&self, node: &Node) -> Child {
        let mut child = node
            .run(|| {
                let mut command = Command::new(if self.on_linux_2_6 {
                    "/usr/bin/setarch".into()
                } else {
                    binary("podgate")
                });
                if self.on_linux_2_6 {
                    command.arg("--uname-2.6").arg(binary("podgate"));
                }
                command
                    .env_clear()
                    .envs(self.environment.iter().map(|(name, value)| (name, value)))
                    .stdin(Stdio::piped())
                    .stdout(Stdio::piped())
                    .stderr(Stdio::piped())
                    .spawn()
            })
            .expect("start the plugin");
        let mut pipe = child.stdin.take().expect("a pipe");
        // One that ends without reading says why.
        pipe.write_all(&self.stdin).ok();
        child
    }

    /// Makes it on `node`.
    pub fn make(&self, node: &Node) -> Answer {
        let output = self.start(node).wait_with_output().expect("wait for it");
        Answer {
            success: output.status.success(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}
