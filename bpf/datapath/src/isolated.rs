// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Which namespaces have policies that may isolate a pod, and in which directions: what the enforcer leaves for the
//! plugin, in `<run>/isolated`.
//!
//! ```text
//! podgate isolated 1
//! default ingress
//! shop ingress egress
//! end 2
//! ```
//! An ADD stores "deny" in these directions of its pod before its filters are attached, so the pod waits closed for
//! its policy, also when no enforcer answers. Without the file nothing is known of policies, and the baseline holds. A
//! file that cannot be read may have named any namespace: every pod waits closed then.
//!
//! Both sides hold the lock. The file is replaced in one step; where there is no room for a second one, it is written in
//! place, which needs no more room on the file system than it has already, since its size is a multiple of a page. What
//! does not fit there either becomes one line for all namespaces. A crash in the middle leaves a file that cannot be read.

use std::{
    collections::BTreeMap,
    fs::{self, OpenOptions},
    io::{self, Write},
};

use podgate_abi::{Direction, RulesetId};
pub use podgate_core::Isolation;

use crate::{
    Failed, Paths,
    lock::{Lock, make_private_dir},
    record::{Baseline, replace_private},
};

const HEADER: &str = "podgate isolated 1";

/// In the place of a namespace: all of them.
const EVERY: &str = "*";

/// Blocks of the file systems that a run directory is on are no larger.
const PAGE: usize = 4096;

/// The ruleset that holds in a direction until the pod's policy is in force.
pub const fn until_in_force(
    isolated: Isolation,
    direction: Direction,
    baseline: Baseline,
) -> RulesetId {
    if isolated.of(direction) {
        RulesetId::DENY_ALL
    } else {
        RulesetId::of(baseline)
    }
}

/// What the enforcer knows: the namespaces that have policies.
pub type Namespaces = BTreeMap<String, Isolation>;

/// How the file was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Written {
    /// As it should be.
    Whole,
    /// There was room for one line only: pods of every namespace wait closed.
    Coarse,
}

/// The directions in which a pod of `namespace` waits closed for its policy.
///
/// # Errors
/// When the file is there and cannot be read: [`Isolation::BOTH`] is the answer then.
pub fn look_up(paths: &Paths, namespace: &str) -> Result<Isolation, Failed> {
    let path = paths.isolated();
    let bytes = match fs::read(&path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Isolation::default()),
        Err(error) => {
            return Err(Failed::at("read the record of isolated namespaces", &path)(
                error,
            ));
        }
    };
    find(&bytes, namespace).ok_or_else(|| {
        let why = "it is damaged or another version's: a running podgate-enforcer writes it again, and without one it can be deleted";
        Failed::at("read the record of isolated namespaces", &path)(io::Error::other(why))
    })
}

/// What the file says of a namespace; none if it is not a whole one of this version.
fn find(bytes: &[u8], namespace: &str) -> Option<Isolation> {
    let text = std::str::from_utf8(bytes).ok()?;
    let mut lines = text.lines();
    if lines.next()? != HEADER {
        return None;
    }
    let (mut found, mut count) = (Isolation::default(), 0_usize);
    loop {
        let line = lines.next()?;
        let mut words = line.split(' ');
        let name = words.next()?;
        if name == "end"
            && words.clone().all(|word| word.parse() == Ok(count))
            && words.clone().count() == 1
        {
            return Some(found);
        }
        let mut isolated = Isolation::default();
        for word in words {
            match word {
                "ingress" => isolated.ingress = true,
                "egress" => isolated.egress = true,
                _ => return None,
            }
        }
        if !isolated.any() {
            return None;
        }
        count += 1;
        if name == namespace || name == EVERY {
            found = found.or(isolated);
        }
    }
}

fn encode<'a>(namespaces: impl Iterator<Item = (&'a str, Isolation)>) -> Vec<u8> {
    let (mut text, mut count) = (format!("{HEADER}\n"), 0);
    for (name, isolated) in namespaces.filter(|(_, isolated)| isolated.any()) {
        let ingress = if isolated.ingress { " ingress" } else { "" };
        let egress = if isolated.egress { " egress" } else { "" };
        text.push_str(&format!("{name}{ingress}{egress}\n"));
        count += 1;
    }
    text.push_str(&format!("end {count}\n"));
    let mut bytes = text.into_bytes();
    bytes.resize(bytes.len().next_multiple_of(PAGE), b'\n');
    bytes
}

