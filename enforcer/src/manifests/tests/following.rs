// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The watcher, on directories of its own.

use std::fs;
use std::io::Write;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tempfile::TempDir;
use tokio::sync::watch::Receiver;

use super::namespace;
use super::room::{ROOMS, closed, policy, rules};
use crate::manifests::{self, Snapshot, WatchError};
use crate::stored::Rooms;

/// Follows a directory that nobody followed before.
fn watch(path: PathBuf) -> Result<Receiver<Snapshot>, WatchError> {
    let kept = directory();
    manifests::watch(path, kept.path().join("kept"), Rooms::default())
}

/// Waits until a snapshot fits; panics if none does in time.
async fn until(snapshots: &mut Receiver<Snapshot>, what: &str, fits: impl Fn(&Snapshot) -> bool) {
    let deadline = Duration::from_secs(30);
    let found = tokio::time::timeout(deadline, async { snapshots.wait_for(&fits).await.is_ok() })
        .await
        == Ok(true);
    assert!(found, "{what}: {:?}", snapshots.borrow());
}

fn says(snapshot: &Snapshot, names: &[&str]) -> bool {
    snapshot.objects.namespaces.keys().eq(names) && snapshot.errors.is_empty()
}

fn write(directory: &Path, name: &str, content: &str) {
    fs::write(directory.join(name), content).expect("the temporary directory can be written");
}

fn directory() -> TempDir {
    tempfile::Builder::new()
        .prefix("podgate-manifests-")
        .tempdir()
        .expect("a temporary directory")
}

/// A file that is larger than any manifest keeps what it last said, and is not read whole.
#[tokio::test]
async fn a_huge_file_keeps_what_it_last_said_and_is_not_read_whole() {
    let directory = directory();
    let path = directory.path();
    write(path, "a.yaml", &namespace("a"));
    let mut snapshots = watch(path.to_owned()).expect("the directory can be watched");
    // A hole of a terabyte: whoever reads all of it has no memory left.
    let huge = fs::File::create(path.join("a.yaml")).expect("created");
    huge.set_len(1 << 40).expect("made larger");
    drop(huge);
    until(&mut snapshots, "too large", |s| {
        s.errors.iter().any(|error| error.reason.contains("16 MiB"))
    })
    .await;
    let names = |s: &Snapshot| s.objects.namespaces.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(&snapshots.borrow()), ["a"]);
    write(path, "a.yaml", &namespace("b"));
    until(&mut snapshots, "mended", |s| says(s, &["b"])).await;
}

#[tokio::test]
async fn a_large_file_keeps_no_other_waiting() {
    let directory = directory();
    let path = directory.path();
    let mut snapshots = watch(path.to_owned()).expect("the directory can be watched");
    let many: Vec<String> = (0..5_000)
        .map(|it| namespace(&format!("many{it}")))
        .collect();
    write(path, "large.yaml", &many.join("---\n"));
    write(path, "small.yaml", &namespace("small"));
    until(&mut snapshots, "the small one", |s| says(s, &["small"])).await;
    write(path, "small.yaml", &namespace("smaller"));
    until(&mut snapshots, "edited", |s| says(s, &["smaller"])).await;
    let all = 5_001;
    until(&mut snapshots, "the large one", |s| {
        s.objects.namespaces.len() == all
    })
    .await;
}

#[tokio::test]
async fn files_that_are_added_edited_renamed_and_deleted_take_effect() {
    let directory = directory();
    let path = directory.path();
    write(path, "a.yaml", &namespace("a"));
    let mut snapshots = watch(path.to_owned()).expect("the directory can be watched");
    assert!(
        says(&snapshots.borrow(), &["a"]),
        "the first snapshot is there at once"
    );

    write(path, "b.yml", &namespace("b"));
    until(&mut snapshots, "added", |s| says(s, &["a", "b"])).await;
    write(path, "b.yml", &namespace("c"));
    until(&mut snapshots, "edited", |s| says(s, &["a", "c"])).await;
    write(path, "b.yml", "kind: [");
    until(&mut snapshots, "wrongly edited", |s| {
        s.errors.len() == 1 && s.objects.namespaces.len() == 2
    })
    .await;
    write(path, "new", &namespace("d"));
    fs::rename(path.join("new"), path.join("b.yml")).expect("renamed");
    until(&mut snapshots, "replaced by a rename", |s| {
        says(s, &["a", "d"])
    })
    .await;
    fs::rename(path.join("b.yml"), path.join("c.json")).expect("renamed");
    write(path, "e.yaml", &namespace("e"));
    until(&mut snapshots, "renamed", |s| says(s, &["a", "d", "e"])).await;
    fs::rename(path.join("c.json"), path.join("c.off")).expect("renamed");
    until(&mut snapshots, "renamed away", |s| says(s, &["a", "e"])).await;
    fs::remove_file(path.join("a.yaml")).expect("removed");
    until(&mut snapshots, "deleted", |s| says(s, &["e"])).await;
}

