// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A real Kubernetes of two nodes, made by `tests/cluster/up`, and what tests do with it.
//!
//! One cluster serves all tests of a test binary. It is taken away when the process ends, however it ends; one that the
//! environment names (`PODGATE_TEST_CLUSTER`) is used as it is, and stays.
//!
//! Tests share the cluster and the enforcers of its nodes ([`Cluster::enforced`]), each in a Kubernetes namespace of its
//! own, unless they need it for themselves ([`Cluster::alone`]).

mod administrator;
mod enforcer;
mod kubectl;
mod listener;
mod namespace;
mod outage;
mod pod;
mod role;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{OnceLock, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::controller::Controller;
use crate::node::binary;

pub use administrator::Administrator;
pub use enforcer::{Enforcer, Readiness};
pub use listener::{Heard, Listener, Said};
pub use namespace::Namespace;
pub use outage::Outage;
pub use pod::{Pod, PodSpec};
pub use role::Role;

/// The nodes.
pub const NODES: [&str; 2] = ["node1", "node2"];

/// How long ADD waits for the enforcer: on a busy machine 40 pods at once take their time, and it is to be waited for.
const WAIT_MS: &str = "10000";

/// Kubernetes' own server and client for network tests.
pub const AGNHOST: &str = "podgate.test/agnhost:1";

/// A running cluster.
#[derive(Debug)]
pub struct Cluster {
    name: String,
    /// Takes the cluster away when its standard input ends, that is with this process.
    _guard: Option<Child>,
}

/// The cluster, as long as nobody has it alone; an enforcer is ready on each node.
#[derive(Debug)]
pub struct Enforced {
    users: RwLockReadGuard<'static, Users>,
}

/// The cluster, and nobody else's tests; no enforcer runs.
#[derive(Debug)]
pub struct Alone {
    _users: RwLockWriteGuard<'static, Users>,
}

/// What the tests of this process have set up between them.
#[derive(Debug, Default)]
struct Users {
    enforcers: Vec<Enforcer>,
}

static CLUSTER: OnceLock<Cluster> = OnceLock::new();
static USERS: RwLock<Users> = RwLock::new(Users {
    enforcers: Vec::new(),
});

impl Cluster {
    /// The cluster together with other tests, an enforcer being ready on each node.
    pub fn enforced() -> Enforced {
        let cluster = Self::of_the_tests();
        loop {
            // A test that failed has poisoned it, and left it as good as it was.
            let users = USERS.read().unwrap_or_else(PoisonError::into_inner);
            if !users.enforcers.is_empty() {
                return Enforced { users };
            }
            drop(users);
            let mut users = USERS.write().unwrap_or_else(PoisonError::into_inner);
            if users.enforcers.is_empty() {
                users.enforcers = NODES.map(|node| cluster.enforcer(node)).into();
            }
        }
    }

    /// The cluster without other tests, and without enforcers.
    pub fn alone() -> Alone {
        Self::of_the_tests();
        let mut users = USERS.write().unwrap_or_else(PoisonError::into_inner);
        users.enforcers.clear();
        Alone { _users: users }
    }

    /// One that somebody else has started, and that stays.
    pub fn that_is_up(name: String) -> Self {
        Self { name, _guard: None }
    }

    fn of_the_tests() -> &'static Self {
        CLUSTER.get_or_init(|| match std::env::var("PODGATE_TEST_CLUSTER") {
            Ok(name) => Self::that_is_up(name),
            Err(_) => Self::start(format!("tests-{}", std::process::id())),
        })
    }

    /// One of its own, on whose nodes podgate has never been; it goes with the value.
    pub fn without_podgate() -> Self {
        let name = format!("bare-{}", std::process::id());
        Self::start_with(name, &["--without-podgate"])
    }

    fn start(name: String) -> Self {
        let plugin = binary("podgate");
        let plugin = plugin.to_str().expect("a path in UTF-8");
        Self::start_with(name, &["--wait-ms", WAIT_MS, "--plugin", plugin])
    }

    fn start_with(name: String, options: &[&str]) -> Self {
        let guard = Command::new("setsid")
            .args(["sh", "-c", "cat >/dev/null; exec \"$0\" --name \"$1\""])
            .arg(script("down"))
            .arg(&name)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("start what takes the cluster away");
        let status = Command::new(script("up"))
            .args(["--name", &name])
            .args(options)
            .stdin(Stdio::null())
            .status()
            .expect("run tests/cluster/up");
        assert!(status.success(), "the cluster does not come up: {status}");
        Self {
            name,
            _guard: Some(guard),
        }
    }

