//! Level `chain`: pods in network namespaces, set up by real CNI plugins and our binaries.

mod baseline;
mod interfaces;
mod races;
mod verbs;
