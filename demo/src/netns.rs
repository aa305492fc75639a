// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Network namespaces with a name: made, entered, and taken away again when dropped.
//!
//! A thread that changes its namespace is never given back to anybody: every entry uses a thread of its own, or
//! a process that has only one.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::thread;

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{LinkFlags, LinkMessage};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns, unshare};

/// The interface number that `lo` has in every network namespace.
const LOOPBACK_IFINDEX: u32 = 1;

/// What could not be done to a network namespace.
#[derive(Debug, thiserror::Error)]
#[error("{action} network namespace {}", path.display())]
pub struct NetNsError {
    /// What was being done, as a verb.
    action: &'static str,
    /// The file under which the namespace is, or was to be, known.
    path: PathBuf,
    /// Why it failed.
    source: io::Error,
}

/// A network namespace that stays while this value does. Dropping it takes the name away; the namespace itself
/// goes when the last process in it has gone.
#[derive(Debug)]
pub struct NetNs {
    path: PathBuf,
}

impl NetNs {
    /// A new namespace, bound to the new file `path` (its directory is made if missing), with `lo` up.
    ///
    /// IPv6 addresses in it are usable at once: duplicate address detection is off, because no second host can
    /// be there.
    ///
    /// # Errors
    /// When `path` exists, or the caller may not make namespaces or mounts (it needs `CAP_SYS_ADMIN`).
    pub fn create(path: impl Into<PathBuf>) -> Result<Self, NetNsError> {
        let path = path.into();
        let failed = |action, source| NetNsError {
            action,
            path: path.clone(),
            source,
        };
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent).map_err(|e| failed("make the directory of", e))?;
        }
        File::create_new(&path).map_err(|e| failed("name", e))?;
        let made = in_own_thread(|| {
            unshare(CloneFlags::CLONE_NEWNET)?;
            bring_loopback_up()?;
            trust_new_ipv6_addresses()?;
            mount(
                Some("/proc/thread-self/ns/net"),
                &path,
                None::<&str>,
                MsFlags::MS_BIND,
                None::<&str>,
            )?;
            Ok(())
        });
        match made {
            Ok(()) => Ok(Self { path }),
            Err(source) => {
                // The name stands for nothing; if it cannot be removed either, the first error is the one to tell.
                fs::remove_file(&path).ok();
                Err(failed("make", source))
            }
        }
    }

    /// The file that stands for the namespace, as `CNI_NETNS` has it.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Runs `work` in the namespace, on a thread of its own; processes that it starts are in the namespace too.
    ///
    /// # Errors
    /// When the namespace cannot be entered; then `work` has not run.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T, NetNsError> {
        in_own_thread(|| {
            enter_file(&self.path)?;
            Ok(work())
        })
        .map_err(|source| NetNsError {
            action: "enter",
            path: self.path.clone(),
            source,
        })
    }
}

impl Drop for NetNs {
    fn drop(&mut self) {
        // Nothing can be done about a failure here, and a name that somebody else took away is gone as wished.
        umount2(&self.path, MntFlags::MNT_DETACH).ok();
        fs::remove_file(&self.path).ok();
    }
}

/// Moves the calling thread into the namespace of the file `path`, for good.
///
/// Meant for a process that has only one thread yet: threads that it starts later are in the namespace too.
///
/// # Errors
/// When `path` is no network namespace, or may not be entered.
pub fn enter(path: &Path) -> Result<(), NetNsError> {
    enter_file(path).map_err(|source| NetNsError {
        action: "enter",
        path: path.to_owned(),
        source,
    })
}

/// Brings `lo` up in the calling thread's namespace.
///
/// # Errors
/// What the kernel said, over netlink.
pub fn bring_loopback_up() -> io::Result<()> {
    let mut link = LinkMessage::default();
    link.header.index = LOOPBACK_IFINDEX;
    link.header.flags = LinkFlags::Up;
    link.header.change_mask = LinkFlags::Up;
    let mut header = NetlinkHeader::default();
    header.flags = NLM_F_REQUEST | NLM_F_ACK;
    header.sequence_number = 1;
    let mut message = NetlinkMessage::new(
        header,
        NetlinkPayload::from(RouteNetlinkMessage::SetLink(link)),
    );
    message.finalize();
    let mut request = vec![0; message.buffer_len()];
    message.serialize(&mut request);

    let mut socket = Socket::new(NETLINK_ROUTE)?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;
    socket.send(&request, 0)?;
    let (reply, _) = socket.recv_from_full()?;
    let reply = NetlinkMessage::<RouteNetlinkMessage>::deserialize(&reply)
        .map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))?;
    if let NetlinkPayload::Error(error) = reply.payload
        && error.code.is_some()
    {
        return Err(error.to_io());
    }
    Ok(())
}

/// Makes IPv6 addresses that are added from now on, in the calling thread's namespace, usable at once.
/// Does nothing on a kernel without IPv6.
///
/// # Errors
/// When the setting cannot be written.
pub fn trust_new_ipv6_addresses() -> io::Result<()> {
    for interface in ["all", "default"] {
        let setting = format!("/proc/sys/net/ipv6/conf/{interface}/accept_dad");
        match fs::write(setting, "0") {
            Ok(()) => {}
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

fn enter_file(path: &Path) -> io::Result<()> {
    Ok(setns(File::open(path)?, CloneFlags::CLONE_NEWNET)?)
}

fn in_own_thread<T: Send>(work: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
    thread::scope(|scope| match scope.spawn(work).join() {
        Ok(done) => done,
        Err(panic) => std::panic::resume_unwind(panic),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{TcpListener, TcpStream};

    #[test]
    fn what_listens_in_a_namespace_is_reached_from_there_only() {
        let dir = tempfile::tempdir().unwrap();
        let netns = NetNs::create(dir.path().join("a")).unwrap();
        let listener = netns
            .run(|| TcpListener::bind("127.0.0.1:0").unwrap())
            .unwrap();
        let address = listener.local_addr().unwrap();
        netns.run(|| TcpStream::connect(address).unwrap()).unwrap();
        let other = NetNs::create(dir.path().join("b")).unwrap();
        let refused = other
            .run(|| TcpStream::connect(address).unwrap_err())
            .unwrap();
        assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
    }

    #[test]
    fn a_name_is_not_taken_twice_and_is_free_again_after_drop() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        let netns = NetNs::create(&path).unwrap();
        let error = NetNs::create(&path).unwrap_err();
        assert!(
            error.to_string().starts_with("name network namespace"),
            "{error}"
        );
        drop(netns);
        assert!(!path.exists());
        NetNs::create(&path).unwrap();
    }

    #[test]
    fn the_callers_thread_stays_where_it_was() {
        let here = fs::read_link("/proc/thread-self/ns/net").unwrap();
        let dir = tempfile::tempdir().unwrap();
        let netns = NetNs::create(dir.path().join("a")).unwrap();
        let there = netns
            .run(|| fs::read_link("/proc/thread-self/ns/net").unwrap())
            .unwrap();
        assert_ne!(here, there);
        assert_eq!(here, fs::read_link("/proc/thread-self/ns/net").unwrap());
    }
}