    /// Starts an enforcer with the default flags on a node, and waits until it is ready.
    pub fn enforcer(&self, node: &'static str) -> Enforcer {
        Enforcer::start(self, node, &["--source", "networkpolicies"])
    }

    /// A stand-in for EKS's network policy controller that cuts lists into chunks of this size.
    pub fn policy_controller(&self, chunk: usize) -> Controller {
        let administrator = self.administrator();
        let api = administrator.unwrap_or_else(|error| panic!("reach the API server: {error:#}"));
        Controller::new(api, chunk)
    }

    /// A client of the API server.
    ///
    /// # Errors
    /// When there is no way to it.
    pub fn administrator(&self) -> Result<Administrator> {
        Administrator::of(self)
    }

    /// A command of `tests/cluster`, for this cluster.
    pub(crate) fn command(&self, script_name: &str) -> Command {
        let mut command = Command::new(script(script_name));
        command.args(["--name", &self.name]).stdin(Stdio::null());
        command
    }

    /// The file of the network namespace of a node, or of the `control-plane`.
    ///
    /// # Errors
    /// When nobody keeps it.
    pub fn network_of(&self, part: &str) -> Result<PathBuf> {
        let file = self.dir().join(part).join("keeper.pid");
        let keeper =
            fs::read_to_string(&file).with_context(|| format!("read {}", file.display()))?;
        Ok(PathBuf::from(format!("/proc/{}/ns/net", keeper.trim())))
    }

    /// Where everything of the cluster is.
    pub fn dir(&self) -> PathBuf {
        let clusters = std::env::var_os("PODGATE_CLUSTERS");
        clusters
            .map_or_else(|| PathBuf::from("/tmp/podgate-clusters"), PathBuf::from)
            .join(&self.name)
    }
}

impl std::ops::Deref for Enforced {
    type Target = Cluster;

    fn deref(&self) -> &Cluster {
        Cluster::of_the_tests()
    }
}

impl Drop for Enforced {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for enforcer in &self.users.enforcers {
                enforcer.show_log();
            }
        }
    }
}

impl Enforced {
    /// The enforcer of a node.
    pub fn enforcer_of(&self, node: &str) -> &Enforcer {
        let found = self.users.enforcers.iter().find(|e| e.node() == node);
        found.expect("an enforcer runs on each node")
    }
}

impl std::ops::Deref for Alone {
    type Target = Cluster;

    fn deref(&self) -> &Cluster {
        Cluster::of_the_tests()
    }
}

/// Waits until `condition` holds; panics with `what` when it does not within `limit`.
pub fn wait_for(what: &str, limit: Duration, condition: impl FnMut() -> bool) {
    assert!(holds_within(limit, condition), "waited in vain: {what}");
}

/// Waits until `condition` holds; whether it does within `limit`.
pub fn holds_within(limit: Duration, mut condition: impl FnMut() -> bool) -> bool {
    let deadline = Instant::now() + limit;
    while !condition() {
        if Instant::now() >= deadline {
            return false;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    true
}

fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("cluster")
        .join(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A caller that holds a lock while it starts a daemon, as `flock FILE tests/cluster/up` does.
    const CALLER: &str = r#"
        set -eu
        . "$1/lib/cluster.sh"
        dir=$2 mark=PODGATE_TEST_PROCESS_OF=$2
        mkdir "$dir/part"
        exec 7>"$dir/lock"
        flock 7
        daemon part sleeper sleep 1000
    "#;

    #[test]
    fn what_a_cluster_starts_holds_no_lock_of_its_caller() {
        let directory = tempfile::tempdir().unwrap();
        let scripts = Path::new(env!("CARGO_MANIFEST_DIR")).join("cluster");
        let started = Command::new("bash")
            .args(["-c", CALLER, "caller"])
            .args([&scripts, directory.path()])
            .status()
            .unwrap();
        assert!(started.success());
        let pid = fs::read_to_string(directory.path().join("part/sleeper.pid")).unwrap();
        let pid = pid.trim();
        let holds_lock = || {
            let open = fs::read_dir(format!("/proc/{pid}/fd")).unwrap();
            let mut files = open.filter_map(|fd| fs::read_link(fd.ok()?.path()).ok());
            files.any(|file| file == directory.path().join("lock"))
        };
        let sleeps = || {
            let program = fs::read_link(format!("/proc/{pid}/exe"));
            program.is_ok_and(|path| path.file_name().is_none_or(|name| name != "bash"))
        };
        wait_for("the daemon runs", Duration::from_secs(20), sleeps);
        let held = holds_lock();
        Command::new("kill").arg(pid).status().unwrap();
        assert!(!held, "the daemon has the caller's lock");
    }
}
