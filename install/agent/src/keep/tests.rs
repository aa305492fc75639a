// SPDX-License-Identifier: Apache-2.0 OR MIT
use std::fs;
use std::thread;

use podgate_conflist::{Entry, Healing, Mode, Names};
use tempfile::TempDir;

use super::*;

/// What a node may be without podgate in its chain, or with half a file in it.
const PROMISED: Duration = Duration::from_secs(1);

/// Two directories, kept by a thread until this is dropped.
struct Node {
    dir: TempDir,
    waker: Sender<Wake>,
    keeping: Option<thread::JoinHandle<Result<()>>>,
    slowest: Duration,
}

impl Node {
    fn new(mode: Mode) -> Self {
        let dir = tempfile::tempdir().unwrap();
        for name in ["net.d", "bin"] {
            fs::create_dir(dir.path().join(name)).unwrap();
        }
        let source = dir.path().join("source");
        fs::write(&source, "the plugin").unwrap();
        let names = Names::default();
        let entry = Entry::parse(r#"{"type": "podgate"}"#).unwrap();
        let healing = Healing::new(mode, entry, names.clone(), false);
        let watched = ["net.d", "bin"].map(|it| dir.path().join(it));
        let mut kept = Kept {
            program: Program::new(&source, &watched[1]).unwrap(),
            chain: Keeper::new(watched[0].clone(), healing, &names),
            watched,
        };
        let (waker, wakes) = mpsc::channel();
        let watcher = waker.clone();
        let keeping = thread::spawn(move || kept.keep(&watcher, &wakes));
        Self {
            dir,
            waker,
            keeping: Some(keeping),
            slowest: Duration::ZERO,
        }
    }

    fn path(&self, path: &str) -> PathBuf {
        self.dir.path().join(path)
    }

    /// A network's file, as its plugin writes it: to a temporary one, which is renamed.
    fn write_network(&self, mtu: usize) {
        let text = format!(
            r#"{{"cniVersion": "0.4.0", "name": "pods", "plugins": [{{"type": "aws-cni", "mtu": {mtu}}}]}}"#
        );
        fs::write(self.path("net.d/10-aws.conflist.tmp"), text).unwrap();
        fs::rename(
            self.path("net.d/10-aws.conflist.tmp"),
            self.path("net.d/10-aws.conflist"),
        )
        .unwrap();
    }

    /// Waits until the file is as wanted.
    #[track_caller]
    fn wait(&mut self, path: &str, what: &str, is_right: impl Fn(&str) -> bool) {
        let began = Instant::now();
        loop {
            let text = fs::read_to_string(self.path(path)).unwrap_or_default();
            if is_right(&text) {
                break;
            }
            let waited = began.elapsed();
            assert!(waited < PROMISED, "{path} after {what}: {text:?}");
            thread::sleep(Duration::from_millis(1));
        }
        self.slowest = self.slowest.max(began.elapsed());
    }

    #[track_caller]
    fn wait_until_chained(&mut self, what: &str, mtu: usize) {
        let is_right = move |text: &str| {
            let Ok(value) = serde_json::from_str::<serde_json::Value>(text) else {
                return false;
            };
            let plugins = &value["plugins"];
            plugins[0]["mtu"] == mtu && plugins[1]["type"] == "podgate" && plugins[2].is_null()
        };
        self.wait("net.d/05-podgate.conflist", what, is_right);
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.waker.send(Wake::Stop).unwrap();
        let kept = self.keeping.take().unwrap().join();
        if !thread::panicking() {
            kept.unwrap().unwrap();
            println!("slowest heal: {:?}", self.slowest);
        }
    }
}

#[test]
fn whatever_becomes_of_our_files_they_come_back() {
    let mut node = Node::new(Mode::Own);
    node.write_network(0);
    node.wait_until_chained("start", 0);
    let own = node.path("net.d/05-podgate.conflist");
    let program = node.path("bin/podgate");
    for round in 0..5 {
        fs::write(&own, "{}").unwrap();
        node.wait_until_chained("overwrite", 0);
        fs::remove_file(&own).unwrap();
        node.wait_until_chained("delete", 0);
        let other = node.path(&format!("net.d/other-{round}"));
        fs::write(&other, r#"{"name": "other"}"#).unwrap();
        fs::rename(&other, &own).unwrap();
        node.wait_until_chained("replace", 0);
        fs::File::options()
            .write(true)
            .open(&own)
            .unwrap()
            .set_len(7)
            .unwrap();
        node.wait_until_chained("truncate", 0);
        fs::remove_file(&program).unwrap();
        node.wait("bin/podgate", "delete", |it| it == "the plugin");
        fs::write(&program, "another").unwrap();
        node.wait("bin/podgate", "overwrite", |it| it == "the plugin");
    }
}

/// aws-node writes its conflist at each start.
#[test]
fn a_hundred_restarts_of_the_networks_writer() {
    let mut node = Node::new(Mode::Own);
    for restart in 0..100 {
        match restart % 3 {
            0 => node.write_network(restart),
            1 => {
                // Deletes first.
                fs::remove_file(node.path("net.d/10-aws.conflist")).unwrap();
                node.write_network(restart);
            }
            _ => {
                // In place, half first.
                fs::write(node.path("net.d/10-aws.conflist"), r#"{"cniVersion": "0.4"#).unwrap();
                node.write_network(restart);
            }
        }
        node.wait_until_chained("restart", restart);
    }
    let left: Vec<_> = fs::read_dir(node.path("net.d"))
        .unwrap()
        .map(|it| it.unwrap().file_name())
        .collect();
    assert_eq!(left.len(), 2, "{left:?}");
}

#[test]
fn the_directory_itself_is_replaced() {
    let mut node = Node::new(Mode::Own);
    node.write_network(1);
    node.wait_until_chained("start", 1);
    fs::rename(node.path("net.d"), node.path("old")).unwrap();
    fs::create_dir(node.path("net.d")).unwrap();
    node.write_network(2);
    node.wait_until_chained("new directory", 2);
    fs::remove_file(node.path("net.d/05-podgate.conflist")).unwrap();
    node.wait_until_chained("delete", 2);
}

#[test]
fn the_end_takes_nothing_away() {
    let mut node = Node::new(Mode::Own);
    node.write_network(1);
    node.wait_until_chained("start", 1);
    node.waker.send(Wake::Stop).unwrap();
    node.keeping.take().unwrap().join().unwrap().unwrap();
    assert!(node.path("net.d/05-podgate.conflist").exists());
    assert!(node.path("bin/podgate").exists());
    // For the drop.
    let (waker, wakes) = mpsc::channel();
    node.waker = waker;
    node.keeping = Some(thread::spawn(move || {
        drop(wakes.recv());
        Ok(())
    }));
}

#[test]
fn a_drop_in_is_told_to_the_runtime() {
    let mut node = Node::new(Mode::DropIn);
    node.write_network(1);
    node.wait("net.d/pods/50-podgate.conf", "start", |it| {
        serde_json::from_str::<serde_json::Value>(it).is_ok_and(|it| it["type"] == "podgate")
    });
    assert!(!node.path("net.d/05-podgate.conflist").exists());
}