#[tokio::test]
async fn hidden_and_backup_files_are_ignored() {
    let directory = directory();
    for name in [".a.yaml", "a.yaml~", ".#a.yaml", ".a.yaml.swp", "a.txt"] {
        write(directory.path(), name, "kind: [");
    }
    let snapshots = watch(directory.path().to_owned()).expect("the directory can be watched");
    assert!(says(&snapshots.borrow(), &[]));
}

#[tokio::test]
async fn a_mounted_config_map_is_followed_through_its_links() {
    let directory = directory();
    let path = directory.path();
    for (version, name) in [("..1", "old"), ("..2", "new")] {
        fs::create_dir(path.join(version)).expect("made");
        write(&path.join(version), "a.yaml", &namespace(name));
    }
    symlink("..1", path.join("..data")).expect("linked");
    symlink("..data/a.yaml", path.join("a.yaml")).expect("linked");
    let mut snapshots = watch(path.to_owned()).expect("the directory can be watched");
    assert!(says(&snapshots.borrow(), &["old"]));
    symlink("..2", path.join("..data_tmp")).expect("linked");
    fs::rename(path.join("..data_tmp"), path.join("..data")).expect("renamed");
    until(&mut snapshots, "the link leads elsewhere", |s| {
        says(s, &["new"])
    })
    .await;
}

#[tokio::test]
async fn a_vanished_directory_keeps_what_it_said_and_is_found_again() {
    let parent = directory();
    let path = parent.path().join("manifests");
    fs::create_dir(&path).expect("made");
    write(&path, "a.yaml", &namespace("a"));
    let mut snapshots = watch(path.clone()).expect("the directory can be watched");
    fs::rename(&path, parent.path().join("away")).expect("renamed");
    until(&mut snapshots, "gone", |s| {
        s.objects.namespaces.len() == 1 && s.errors.iter().any(|e| e.path == path)
    })
    .await;
    fs::create_dir(&path).expect("made");
    until(&mut snapshots, "back, and empty", |s| says(s, &[])).await;
    write(&path, "b.yaml", &namespace("b"));
    until(&mut snapshots, "watched again", |s| says(s, &["b"])).await;
}

#[test]
fn a_directory_missing_at_the_start_is_an_error_that_says_so() {
    let directory = directory();
    let error = watch(directory.path().join("none")).expect_err("there is no such directory");
    assert!(matches!(error, WatchError::Directory { .. }));
    assert!(error.to_string().contains("none: create it"), "{error}");
}

#[tokio::test]
async fn a_file_being_written_is_not_read_because_of_another_file() {
    let directory = directory();
    let path = directory.path();
    write(path, "a.yaml", &namespace("a"));
    let mut snapshots = watch(path.to_owned()).expect("the directory can be watched");
    let writing = fs::File::create(path.join("a.yaml")).expect("emptied");
    write(path, "README", "not a manifest");
    write(path, "b.yaml", &namespace("b"));
    until(&mut snapshots, "the others are read", |s| {
        s.objects.namespaces.contains_key("b")
    })
    .await;
    assert!(says(&snapshots.borrow(), &["a", "b"]));
    (&writing)
        .write_all(namespace("c").as_bytes())
        .expect("written");
    drop(writing);
    until(&mut snapshots, "written to its end", |s| {
        says(s, &["b", "c"])
    })
    .await;
}

/// A directory in the place of a file keeps what the file said, and is reported.
#[tokio::test]
async fn a_directory_in_place_of_a_file_keeps_what_the_file_said() {
    let directory = directory();
    let path = directory.path().join("a.yaml");
    write(directory.path(), "a.yaml", &namespace("a"));
    let mut snapshots = watch(directory.path().to_owned()).expect("the directory can be watched");
    fs::create_dir(directory.path().join("new")).expect("made");
    fs::remove_file(&path).expect("removed");
    fs::rename(directory.path().join("new"), &path).expect("renamed");
    until(&mut snapshots, "reported", |s| {
        s.objects.namespaces.contains_key("a") && s.errors.iter().any(|e| e.path == path)
    })
    .await;
    fs::remove_dir(&path).expect("removed");
    until(&mut snapshots, "gone", |s| says(s, &[])).await;
}

#[tokio::test]
async fn what_a_file_last_said_outlives_the_enforcer() {
    let (directory, run) = (directory(), directory());
    let path = directory.path();
    let start = || {
        manifests::watch(path.to_owned(), run.path().join("kept"), Rooms::default())
            .expect("the directory can be watched")
    };
    for name in ["a", "b", "c"] {
        write(path, &format!("{name}.yaml"), &namespace(name));
    }
    drop(start());
    write(path, "a.yaml", "kind: [");
    fs::remove_file(path.join("b.yaml")).expect("removed");
    let mut snapshots = start();
    let first = snapshots.borrow().clone();
    assert!(first.objects.namespaces.keys().eq(["a", "c"]), "{first:?}");
    assert!(first.errors.len() == 1, "{first:?}");
    // Kept is what was in force last, and nothing that is gone.
    write(path, "c.yaml", &namespace("d"));
    until(&mut snapshots, "edited", |s| {
        s.objects.namespaces.contains_key("d")
    })
    .await;
    drop(snapshots);
    write(path, "c.yaml", "kind: [");
    write(path, "b.yaml", "kind: [");
    let names = start().borrow().objects.namespaces.clone();
    assert!(names.keys().eq(["a", "d"]), "{names:?}");
    fs::remove_file(path.join("a.yaml")).expect("removed");
    assert!(start().borrow().objects.namespaces.keys().eq(["d"]));
}

