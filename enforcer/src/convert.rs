// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Kubernetes objects to the policy model, one file per kind: the edge past which no Kubernetes type appears.
//!
//! ```text
//! files ───────┐
//!              ├──► convert ──► Converted { value in model types, errors }
//! API server ──┘
//! ```
//! Conversions keep only what can change a verdict and apply the API server's defaults. They never fail: an element
//! that cannot be used becomes `Invalid` in the value, and a [`FieldError`] beside it says what was wrong. Files
//! make a field error an error, the API server's objects make it a warning.

use std::collections::HashSet;
use std::fmt;
use std::hash::Hash;

pub mod addresses;
pub mod endpoint_slice;
pub mod names;
pub mod namespace;
pub mod network_policy;
pub mod node;
pub mod pod;
pub mod selector;
pub mod service;

#[cfg(test)]
mod tests;

/// One step from an object to a part of it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Step {
    /// The field, or the key of a map, of this name.
    Key(String),
    /// The element at this place of a list, counted from 0.
    Index(usize),
}

/// The way from an object to one of its fields, such as `spec.ingress[0].ports[1].endPort`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct FieldPath(pub Vec<Step>);

impl FieldPath {
    /// The path that starts with `fields`, separated by dots.
    pub fn of(fields: &str) -> Self {
        Self(fields.split('.').map(|f| Step::Key(f.to_owned())).collect())
    }

    /// This path, one field deeper.
    #[must_use]
    pub fn key(&self, name: &str) -> Self {
        self.then(Step::Key(name.to_owned()))
    }

    /// This path, one element deeper.
    #[must_use]
    pub fn index(&self, index: usize) -> Self {
        self.then(Step::Index(index))
    }

    fn then(&self, step: Step) -> Self {
        let mut steps = self.0.clone();
        steps.push(step);
        Self(steps)
    }
}

impl fmt::Display for FieldPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, step) in self.0.iter().enumerate() {
            match step {
                Step::Key(key) if key.contains(['.', '/', '[']) => write!(f, "[{key:?}]")?,
                Step::Key(key) if i == 0 => f.write_str(key)?,
                Step::Key(key) => write!(f, ".{key}")?,
                Step::Index(index) => write!(f, "[{index}]")?,
            }
        }
        Ok(())
    }
}

/// What is wrong with one field of an object.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{path}: {reason}")]
pub struct FieldError {
    /// The field.
    pub path: FieldPath,
    /// What is wrong with it, and what would be right.
    pub reason: String,
}

/// An object in model types, and what of it could not be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Converted<T> {
    /// The object; what the errors name is present in it as `Invalid`, or left out where a fact is unknown.
    pub value: T,
    /// What was wrong, in the order of the object. Empty when the API server would have accepted it.
    pub errors: Vec<FieldError>,
}

impl<T> Converted<T> {
    /// The same errors beside what `f` makes of the value.
    pub fn map<U>(self, f: impl FnOnce(T) -> U) -> Converted<U> {
        Converted {
            value: f(self.value),
            errors: self.errors,
        }
    }
}

/// The elements of a list of which any one is enough, each once and in order, and no room for more.
pub(crate) fn distinct<T: Eq + Hash>(mut elements: Vec<T>) -> Vec<T> {
    let mut seen = HashSet::with_capacity(elements.len());
    let first: Vec<bool> = elements.iter().map(|it| seen.insert(it)).collect();
    let mut first = first.into_iter();
    elements.retain(|_| first.next() == Some(true));
    elements.shrink_to_fit();
    elements
}

/// Where a conversion puts its errors.
#[derive(Debug, Default)]
pub(crate) struct FieldErrors(Vec<FieldError>);

impl FieldErrors {
    pub(crate) fn add(&mut self, path: &FieldPath, reason: impl Into<String>) {
        self.0.push(FieldError {
            path: path.clone(),
            reason: reason.into(),
        });
    }

    /// The value of `result`; if it is none, a field error at `path`.
    pub(crate) fn keep<T>(&mut self, path: &FieldPath, result: Result<T, String>) -> Option<T> {
        result.map_err(|reason| self.add(path, reason)).ok()
    }

    pub(crate) fn beside<T>(self, value: T) -> Converted<T> {
        Converted {
            value,
            errors: self.0,
        }
    }
}
