// SPDX-License-Identifier: Apache-2.0 OR MIT
use std::collections::BTreeMap;

use super::*;

const ENTRY: &str = r#"{"type": "podgate"}"#;
const PTP: &str = r#"{"cniVersion": "1.0.0", "name": "pods", "plugins": [{"type": "ptp"}]}"#;
const BRIDGE: &str = r#"{"cniVersion": "1.0.0", "name": "pods", "plugins": [{"type": "bridge"}]}"#;

/// A directory, what keeps it, and a clock.
struct Node {
    files: BTreeMap<String, String>,
    healing: Healing,
    now: Instant,
}

impl Node {
    fn new(mode: Mode, files: &[(&str, &str)]) -> Self {
        let entry = Entry::parse(ENTRY).unwrap();
        Self {
            files: files
                .iter()
                .map(|(path, text)| ((*path).into(), (*text).into()))
                .collect(),
            healing: Healing::new(mode, entry, Names::default(), false),
            now: Instant::now(),
        }
    }

    fn write(&mut self, path: &str, text: &str) {
        self.files.insert(path.into(), text.into());
    }

    fn delete(&mut self, path: &str) {
        assert!(self.files.remove(path).is_some(), "{path}");
    }

    fn step(&mut self) -> Step {
        let files = self
            .files
            .iter()
            .map(|(path, text)| (path.clone(), text.clone()));
        self.healing.step(&files.collect(), self.now)
    }

    /// All acts, until there is none.
    fn settle(&mut self) -> Step {
        for _ in 0..10 {
            let step = self.step();
            match step.act {
                Some(Act::Write { path, text }) => self.write(&path, &text),
                Some(Act::Remove { path }) => self.delete(&path),
                None => return step,
            }
        }
        panic!("there is always something to do in {:?}", self.files);
    }

    #[track_caller]
    fn is_joined_in(&mut self, wanted: &str) {
        match self.settle().chain {
            Chain::Joined { file, .. } => assert_eq!(file, wanted),
            Chain::Absent(why) => panic!("{why}"),
        }
    }

    #[track_caller]
    fn is_absent(&mut self) -> Absence {
        match self.settle().chain {
            Chain::Joined { file, .. } => panic!("in {file}"),
            Chain::Absent(why) => why,
        }
    }

    /// The types of a file's chain.
    fn types(&self, path: &str) -> Vec<String> {
        let value: serde_json::Value = serde_json::from_str(&self.files[path]).unwrap();
        let plugins = value["plugins"].as_array().unwrap();
        plugins
            .iter()
            .map(|it| it["type"].as_str().unwrap().to_owned())
            .collect()
    }
}

const OWN: &str = "05-podgate.conflist";

#[test]
fn ours_repeats_the_network_and_follows_it() {
    let mut node = Node::new(
        Mode::Own,
        &[("10-pods.conflist", PTP), ("99-other.conflist", BRIDGE)],
    );
    node.is_joined_in(OWN);
    assert_eq!(node.types(OWN), ["ptp", "podgate"]);

    node.write("10-pods.conflist", BRIDGE);
    node.is_joined_in(OWN);
    assert_eq!(node.types(OWN), ["bridge", "podgate"]);

    // Whatever becomes of ours, it comes back; and it is never a source.
    node.write(OWN, "{}");
    node.is_joined_in(OWN);
    node.write(OWN, PTP);
    node.is_joined_in(OWN);
    assert_eq!(node.types(OWN), ["bridge", "podgate"]);
    node.delete(OWN);
    node.is_joined_in(OWN);
    assert_eq!(
        node.types("10-pods.conflist"),
        ["bridge"],
        "only ours is written"
    );
}

#[test]
fn ours_is_in_the_chain_once() {
    let twice = r#"{"name": "pods", "plugins": [{"type": "podgate", "waitMs": 1}, {"type": "ptp"}, {"type": "podgate"}]}"#;
    let mut node = Node::new(Mode::Own, &[("10-pods.conflist", twice)]);
    node.is_joined_in(OWN);
    assert_eq!(node.types(OWN), ["ptp", "podgate"]);
    let mut node = Node::new(Mode::Edit, &[("10-pods.conflist", twice)]);
    node.is_joined_in("10-pods.conflist");
    assert_eq!(node.types("10-pods.conflist"), ["ptp", "podgate"]);
}

#[test]
fn half_a_file_changes_nothing() {
    let mut node = Node::new(Mode::Own, &[("10-pods.conflist", PTP)]);
    node.is_joined_in(OWN);
    for half in [
        "",
        "{",
        r#"{"name": "pods"}"#,
        r#"{"name": "pods", "plugins": []}"#,
    ] {
        node.write("10-pods.conflist", half);
        node.now += GONE * 2;
        node.is_joined_in(OWN);
        assert_eq!(node.types(OWN), ["ptp", "podgate"], "{half}");
    }
    // Before ours is there, there is nothing to keep.
    let mut node = Node::new(Mode::Own, &[("10-pods.conflist", "{")]);
    assert!(matches!(node.is_absent(), Absence::Unreadable { .. }));
    assert_eq!(node.files.len(), 1);
}

