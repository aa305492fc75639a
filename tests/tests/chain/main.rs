// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Level `chain`: pods in network namespaces, set up by real CNI plugins and our binaries.

mod attacks;
mod baseline;
mod changes;
mod closed;
mod enforced;
mod flow_limits;
mod foreign;
mod ground;
mod growing;
mod handover;
mod interfaces;
mod kills;
mod links;
mod neighborhood;
mod races;
mod releases;
mod removal;
mod restarts;
mod shares;
mod sizes;
mod tenants;
mod verbs;
