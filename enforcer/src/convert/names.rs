// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The syntax of names, labels and protocols, as the API server checks it.

use podgate_policy::model::Protocol;

fn is_lower_alphanumeric(c: char) -> bool {
    c.is_ascii_lowercase() || c.is_ascii_digit()
}

fn has_alphanumeric_ends(s: &str) -> bool {
    s.starts_with(|c: char| c.is_ascii_alphanumeric())
        && s.ends_with(|c: char| c.is_ascii_alphanumeric())
}

/// A DNS label, as names of namespaces are (RFC 1123): at most 63 of `a-z`, `0-9` and `-`.
pub fn dns_label(name: &str) -> Result<(), String> {
    let ok = name.len() <= 63
        && has_alphanumeric_ends(name)
        && name.chars().all(|c| is_lower_alphanumeric(c) || c == '-');
    if ok {
        Ok(())
    } else {
        Err(format!(
            "{name:?} is not a name: use up to 63 of a-z, 0-9 and -, beginning and ending with a letter or digit"
        ))
    }
}

/// A DNS subdomain, as names of pods and policies are: labels joined by dots, at most 253 bytes.
pub fn dns_subdomain(name: &str) -> Result<(), String> {
    let part = |p: &str| {
        has_alphanumeric_ends(p) && p.chars().all(|c| is_lower_alphanumeric(c) || c == '-')
    };
    if name.len() <= 253 && name.split('.').all(part) {
        Ok(())
    } else {
        Err(format!(
            "{name:?} is not a name: use up to 253 of a-z, 0-9, - and ., each part beginning and ending with a letter or digit"
        ))
    }
}

/// The name of a port (IANA_SVC_NAME, RFC 6335): at most 15 of `a-z`, `0-9` and single `-`, with a letter.
pub fn port_name(name: &str) -> Result<(), String> {
    let ok = name.len() <= 15
        && has_alphanumeric_ends(name)
        && name.chars().all(|c| is_lower_alphanumeric(c) || c == '-')
        && name.contains(|c: char| c.is_ascii_lowercase())
        && !name.contains("--");
    if ok {
        Ok(())
    } else if name.parse::<u16>().is_ok() {
        Err(format!(
            "{name:?} is a number in quotes, which would be a port's name: write it without quotes"
        ))
    } else {
        Err(format!(
            "{name:?} is not a port's name: use up to 15 of a-z, 0-9 and single -, with at least one letter"
        ))
    }
}

/// A port number, 1 to 65535.
pub fn port_number(number: i32) -> Result<u16, String> {
    u16::try_from(number)
        .ok()
        .filter(|n| *n != 0)
        .ok_or_else(|| format!("{number} is not a port: use 1 to 65535"))
}

/// A protocol; absent means TCP, as the API server has it.
pub fn protocol(protocol: Option<&str>) -> Result<Protocol, String> {
    match protocol {
        None | Some("TCP") => Ok(Protocol::Tcp),
        Some("UDP") => Ok(Protocol::Udp),
        Some("SCTP") => Ok(Protocol::Sctp),
        Some(other) => Err(format!("{other:?} is not a protocol: use TCP, UDP or SCTP")),
    }
}

fn qualified(name: &str) -> bool {
    name.len() <= 63
        && has_alphanumeric_ends(name)
        && name
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
}

/// The key of a label: a name of up to 63 bytes, with or without a DNS subdomain and a slash before it.
pub fn label_key(key: &str) -> Result<(), String> {
    let ok = match key.split_once('/') {
        Some((prefix, name)) => dns_subdomain(prefix).is_ok() && qualified(name),
        None => qualified(key),
    };
    if ok {
        Ok(())
    } else {
        Err(format!(
            "{key:?} is not a label's key: use [domain/]name, the name of up to 63 letters, digits, -, _ and ."
        ))
    }
}

/// The value of a label: empty, or up to 63 bytes.
pub fn label_value(value: &str) -> Result<(), String> {
    if value.is_empty() || qualified(value) {
        Ok(())
    } else {
        Err(format!(
            "{value:?} is not a label's value: use up to 63 letters, digits, -, _ and ., beginning and ending with a letter or digit"
        ))
    }
}