#[test]
fn ours_outlives_the_network_by_five_seconds() {
    let mut node = Node::new(Mode::Own, &[("10-pods.conflist", PTP)]);
    node.is_joined_in(OWN);
    node.delete("10-pods.conflist");
    let step = node.settle();
    assert_eq!(step.again, Some(node.now + GONE));
    node.now += GONE - Duration::from_millis(1);
    node.is_joined_in(OWN);

    // A successor in time, under another name.
    node.write("20-pods.conflist", BRIDGE);
    node.is_joined_in(OWN);
    assert_eq!(node.types(OWN), ["bridge", "podgate"]);

    // The next time counts from its own beginning.
    node.delete("20-pods.conflist");
    node.is_joined_in(OWN);
    node.now += GONE;
    assert!(matches!(node.is_absent(), Absence::NoNetwork));
    assert!(node.files.is_empty());
}

#[test]
fn a_file_before_ours_is_reported_or_chained() {
    let files = [
        ("00-multus.conf", r#"{"name": "multus", "type": "multus"}"#),
        ("10-pods.conflist", PTP),
    ];
    let mut node = Node::new(Mode::Own, &files);
    assert!(matches!(node.is_absent(), Absence::Before { file, .. } if file == "00-multus.conf"));
    assert_eq!(
        node.types(OWN),
        ["ptp", "podgate"],
        "what delegates to the first file finds ours"
    );

    let files = [("02-mesh.conflist", BRIDGE), ("10-pods.conflist", PTP)];
    let mut node = Node::new(Mode::Own, &files);
    assert!(matches!(node.is_absent(), Absence::Before { .. }));
    assert_eq!(node.types("02-mesh.conflist"), ["bridge"]);
    node.healing.chain_earlier = true;
    node.is_joined_in("02-mesh.conflist");
    assert_eq!(node.types("02-mesh.conflist"), ["bridge", "podgate"]);
}

#[test]
fn the_mode_changes() {
    let mut node = Node::new(Mode::Own, &[("10-pods.conflist", PTP)]);
    node.is_joined_in(OWN);
    node.healing.mode = Mode::DropIn;
    node.is_joined_in("10-pods.conflist");
    assert!(node.files.contains_key("pods/50-podgate.conf"));
    assert!(!node.files.contains_key(OWN));

    node.healing.mode = Mode::Edit;
    node.is_joined_in("10-pods.conflist");
    assert_eq!(node.types("10-pods.conflist"), ["ptp", "podgate"]);
    assert_eq!(node.files.len(), 1);

    node.healing.mode = Mode::None;
    node.is_joined_in("10-pods.conflist");
    node.write("10-pods.conflist", PTP);
    assert!(matches!(node.is_absent(), Absence::NotNamed { .. }));

    node.healing.mode = Mode::Own;
    node.is_joined_in(OWN);
}

#[test]
fn removal_takes_ours_out_of_all() {
    for mode in [Mode::Own, Mode::DropIn, Mode::Edit] {
        let mut node = Node::new(
            mode,
            &[("10-pods.conflist", PTP), ("20-more.conflist", PTP)],
        );
        node.settle();
        let with = r#"{"name": "more", "plugins": [{"type": "bridge"}, {"type": "podgate"}]}"#;
        node.write("20-more.conflist", with);
        node.healing.mode = Mode::Remove;
        assert!(matches!(node.is_absent(), Absence::NotNamed { .. }));
        assert_eq!(node.files.len(), 2, "{mode:?} {:?}", node.files);
        assert_eq!(node.types("10-pods.conflist"), ["ptp"]);
        assert_eq!(node.types("20-more.conflist"), ["bridge"]);
    }
}

#[test]
fn a_chain_that_excludes_ours_keeps_the_last() {
    let mut node = Node::new(Mode::Own, &[("10-pods.conflist", PTP)]);
    node.is_joined_in(OWN);
    let limited = r#"{"name": "pods", "plugins": [{"type": "ptp"}, {"type": "bandwidth", "egressRate": 1, "egressBurst": 1}]}"#;
    node.write("10-pods.conflist", limited);
    node.is_joined_in(OWN);
    node.delete(OWN);
    assert!(matches!(
        node.is_absent(),
        Absence::Refused(Refusal::LimitsEgress { .. })
    ));
    assert_eq!(node.files.len(), 1);
}

#[test]
fn keys_that_are_there_twice_are_refused() {
    let twice = r#"{"name": "a", "name": "b", "plugins": [{"type": "ptp"}]}"#;
    assert!(Network::parse("10.conflist", twice.as_bytes()).is_err());
    assert!(Entry::parse(r#"{"type": "podgate", "type": "ptp"}"#).is_err());
    assert!(Entry::parse(r#"{"type": "ptp"}"#).is_err());
}
