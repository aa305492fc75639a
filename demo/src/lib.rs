// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Pods without a cluster: network namespaces, set up by a real CNI chain as a container runtime would do it.
//!
//! ```no_run
//! use podgate_demo::{cni::{Chain, Conflist, Sandbox}, netns::NetNs};
//!
//! let node = NetNs::create("/tmp/mine/node")?;
//! let pod = NetNs::create("/tmp/mine/pod")?;
//! let conflist = Conflist::read("demo/cni/ipv4.conflist")?;
//! let chain = Chain::new(conflist, ["/usr/lib/cni", "target/debug"]);
//! let sandbox = Sandbox::new("c1", pod.path(), "eth0").of_pod("stars", "backend");
//! let result = node.run(|| chain.add(&sandbox))??;
//! println!("{:?}", podgate_demo::cni::addresses(&result)?);
//! node.run(|| chain.del(&sandbox, Some(&result)))??;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

pub mod cni;
pub mod netns;