/// Writes what the enforcer knows, in the place of what was there.
///
/// # Errors
/// When the file cannot be written at all. What was there before still is, unless the medium is at fault.
pub fn write(paths: &Paths, namespaces: &Namespaces, _lock: &Lock) -> Result<Written, Failed> {
    let path = paths.isolated();
    let named = namespaces.iter();
    let whole = encode(named.map(|(name, isolated)| (name.as_str(), *isolated)));
    let Err(why) = replace(paths, &whole) else {
        return Ok(Written::Whole);
    };
    let in_place = |bytes: &[u8]| -> io::Result<()> {
        let mut file = OpenOptions::new().write(true).open(&path)?;
        let size = usize::try_from(file.metadata()?.len()).unwrap_or(usize::MAX);
        if bytes.len() > size {
            return Err(io::ErrorKind::StorageFull.into());
        }
        file.write_all(bytes)?;
        file.set_len(bytes.len() as u64)
    };
    if in_place(&whole).is_ok() {
        return Ok(Written::Whole);
    }
    in_place(&encode([(EVERY, Isolation::BOTH)].into_iter()))
        .map(|()| Written::Coarse)
        .map_err(|_| Failed::at("write the record of isolated namespaces", &path)(why))
}

fn replace(paths: &Paths, bytes: &[u8]) -> io::Result<()> {
    make_private_dir(&paths.run).map_err(|failed| failed.source)?;
    replace_private(&paths.isolated(), bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    const INGRESS: Isolation = Isolation {
        ingress: true,
        egress: false,
    };

    fn known() -> Namespaces {
        let open = ("open".to_owned(), Isolation::default());
        [
            ("default".to_owned(), INGRESS),
            ("shop".to_owned(), Isolation::BOTH),
            open,
        ]
        .into()
    }

    #[test]
    fn a_namespace_is_found_as_it_was_written_and_no_other_is() {
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths::below(&dir);
        let lock = Lock::take(&paths).unwrap();
        assert_eq!(look_up(&paths, "shop").unwrap(), Isolation::default());
        assert_eq!(write(&paths, &known(), &lock).unwrap(), Written::Whole);
        for (namespace, isolated) in [
            ("default", INGRESS),
            ("shop", Isolation::BOTH),
            ("open", Isolation::default()),
            ("sho", Isolation::default()),
            ("end", Isolation::default()),
        ] {
            assert_eq!(look_up(&paths, namespace).unwrap(), isolated, "{namespace}");
        }
        // Whatever a namespace is called.
        let end = [("end".to_owned(), INGRESS)].into();
        write(&paths, &end, &lock).unwrap();
        assert_eq!(look_up(&paths, "end").unwrap(), INGRESS);
        write(&paths, &Namespaces::new(), &lock).unwrap();
        assert_eq!(look_up(&paths, "shop").unwrap(), Isolation::default());
    }

    #[test]
    fn a_record_cut_damaged_or_of_another_version_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths::below(&dir);
        fs::create_dir_all(&paths.run).unwrap();
        let whole = encode([("a", INGRESS), ("b", Isolation::BOTH)].into_iter());
        let end = whole.iter().rposition(|byte| *byte == b'2').unwrap();
        let mut broken: Vec<Vec<u8>> = (0..end).map(|at| whole[..at].to_vec()).collect();
        let text = String::from_utf8(whole.clone()).unwrap();
        broken.push(text.replace("isolated 1", "isolated 2").into());
        broken.push(text.replace("egress", "outgress").into());
        broken.push(text.replace("end 2", "end 3").into());
        broken.push(text.replace(" egress", " \0").into());
        broken.push([whole.as_slice(), b"\xff"].concat());
        for bytes in broken {
            fs::write(paths.isolated(), &bytes).unwrap();
            let found = look_up(&paths, "none");
            assert!(found.is_err(), "{:?}", String::from_utf8_lossy(&bytes));
        }
        fs::write(paths.isolated(), whole).unwrap();
        assert_eq!(look_up(&paths, "none").unwrap(), Isolation::default());
    }

    #[test]
    fn without_room_for_a_second_file_it_is_written_in_place() {
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths::below(&dir);
        let lock = Lock::take(&paths).unwrap();
        // A directory has the name of the temporary file.
        let in_the_way = paths.isolated().with_extension("new");
        fs::create_dir_all(&in_the_way).unwrap();
        assert!(write(&paths, &known(), &lock).is_err());
        fs::remove_dir(&in_the_way).unwrap();
        write(&paths, &Namespaces::new(), &lock).unwrap();
        fs::create_dir(&in_the_way).unwrap();
        assert_eq!(write(&paths, &known(), &lock).unwrap(), Written::Whole);
        assert_eq!(look_up(&paths, "default").unwrap(), INGRESS);
        let many = (0..500).map(|number| (format!("namespace-{number}"), INGRESS));
        let many: Namespaces = many.collect();
        assert_eq!(write(&paths, &many, &lock).unwrap(), Written::Coarse);
        assert_eq!(look_up(&paths, "anybody").unwrap(), Isolation::BOTH);
        fs::remove_dir(&in_the_way).unwrap();
        assert_eq!(write(&paths, &many, &lock).unwrap(), Written::Whole);
        assert_eq!(look_up(&paths, "anybody").unwrap(), Isolation::default());
    }
}
