// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Label selectors, and labels.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, LabelSelectorRequirement};
use podgate_policy::model::{Labels, Operator, Requirement, Selector};

use super::{FieldErrors, FieldPath, distinct, names};

/// The selector; [`Selector::Invalid`] if any part of it cannot be read.
pub(crate) fn convert(
    selector: &LabelSelector,
    path: &FieldPath,
    errors: &mut FieldErrors,
) -> Selector {
    let mut requirements = Vec::new();
    let mut readable = true;
    let at = path.key("matchLabels");
    for (key, value) in selector.match_labels.iter().flatten() {
        let at = at.key(key);
        readable &= errors.keep(&at, names::label_key(key)).is_some();
        readable &= errors.keep(&at, names::label_value(value)).is_some();
        requirements.push(Requirement {
            key: key.clone(),
            operator: Operator::In(vec![value.clone()]),
        });
    }
    let at = path.key("matchExpressions");
    for (i, expression) in selector.match_expressions.iter().flatten().enumerate() {
        match requirement(expression, &at.index(i), errors) {
            Some(requirement) => requirements.push(requirement),
            None => readable = false,
        }
    }
    if readable {
        Selector::Requirements(distinct(requirements))
    } else {
        Selector::Invalid
    }
}

fn requirement(
    expression: &LabelSelectorRequirement,
    path: &FieldPath,
    errors: &mut FieldErrors,
) -> Option<Requirement> {
    let key = errors.keep(&path.key("key"), names::label_key(&expression.key));
    let values = distinct(expression.values.clone().unwrap_or_default());
    let at = path.key("values");
    let mut readable = key.is_some();
    for (i, value) in expression.values.iter().flatten().enumerate() {
        readable &= errors
            .keep(&at.index(i), names::label_value(value))
            .is_some();
    }
    let operator = match (expression.operator.as_str(), values.is_empty()) {
        ("In", false) => Ok(Operator::In(values)),
        ("NotIn", false) => Ok(Operator::NotIn(values)),
        ("Exists", true) => Ok(Operator::Exists),
        ("DoesNotExist", true) => Ok(Operator::DoesNotExist),
        (operator @ ("In" | "NotIn"), true) => {
            Err((at, format!("{operator} needs at least one value")))
        }
        (operator @ ("Exists" | "DoesNotExist"), false) => Err((
            at,
            format!("{operator} takes no values: remove them, or use In or NotIn"),
        )),
        (operator, _) => Err((
            path.key("operator"),
            format!("{operator:?} is not an operator: use In, NotIn, Exists or DoesNotExist"),
        )),
    };
    match operator {
        Ok(operator) => readable.then(|| Requirement {
            key: expression.key.clone(),
            operator,
        }),
        Err((at, reason)) => {
            errors.add(&at, reason);
            None
        }
    }
}

/// The labels of an object, checked. They are kept as they are: selectors compare text.
pub(crate) fn labels(labels: Option<&Labels>, errors: &mut FieldErrors) -> Labels {
    let at = FieldPath::of("metadata.labels");
    for (key, value) in labels.into_iter().flatten() {
        errors.keep(&at.key(key), names::label_key(key));
        errors.keep(&at.key(key), names::label_value(value));
    }
    labels.cloned().unwrap_or_default()
}
