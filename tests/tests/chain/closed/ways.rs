// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The table: the ways in which knowledge, asking or writing fails.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixListener;
use std::thread;
use std::time::Instant;

use nix::sys::signal::Signal;
use podgate_datapath::lock::Lock;
use podgate_tests::node::{Enforcer, Node, lets_in, policy, wait_until};

/// What a way leaves running until the probes are over.
pub(super) type Held = Box<dyn std::any::Any>;

/// What is to be seen of the pod that is added.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Late {
    /// Denied where the policy isolates, with its baseline in the other direction.
    Denied,
    /// Denied in both directions: the record does not say which.
    DeniedBoth,
    /// Nothing is known of policies: the baseline.
    Baseline,
    /// There is no such pod: its ADD fails.
    Refused,
}

/// One way to fail.
pub(super) struct Way {
    pub(super) name: &'static str,
    /// The pod that is added: `web-2`, which the source knows, or one that it does not know.
    pub(super) adds: &'static str,
    pub(super) begin: fn(&Node, Enforcer) -> Held,
    pub(super) late: Late,
}

/// Stopped without the lock: with it, no ADD would come to its end.
fn stopped(node: &Node, enforcer: Enforcer) -> Held {
    wait_until("it is stopped between two turns", || {
        enforcer.stop();
        let is_free = Lock::take_until(&node.paths(), Instant::now()).is_ok();
        if !is_free {
            enforcer.signal(Signal::SIGCONT);
        }
        is_free
    });
    Box::new(enforcer)
}

fn killed(_: &Node, enforcer: Enforcer) -> Held {
    enforcer.kill();
    Box::new(())
}

fn kept(_: &Node, enforcer: Enforcer) -> Held {
    Box::new(enforcer)
}

/// No enforcer runs, and the record says this.
fn recorded(
    node: &Node,
    enforcer: Enforcer,
    change: impl FnOnce(Vec<u8>) -> Option<Vec<u8>>,
) -> Held {
    enforcer.kill();
    let path = node.paths().isolated();
    match change(fs::read(&path).expect("the enforcer has left a record")) {
        Some(bytes) => fs::write(&path, bytes).expect("write the record"),
        None => fs::remove_file(&path).expect("remove the record"),
    }
    Box::new(())
}

/// Another process answers on the socket: reads a little, says this, and closes.
fn answered(node: &Node, enforcer: Enforcer, says: &'static [u8]) -> Held {
    enforcer.kill();
    let socket = node.paths().run.join("cni.sock");
    fs::remove_file(&socket).ok();
    let listener = UnixListener::bind(&socket).expect("listen in place of the enforcer");
    thread::spawn(move || {
        while let Ok((mut stream, _)) = listener.accept() {
            if let Ok(1..) = stream.read(&mut [0; 64]) {
                stream.write_all(says).ok();
            }
        }
    });
    Box::new(())
}

