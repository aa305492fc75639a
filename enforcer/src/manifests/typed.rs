// SPDX-License-Identifier: Apache-2.0 OR MIT
//! From a document's tree to a Kubernetes type, with every field accounted for.
//!
//! The Kubernetes types skip fields that they do not know (`ingres:` would leave a policy that denies everything).
//! They skip by asking for an ignored value, and that is where [`Typed`] takes the field down as unknown. Type errors
//! get the path at which they arose.
//!
//! Null is what the API server takes it for: an optional field that is absent; elsewhere, such as an element of a list,
//! the type without anything in it (`ports: [null]` is `[{}]`, and that is `[{protocol: TCP}]`).

use std::cell::RefCell;
use std::fmt;

use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, IntoDeserializer, MapAccess, SeqAccess, Visitor};
use serde::forward_to_deserialize_any;

use super::node::{Entry, Node, Value};
use crate::convert::{FieldError, FieldPath, Step};

/// The tree as a `T`; else all that keeps it from being one.
pub(crate) fn read<T: for<'de> Deserialize<'de>>(node: &Node) -> Result<T, Vec<FieldError>> {
    let unknown = RefCell::new(Vec::new());
    let result = T::deserialize(Typed {
        node,
        path: Way::Root,
        unknown: &unknown,
    });
    let mut errors = unknown.into_inner();
    match result {
        Ok(value) if errors.is_empty() => Ok(value),
        Ok(_) => Err(errors),
        Err(WrongType { path, reason }) => {
            errors.push(FieldError {
                path: path.unwrap_or_default(),
                reason,
            });
            Err(errors)
        }
    }
}

/// A value of another type than the field's.
#[derive(Debug)]
struct WrongType {
    path: Option<FieldPath>,
    reason: String,
}

impl WrongType {
    /// This error, at `path` unless it arose deeper.
    fn at(mut self, path: Way<'_>) -> Self {
        self.path.get_or_insert_with(|| path.as_field_path());
        self
    }
}

impl fmt::Display for WrongType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.reason)
    }
}

impl std::error::Error for WrongType {}

impl serde::de::Error for WrongType {
    fn custom<T: fmt::Display>(reason: T) -> Self {
        Self {
            path: None,
            reason: reason.to_string(),
        }
    }
}

/// The way to a part of the tree. It becomes a [`FieldPath`], which is allocated, where something is wrong.
#[derive(Clone, Copy)]
enum Way<'a> {
    Root,
    Key(&'a Way<'a>, &'a str),
    Index(&'a Way<'a>, usize),
}

impl Way<'_> {
    fn as_field_path(self) -> FieldPath {
        let mut steps = Vec::new();
        let mut way = self;
        loop {
            let (outer, step) = match way {
                Way::Root => break,
                Way::Key(outer, name) => (outer, Step::Key(name.to_owned())),
                Way::Index(outer, index) => (outer, Step::Index(index)),
            };
            steps.push(step);
            way = *outer;
        }
        steps.reverse();
        FieldPath(steps)
    }
}

/// A tree, read as what serde asks for.
#[derive(Clone, Copy)]
struct Typed<'a> {
    node: &'a Node,
    path: Way<'a>,
    unknown: &'a RefCell<Vec<FieldError>>,
}

impl Typed<'_> {
    fn is_null(&self) -> bool {
        matches!(self.node.value, Value::Null)
    }
}

/// The number, if it is whole and small enough to be exact.
fn whole(number: f64) -> Option<i64> {
    const EXACT: f64 = 9_007_199_254_740_992.0;
    #[expect(clippy::cast_possible_truncation, reason = "whole, and within 53 bits")]
    let whole = (number.fract() == 0.0 && number.abs() < EXACT).then_some(number as i64);
    whole
}

