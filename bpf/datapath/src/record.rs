// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Attachments as they stand in their files, `<run>/attachments/<container id>:<ifname>.json`.
//!
//! A file is complete from the moment that it has its name, and is never changed. The name is for people: what an
//! attachment is, its file says. No interface has a colon in its name, so no two attachments have one file.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    net::{IpAddr, Ipv4Addr},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

pub use podgate_core::{AttachmentId, Baseline, PodName, Slot};
use serde::{Deserialize, Serialize};

use crate::{
    Failed, Paths,
    error::if_there,
    lock::{Lock, make_private_dir},
    netlink::Ifindex,
};

mod format;
mod reader;

pub use reader::Reader;

/// The version of the files' format.
const FORMAT: u32 = 1;

/// The extension of the file of an attachment.
const COMPLETE: &str = "json";

/// The extension of a file that is being written.
const UNFINISHED: &str = "new";

/// A number that names one state of one attachment's policy; never 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Generation(pub u32);

/// One attachment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Record {
    /// Which one.
    #[serde(with = "format::AttachmentIdJson")]
    pub identity: AttachmentId,
    /// The name of the CNI network.
    pub network: String,
    /// Whose interface it is, if the runtime said it.
    #[serde(default, with = "format::pod")]
    pub pod: Option<PodName>,
    /// The pod's network namespace: its inode.
    pub netns_inode: u64,
    /// The pod's end, in the pod's namespace.
    pub pod_ifindex: Ifindex,
    /// The host end, in the node's namespace.
    pub host_ifindex: Ifindex,
    /// The host end's hardware address at ADD: it tells apart what has the same numbers, which the kernel uses again
    /// at once, those of namespaces too.
    #[serde(default)]
    pub host_mac: Option<[u8; 6]>,
    /// The hardware address of the pod's end at ADD, which all that it sends must carry.
    #[serde(default)]
    pub pod_mac: Option<[u8; 6]>,
    /// The pod's addresses on the interface.
    pub addresses: Vec<IpAddr>,
    /// The directed broadcast addresses of its IPv4 networks.
    #[serde(default)]
    pub broadcasts: Vec<Ipv4Addr>,
    /// What holds until its policy is in force.
    #[serde(with = "format::BaselineJson")]
    pub baseline: Baseline,
    /// Its place in the tables.
    #[serde(with = "format::SlotJson")]
    pub slot: Slot,
    /// The generation at birth: flows that are older are another attachment's.
    pub birth: Generation,
}

/// A file: its format before everything else.
#[derive(Serialize, Deserialize)]
struct Versioned<T> {
    format: u32,
    attachment: T,
}

impl Paths {
    /// The file of an attachment.
    #[must_use]
    pub fn attachment(&self, identity: &AttachmentId) -> PathBuf {
        let AttachmentId {
            container_id,
            ifname,
        } = identity;
        self.attachments()
            .join(format!("{container_id}:{ifname}.json"))
    }
}

/// Every attachment, and for each file that cannot be read an error.
///
/// # Errors
/// When the directory itself cannot be read. No directory is no attachment.
pub fn list(paths: &Paths) -> Result<Vec<Result<Record, Failed>>, Failed> {
    Ok(files(paths, COMPLETE)?
        .into_iter()
        .filter_map(|path| match read_file(path) {
            // Removed while we looked.
            Err(error) if error.is_missing() => None,
            result => Some(result),
        })
        .collect())
}

