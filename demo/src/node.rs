// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The node: a process with network, mount and process namespaces of its own.
//!
//! ```text
//! demo ── starts, and passes signals on ──► node (pid 1 of its own) ──► enforcer, plugins, pods
//! ```
//!
//! All that the demo makes lies in there: interfaces, mounts, pins and files (on a tmpfs over `/run`). The kernel
//! takes it away with the last process, and every process with pid 1, so that not even `kill -9` of the demo
//! leaves anything behind.

use std::fs;
use std::net::TcpListener;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{Pid, geteuid};
use podgate_demo::netns;

/// Signals that come closer together say the same: `timeout` and `sudo` send theirs to the demo and to its group.
const SAME_WISH: Duration = Duration::from_millis(300);

/// Runs this program again as the node, with `arguments`, until it ends. `page` becomes its stdin.
///
/// Signals that end a program are passed on once; a later one kills the node at once.
pub(crate) fn start(arguments: &[String], page: Option<TcpListener>) -> Result<ExitCode> {
    if !geteuid().is_root() {
        bail!("the demo makes namespaces and loads eBPF programs: run it as root");
    }
    let mut signals = SigSet::empty();
    for signal in [
        Signal::SIGINT,
        Signal::SIGTERM,
        Signal::SIGHUP,
        Signal::SIGCHLD,
    ] {
        signals.add(signal);
    }
    signals.thread_block().context("wait for signals")?;
    // Concerns children only. The node becomes pid 1 in there.
    unshare(CloneFlags::CLONE_NEWPID).context("make a process namespace")?;
    let stdin = page.map_or_else(Stdio::null, |listener| Stdio::from(OwnedFd::from(listener)));
    let child = Command::new(std::env::current_exe()?)
        .arg("node")
        .args(arguments)
        .stdin(stdin)
        .process_group(0)
        .spawn()
        .context("start the node")?;
    let node = Pid::from_raw(child.id().cast_signed());

    let mut asked_to_end: Option<Instant> = None;
    loop {
        let signal = signals.wait().context("wait for signals")?;
        if signal != Signal::SIGCHLD {
            let pass_on = match asked_to_end {
                None => Signal::SIGTERM,
                Some(asked) if asked.elapsed() < SAME_WISH => continue,
                Some(_) => Signal::SIGKILL,
            };
            kill(node, pass_on).context("end the node")?;
            asked_to_end = Some(Instant::now());
        } else if let Some(code) = exit_code(waitpid(node, Some(WaitPidFlag::WNOHANG))?) {
            return Ok(code);
        }
    }
}

/// How to exit when the node has exited; nothing while it runs.
fn exit_code(status: WaitStatus) -> Option<ExitCode> {
    let status = match status {
        WaitStatus::Exited(_, code) => {
            return Some(ExitCode::from(u8::try_from(code).unwrap_or(1)));
        }
        WaitStatus::Signaled(_, signal, _) => std::process::ExitStatus::from_raw(signal as i32),
        WaitStatus::Stopped(..)
        | WaitStatus::PtraceEvent(..)
        | WaitStatus::PtraceSyscall(_)
        | WaitStatus::Continued(_)
        | WaitStatus::StillAlive => return None,
    };
    eprintln!("error: the node ended by {status}");
    Some(ExitCode::from(1))
}

/// Makes the calling process the node. It must have one thread only.
pub(crate) fn become_node() -> Result<()> {
    set_pdeathsig(Signal::SIGKILL).context("tie the node to the demo")?;
    SigSet::all().thread_unblock().context("receive signals")?;
    unshare(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWNET)
        .context("make a network and a mount namespace")?;
    mount(
        None::<&str>,
        "/",
        None::<&str>,
        MsFlags::MS_REC | MsFlags::MS_PRIVATE,
        None::<&str>,
    )
    .context("keep mounts to the node")?;
    let filesystems = [
        ("proc", "/proc", None),
        ("tmpfs", "/run", Some("mode=0755")),
        ("bpf", "/sys/fs/bpf", Some("mode=0700")),
    ];
    for (kind, at, options) in filesystems {
        mount(
            Some("podgate-demo"),
            at,
            Some(kind),
            MsFlags::MS_NOSUID,
            options,
        )
        .with_context(|| format!("mount {kind} on {at}"))?;
    }
    netns::bring_loopback_up().context("bring lo up")?;
    netns::trust_new_ipv6_addresses().context("switch off duplicate address detection")?;
    fs::write("/proc/sys/net/ipv4/ip_forward", "1").context("switch IPv4 forwarding on")?;
    Ok(())
}

/// Lets the node forward IPv6 between its pods.
pub(crate) fn forward_ipv6() -> Result<()> {
    fs::write("/proc/sys/net/ipv6/conf/all/forwarding", "1")
        .context("switch IPv6 forwarding on; has this kernel IPv6?")
}

/// The listening socket that [`start`] passed.
pub(crate) fn passed_listener() -> Result<TcpListener> {
    let stdin = std::io::stdin()
        .as_fd()
        .try_clone_to_owned()
        .context("take the page's socket")?;
    let listener = TcpListener::from(stdin);
    listener
        .set_nonblocking(true)
        .context("take the page's socket")?;
    Ok(listener)
}
