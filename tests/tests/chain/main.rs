//! Level `chain`: pods in network namespaces, set up by real CNI plugins and our binaries.

mod attacks;
mod baseline;
mod changes;
mod closed;
mod enforced;
mod handover;
mod interfaces;
mod kills;
mod neighbourhood;
mod races;
mod restarts;
mod shares;
mod sizes;
mod verbs;