/// What is in force is kept as soon as it can be, though its file says something else by then.
#[tokio::test]
async fn what_cannot_be_kept_is_a_warning_until_it_is_kept() {
    let (directory, run) = (directory(), directory());
    let path = directory.path();
    let start = || {
        manifests::watch(path.to_owned(), run.path().join("kept"), Rooms::default())
            .expect("the directory can be watched")
    };
    // It has the name of the directory of copies.
    write(run.path(), "kept", "");
    write(path, "a.yaml", &namespace("a"));
    let mut snapshots = start();
    let told = |s: &Snapshot| {
        let warnings = s.warnings.iter();
        let texts = warnings.filter(|it| it.about.is_none() && it.text.contains("a.yaml"));
        texts.count()
    };
    assert_eq!(told(&snapshots.borrow()), 1);
    write(path, "a.yaml", "kind: [");
    until(&mut snapshots, "wrong", |s| s.errors.len() == 1).await;
    assert_eq!(told(&snapshots.borrow()), 1);
    fs::remove_file(run.path().join("kept")).expect("removed");
    write(path, "b.yaml", &namespace("b"));
    until(&mut snapshots, "kept", |s| told(s) == 0).await;
    drop(snapshots);
    let names = start().borrow().objects.namespaces.clone();
    assert!(names.keys().eq(["a", "b"]), "{names:?}");
}

/// What becomes of a file while what it said is not kept whole.
#[derive(Debug, Clone, Copy)]
enum Becomes {
    Wrong,
    Conflicting,
    Unreadable,
}

/// A policy that is closed, and whose file says then what cannot be in force.
async fn closed_and_then(becomes: Becomes) -> (TempDir, TempDir, Receiver<Snapshot>) {
    let (directory, kept) = (directory(), self::directory());
    let path = directory.path();
    write(path, "a.yaml", &policy("large", "a", 100));
    write(path, "small.yaml", &policy("small", "p", 1));
    let copies = kept.path().join("kept");
    let mut snapshots = manifests::watch(path.to_owned(), copies, ROOMS).unwrap();
    assert_eq!(rules(&snapshots.borrow(), "large", "a"), 100);
    write(path, "b.yaml", &policy("large", "b", 100));
    until(&mut snapshots, "closed", |s| closed(s) == ["large"]).await;
    let now = format!(
        "{}---\n{}",
        policy("large", "a", 90),
        policy("small", "p", 1)
    );
    match becomes {
        Becomes::Wrong => write(path, "a.yaml", "kind: ["),
        Becomes::Conflicting => write(path, "a.yaml", &now),
        Becomes::Unreadable => {
            symlink("nowhere", path.join("link")).expect("linked");
            fs::rename(path.join("link"), path.join("a.yaml")).expect("renamed");
        }
    }
    until(&mut snapshots, "not in force", |s| s.errors.len() == 1).await;
    (directory, kept, snapshots)
}

#[tokio::test]
async fn a_closed_policy_of_a_wrong_file_is_restored_from_its_copy() {
    for becomes in [Becomes::Wrong, Becomes::Conflicting, Becomes::Unreadable] {
        let (directory, _kept, mut snapshots) = closed_and_then(becomes).await;
        fs::remove_file(directory.path().join("b.yaml")).expect("removed");
        let what = format!("whole again: {becomes:?}");
        until(&mut snapshots, &what, |s| closed(s).is_empty()).await;
        assert_eq!(rules(&snapshots.borrow(), "large", "a"), 100);
        assert_eq!(snapshots.borrow().errors.len(), 1);
    }
}

#[tokio::test]
async fn a_closed_policy_without_a_copy_is_reported_until_repaired() {
    let (directory, kept, mut snapshots) = closed_and_then(Becomes::Wrong).await;
    fs::remove_dir_all(kept.path().join("kept")).expect("removed");
    fs::remove_file(directory.path().join("b.yaml")).expect("removed");
    until(&mut snapshots, "told", |s| {
        let told = s.warnings.iter().map(|warning| &warning.text);
        let told: Vec<_> = told.filter(|text| text.contains("a.yaml")).collect();
        matches!(told.as_slice(), [text] if !text.contains("being read again"))
    })
    .await;
    assert_eq!(rules(&snapshots.borrow(), "large", "a"), 0);
    write(directory.path(), "a.yaml", &policy("large", "a", 90));
    until(&mut snapshots, "mended", |s| closed(s).is_empty()).await;
    assert_eq!(rules(&snapshots.borrow(), "large", "a"), 90);
}
