// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The conflists of common networks, and what becomes of each by each mode. With `PODGATE_BLESS=1` in the environment the
//! expected files are written anew.

use std::fs;
use std::path::{Path, PathBuf};

use podgate_conflist::{Entry, Network};

const ENTRY: &str = r#"{"type": "podgate", "enforcingMode": "strict", "waitMs": 5000}"#;

fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden")
}

/// The networks, by the names of their files.
fn networks() -> Vec<(String, Network)> {
    let mut files: Vec<PathBuf> = fs::read_dir(golden())
        .unwrap()
        .map(|it| it.unwrap().path())
        .filter(|it| it.is_file())
        .collect();
    files.sort();
    files
        .into_iter()
        .map(|path| {
            let file = path.file_name().unwrap().to_str().unwrap().to_owned();
            let network = Network::parse(&file, &fs::read(&path).unwrap()).expect(&file);
            (file, network)
        })
        .collect()
}

fn check(mode: &str, render: impl Fn(&Network) -> String) {
    let bless = std::env::var_os("PODGATE_BLESS").is_some();
    let networks = networks();
    assert_eq!(networks.len(), 8);
    for (file, network) in networks {
        let path = golden().join(mode).join(format!("{file}.expected"));
        let rendered = render(&network);
        if bless {
            fs::write(&path, &rendered).unwrap();
        }
        let expected = fs::read_to_string(&path).expect(&file);
        assert_eq!(rendered, expected, "{mode} {file}");
    }
}

#[test]
fn each_network_with_podgate_in_its_chain() {
    let entry = Entry::parse(ENTRY).unwrap();
    check("own", |network| match network.with(&entry) {
        Ok(text) => {
            let again = Network::parse("05-podgate.conflist", text.as_bytes()).unwrap();
            assert!(again.has_ours());
            assert_eq!(
                again.with(&entry).unwrap(),
                text,
                "a second time changes nothing"
            );
            let notices: String = network.notices().map(|it| format!("// {it}\n")).collect();
            notices + &text
        }
        Err(refusal) => format!("// {refusal}\n"),
    });
}

#[test]
fn each_network_edited_in_place() {
    let entry = Entry::parse(ENTRY).unwrap();
    check("edit", |network| match network.edited(&entry) {
        Ok(text) => {
            let without = Network::parse("10.conflist", text.as_bytes())
                .unwrap()
                .without()
                .unwrap();
            assert!(
                !Network::parse("10.conflist", without.as_bytes())
                    .unwrap()
                    .has_ours()
            );
            without
        }
        Err(refusal) => format!("// {refusal}\n"),
    });
}

#[test]
fn each_network_with_a_drop_in() {
    let entry = Entry::parse(ENTRY).unwrap();
    check("dropin", |network| match network.drop_in(&entry) {
        Ok(text) => text,
        Err(refusal) => format!("// {refusal}\n"),
    });
}