fn framed(body: &'static str) -> &'static [u8] {
    let length = u32::try_from(body.len()).expect("a short body");
    let frame = [length.to_be_bytes().as_slice(), body.as_bytes()].concat();
    Box::leak(frame.into_boxed_slice())
}

/// The run directory on a file system of its own without a free block.
pub(super) fn full(node: &Node) {
    let run = node.paths().run;
    let mut left = 1;
    let mut file = fs::File::create(run.join("filler")).expect("a file");
    while left > 0 {
        left = file.write(&[0; 4096]).unwrap_or(0);
    }
}

pub(super) static WAYS: [Way; 22] = [
    Way {
        name: "killed",
        adds: "web-2",
        begin: killed,
        late: Late::Denied,
    },
    Way {
        name: "killed, and the pod is new to everybody",
        adds: "unheard",
        begin: killed,
        late: Late::Denied,
    },
    Way {
        name: "hung",
        adds: "web-2",
        begin: stopped,
        late: Late::Denied,
    },
    Way {
        name: "hung, and the pod is new to everybody",
        adds: "unheard",
        begin: stopped,
        late: Late::Denied,
    },
    Way {
        name: "a pod that the source does not know",
        adds: "unheard",
        begin: kept,
        late: Late::Denied,
    },
    Way {
        name: "starting, and the API server is away",
        adds: "web-2",
        begin: |node, enforcer| {
            enforcer.kill();
            Box::new(Enforcer::begin_without_api_server(node))
        },
        late: Late::Denied,
    },
    Way {
        name: "started again, and the pod is new",
        adds: "unheard",
        begin: |node, enforcer| {
            enforcer.kill();
            Box::new(Enforcer::start(node))
        },
        late: Late::Denied,
    },
    Way {
        name: "its socket is gone",
        adds: "web-2",
        begin: |node, enforcer| {
            fs::remove_file(node.paths().run.join("cni.sock")).expect("remove the socket");
            Box::new(enforcer)
        },
        late: Late::Denied,
    },
    Way {
        name: "a file in place of its socket",
        adds: "web-2",
        begin: |node, enforcer| {
            enforcer.kill();
            let socket = node.paths().run.join("cni.sock");
            fs::remove_file(&socket).ok();
            fs::write(socket, "").expect("a file");
            Box::new(())
        },
        late: Late::Denied,
    },
    Way {
        name: "garbage answers",
        adds: "web-2",
        begin: |n, e| answered(n, e, b"\0\0\0\x04oops"),
        late: Late::Denied,
    },
    Way {
        name: "nothing answers",
        adds: "web-2",
        begin: |n, e| answered(n, e, b""),
        late: Late::Denied,
    },
    Way {
        name: "half a frame answers",
        adds: "web-2",
        begin: |n, e| answered(n, e, b"\0\0\x01\0{\"version\":1"),
        late: Late::Denied,
    },
    Way {
        name: "another version answers",
        adds: "web-2",
        begin: |n, e| answered(n, e, framed("{\"version\":9,\"body\":\"in_force\"}")),
        late: Late::Denied,
    },
    Way {
        name: "a failure answers",
        adds: "web-2",
        begin: |n, e| answered(n, e, framed("{\"version\":1,\"body\":{\"failed\":\"no\"}}")),
        late: Late::Denied,
    },
    Way {
        name: "the record is empty",
        adds: "web-2",
        begin: |n, e| recorded(n, e, |_| Some(Vec::new())),
        late: Late::DeniedBoth,
    },
    Way {
        name: "the record is cut",
        adds: "web-2",
        begin: |n, e| recorded(n, e, |bytes| Some(bytes[..20].to_vec())),
        late: Late::DeniedBoth,
    },
    Way {
        name: "the record is garbage",
        adds: "web-2",
        begin: |n, e| recorded(n, e, |_| Some(vec![0xff; 64])),
        late: Late::DeniedBoth,
    },
    Way {
        name: "the record is a newer version's",
        adds: "web-2",
        begin: |n, e| recorded(n, e, |_| Some(b"podgate isolated 2\nend\n".to_vec())),
        late: Late::DeniedBoth,
    },
    Way {
        name: "there is no record",
        adds: "web-2",
        begin: |n, e| recorded(n, e, |_| None),
        late: Late::Baseline,
    },
    Way {
        name: "the pins are gone, and no enforcer runs",
        adds: "web-2",
        begin: |node, enforcer| {
            enforcer.kill();
            fs::remove_file(node.paths().current()).expect("unpin the current set");
            Box::new(())
        },
        late: Late::Denied,
    },
    Way {
        name: "the manifest of the policy is broken",
        adds: "web-2",
        begin: |node, enforcer| {
            let whole = policy("p", "app: web", &lets_in("app: none"));
            node.apply("policy", &format!("{whole}status: ["));
            wait_until("that is reported", || enforcer.readiness(node).0 == 503);
            Box::new(enforcer)
        },
        late: Late::Denied,
    },
    Way {
        name: "the run directory is full, and no enforcer runs",
        adds: "web-2",
        begin: |node, enforcer| {
            enforcer.kill();
            full(node);
            Box::new(())
        },
        late: Late::Refused,
    },
];