/// The files of attachments that have this extension, in the order of their names.
fn files(paths: &Paths, extension: &str) -> Result<Vec<PathBuf>, Failed> {
    let directory = paths.attachments();
    let entries = match fs::read_dir(&directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(Failed::at("list attachments in", &directory)(error)),
    };
    let mut files = Vec::new();
    for entry in entries {
        let path = entry
            .map_err(Failed::at("list attachments in", &directory))?
            .path();
        if path.extension().is_some_and(|it| it == extension) {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

/// The record of an attachment, if there is one.
///
/// # Errors
/// When its file cannot be read or understood, or is another attachment's.
pub fn read(paths: &Paths, identity: &AttachmentId) -> Result<Option<Record>, Failed> {
    let path = paths.attachment(identity);
    match read_file(path.clone()) {
        Ok(record) if record.identity == *identity => Ok(Some(record)),
        Ok(record) => Err(Failed::at("read attachment", &path)(io::Error::other(
            format!("it is the file of {}", record.identity),
        ))),
        Err(error) if error.is_missing() => Ok(None),
        Err(error) => Err(error),
    }
}

fn read_file(path: PathBuf) -> Result<Record, Failed> {
    let failed = |source| Failed::at("read attachment", &path)(source);
    let bytes = fs::read(&path).map_err(failed)?;
    let file: Versioned<serde_json::Value> =
        serde_json::from_slice(&bytes).map_err(|error| failed(error.into()))?;
    if file.format != FORMAT {
        let why = format!(
            "format {} is not {FORMAT}, which this podgate reads",
            file.format
        );
        return Err(failed(io::Error::other(why)));
    }
    serde_json::from_value(file.attachment).map_err(|error| failed(error.into()))
}

/// Writes the file of an attachment that stands once more, after somebody removed it.
///
/// # Errors
/// When the file cannot be written.
pub fn restore(paths: &Paths, record: &Record, _lock: &Lock) -> Result<(), Failed> {
    write(paths, record)
}

/// Writes the file of an attachment, in the place of an older one.
pub(crate) fn write(paths: &Paths, record: &Record) -> Result<(), Failed> {
    make_private_dir(&paths.attachments())?;
    let path = paths.attachment(&record.identity);
    let file = Versioned {
        format: FORMAT,
        attachment: record,
    };
    let bytes = serde_json::to_vec(&file)
        .map_err(|error| Failed::at("encode attachment", &path)(error.into()))?;
    replace_private(&path, &bytes)
        .and_then(|()| File::open(paths.attachments())?.sync_all())
        .map_err(Failed::at("write attachment", &path))
}

/// Writes a file that only root may read, in the place of an older one. If that fails, nothing is left of it: it may have
/// taken the last room.
pub(crate) fn replace_private(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let unfinished = path.with_extension(UNFINISHED);
    let replaced = write_private(&unfinished, bytes).and_then(|()| fs::rename(&unfinished, path));
    if replaced.is_err() {
        fs::remove_file(&unfinished).ok();
    }
    replaced
}

/// Removes files whose writer was killed: they are written under the lock.
pub(crate) fn remove_unfinished(paths: &Paths, _lock: &Lock) -> Result<(), Failed> {
    for path in files(paths, UNFINISHED)? {
        if_there(fs::remove_file(&path)).map_err(Failed::at("remove unfinished file", &path))?;
    }
    Ok(())
}

/// Writes a file that only root may read, down to the disk.
fn write_private(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new()
        .create(true)
        .truncate(true)
        .write(true)
        .mode(0o600)
        .open(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

/// Deletes the file of an attachment, if there is one.
pub(crate) fn delete(paths: &Paths, identity: &AttachmentId) -> Result<(), Failed> {
    let path = paths.attachment(identity);
    if_there(fs::remove_file(&path)).map_err(Failed::at("delete attachment", &path))
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(super) fn record(container_id: &str) -> Record {
        Record {
            identity: AttachmentId {
                container_id: container_id.into(),
                ifname: "eth0".into(),
            },
            network: "n".into(),
            pod: None,
            netns_inode: 7,
            pod_ifindex: Ifindex(2),
            host_ifindex: Ifindex(9),
            host_mac: Some([2, 0, 0, 0, 0, 1]),
            pod_mac: Some([2, 0, 0, 0, 0, 2]),
            broadcasts: vec![[10, 0, 0, 255].into()],
            addresses: vec!["10.0.0.1".parse().unwrap(), "fd00::1".parse().unwrap()],
            baseline: Baseline::Deny,
            slot: Slot(3),
            birth: Generation(4),
        }
    }

    #[test]
    fn a_record_is_read_as_it_was_written() {
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths::below(&dir);
        write(&paths, &record("a")).unwrap();
        assert_eq!(
            read(&paths, &record("a").identity).unwrap(),
            Some(record("a"))
        );
        delete(&paths, &record("a").identity).unwrap();
        delete(&paths, &record("a").identity).unwrap();
        assert_eq!(read(&paths, &record("a").identity).unwrap(), None);
    }

    #[test]
    fn a_file_that_cannot_be_read_is_an_error_beside_the_others() {
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths::below(&dir);
        assert!(list(&paths).unwrap().is_empty());
        write(&paths, &record("a")).unwrap();
        fs::write(paths.attachments().join("b-eth0.json"), b"{\"format\":1,").unwrap();
        fs::write(
            paths.attachments().join("c-eth0.json"),
            b"{\"format\":2,\"attachment\":{}}",
        )
        .unwrap();
        fs::write(paths.attachments().join("d-eth0.new"), b"").unwrap();
        let found = list(&paths).unwrap();
        assert_eq!(found.len(), 3);
        assert_eq!(found.iter().filter(|result| result.is_err()).count(), 2);
    }

    #[test]
    fn a_file_that_cannot_be_written_leaves_nothing_behind() {
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths::below(&dir);
        // A directory has the name of the file.
        let path = paths.attachment(&record("a").identity);
        fs::create_dir_all(&path).unwrap();
        write(&paths, &record("a")).unwrap_err();
        let left = fs::read_dir(paths.attachments()).unwrap();
        let left: Vec<_> = left.map(|entry| entry.unwrap().path()).collect();
        assert_eq!(left, [path]);
    }

    #[test]
    fn attachments_whose_names_run_into_each_other_have_two_files() {
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths::below(&dir);
        let of = |container_id: &str, ifname: &str| Record {
            identity: AttachmentId {
                container_id: container_id.into(),
                ifname: ifname.into(),
            },
            ..record("a")
        };
        let (one, other) = (of("a-b", "c"), of("a", "b-c"));
        write(&paths, &one).unwrap();
        write(&paths, &other).unwrap();
        delete(&paths, &one.identity).unwrap();
        assert_eq!(read(&paths, &one.identity).unwrap(), None);
        assert_eq!(read(&paths, &other.identity).unwrap(), Some(other));
    }

    #[test]
    fn the_file_of_another_attachment_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths::below(&dir);
        write(&paths, &record("a")).unwrap();
        let other = AttachmentId {
            container_id: "b".into(),
            ifname: "eth0".into(),
        };
        fs::rename(
            paths.attachment(&record("a").identity),
            paths.attachment(&other),
        )
        .unwrap();
        assert!(read(&paths, &other).is_err());
    }

    #[test]
    fn the_files_format_is_what_it_was() {
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths::below(&dir);
        let text = |pod: &str| {
            format!(
                r#"{{"format":1,"attachment":{{"identity":{{"container_id":"a","ifname":"eth0"}},"network":"n",{pod}"netns_inode":7,"pod_ifindex":2,"host_ifindex":9,"host_mac":[2,0,0,0,0,1],"pod_mac":[2,0,0,0,0,2],"addresses":["10.0.0.1","fd00::1"],"broadcasts":["10.0.0.255"],"baseline":"deny","slot":3,"birth":4}}}}"#
            )
        };
        let pod = |uid: Option<&str>| {
            Some(PodName {
                namespace: "ns".into(),
                name: "web".into(),
                uid: uid.map(str::to_owned),
            })
        };
        for (pod, json) in [
            (None, r#""pod":null,"#),
            (
                pod(Some("u")),
                r#""pod":{"namespace":"ns","name":"web","uid":"u"},"#,
            ),
            (
                pod(None),
                r#""pod":{"namespace":"ns","name":"web","uid":null},"#,
            ),
        ] {
            let record = Record { pod, ..record("a") };
            write(&paths, &record).unwrap();
            let path = paths.attachment(&record.identity);
            assert_eq!(fs::read_to_string(&path).unwrap(), text(json));
            assert_eq!(read(&paths, &record.identity).unwrap(), Some(record));
        }
        let path = paths.attachment(&record("a").identity);
        for (pod, json) in [
            (None, ""),
            (pod(None), r#""pod":{"namespace":"ns","name":"web"},"#),
        ] {
            fs::write(&path, text(json)).unwrap();
            let expected = Record { pod, ..record("a") };
            assert_eq!(read(&paths, &expected.identity).unwrap(), Some(expected));
        }
    }
}