impl<'de> Deserializer<'de> for Typed<'_> {
    type Error = WrongType;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, WrongType> {
        let result = match &self.node.value {
            Value::Null => visitor.visit_unit(),
            Value::Bool(v) => visitor.visit_bool(*v),
            Value::Signed(v) => visitor.visit_i64(*v),
            Value::Unsigned(v) => visitor.visit_u64(*v),
            // A whole number is one however it is written: JSON has no other.
            Value::Float(v) => match whole(*v) {
                Some(whole) => visitor.visit_i64(whole),
                None => visitor.visit_f64(*v),
            },
            Value::Text(v) => visitor.visit_str(v),
            Value::List(elements) => visitor.visit_seq(Elements {
                of: &self,
                elements,
                next: 0,
            }),
            Value::Map(entries) => visitor.visit_map(Entries {
                of: &self,
                entries,
                next: 0,
            }),
        };
        result.map_err(|e| e.at(self.path))
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, WrongType> {
        match &self.node.value {
            Value::Null => visitor.visit_none(),
            Value::Bool(_)
            | Value::Signed(_)
            | Value::Unsigned(_)
            | Value::Float(_)
            | Value::Text(_)
            | Value::List(_)
            | Value::Map(_) => visitor.visit_some(self),
        }
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, WrongType> {
        self.deserialize_map(visitor)
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, WrongType> {
        if !self.is_null() {
            return self.deserialize_any(visitor);
        }
        let nothing = Entries {
            of: &self,
            entries: &[],
            next: 0,
        };
        visitor.visit_map(nothing).map_err(|e| e.at(self.path))
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, WrongType> {
        if !self.is_null() {
            return self.deserialize_any(visitor);
        }
        let nothing = Elements {
            of: &self,
            elements: &[],
            next: 0,
        };
        visitor.visit_seq(nothing)
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, WrongType> {
        if self.is_null() {
            return visitor.visit_bool(false);
        }
        self.deserialize_any(visitor)
    }

    fn deserialize_i32<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, WrongType> {
        if self.is_null() {
            return visitor.visit_i64(0);
        }
        self.deserialize_any(visitor)
    }

    fn deserialize_i64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, WrongType> {
        self.deserialize_i32(visitor)
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, WrongType> {
        match &self.node.value {
            Value::Bool(_) | Value::Signed(_) | Value::Unsigned(_) | Value::Float(_) => {
                Err(WrongType {
                    path: Some(self.path.as_field_path()),
                    reason:
                        "is read as a number or a boolean, and text is needed: put it in quotes"
                            .into(),
                })
            }
            Value::Null => visitor.visit_str(""),
            Value::Text(_) | Value::List(_) | Value::Map(_) => self.deserialize_any(visitor),
        }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, WrongType> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, WrongType> {
        self.unknown.borrow_mut().push(FieldError {
            path: self.path.as_field_path(),
            reason:
                "Kubernetes knows no such field: correct its name or its indentation, or remove it"
                    .into(),
        });
        visitor.visit_unit()
    }

    forward_to_deserialize_any! {
        i8 i16 i128 u8 u16 u32 u64 u128 f32 f64 char str bytes byte_buf unit unit_struct tuple tuple_struct enum
        identifier
    }
}

struct Elements<'a> {
    of: &'a Typed<'a>,
    elements: &'a [Node],
    next: usize,
}

impl<'de> SeqAccess<'de> for Elements<'_> {
    type Error = WrongType;

    fn next_element_seed<T: DeserializeSeed<'de>>(
        &mut self,
        seed: T,
    ) -> Result<Option<T::Value>, WrongType> {
        let Some(node) = self.elements.get(self.next) else {
            return Ok(None);
        };
        let path = Way::Index(&self.of.path, self.next);
        self.next += 1;
        let typed = Typed {
            node,
            path,
            unknown: self.of.unknown,
        };
        seed.deserialize(typed).map(Some).map_err(|e| e.at(path))
    }
}

struct Entries<'a> {
    of: &'a Typed<'a>,
    entries: &'a [Entry],
    next: usize,
}

impl<'de> MapAccess<'de> for Entries<'_> {
    type Error = WrongType;

    fn next_key_seed<K: DeserializeSeed<'de>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, WrongType> {
        match self.entries.get(self.next) {
            Some(entry) => seed
                .deserialize(entry.key.as_str().into_deserializer())
                .map(Some),
            None => Ok(None),
        }
    }

    fn next_value_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<T::Value, WrongType> {
        let entry = self
            .entries
            .get(self.next)
            .ok_or_else(|| serde::de::Error::custom("a value was asked for before its key"))?;
        self.next += 1;
        let path = Way::Key(&self.of.path, &entry.key);
        let typed = Typed {
            node: &entry.value,
            path,
            unknown: self.of.unknown,
        };
        seed.deserialize(typed).map_err(|e| e.at(path))
    }
}
