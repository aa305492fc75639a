// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The result of the plugin before us. Nobody promises what is in it (one plugin writes a route table's number as
//! `mac`), so it is printed as it came, and only its addresses are looked at, as a hint.

use std::net::IpAddr;

use serde_json::{Value, value::RawValue};

/// The addresses in `ips[].address`, as far as they can be read.
pub(crate) fn addresses(result: &RawValue) -> Vec<IpAddr> {
    let result: Value = serde_json::from_str(result.get()).unwrap_or_default();
    let ips = result
        .get("ips")
        .and_then(Value::as_array)
        .map(Vec::as_slice)
        .unwrap_or_default();
    ips.iter()
        .filter_map(|ip| parse(ip.get("address")?.as_str()?))
        .collect()
}

/// An address with or without the length of a prefix.
fn parse(text: &str) -> Option<IpAddr> {
    let address = text.split_once('/').map_or(text, |(address, _)| address);
    Some(address.trim().parse::<IpAddr>().ok()?.to_canonical())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(json: &str) -> Vec<String> {
        let raw = RawValue::from_string(json.to_owned()).unwrap();
        addresses(&raw).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn addresses_of_both_families_are_read() {
        let json = r#"{"ips":[{"version":"4","address":"10.1.0.5/24","gateway":"10.1.0.1"},{"address":"fd00::5/64"}]}"#;
        assert_eq!(read(json), ["10.1.0.5", "fd00::5"]);
    }

    #[test]
    fn what_cannot_be_read_is_passed_over() {
        let json = r#"{"ips":[null,7,{},{"address":1},{"address":"x/24"},{"address":"10.1.0.5","interface":-1}]}"#;
        assert_eq!(read(json), ["10.1.0.5"]);
        for json in [
            "[]",
            "1e2",
            "{}",
            r#"{"ips":{}}"#,
            r#"{"ips":"10.0.0.1"}"#,
            r#""x""#,
            "1e999",
        ] {
            assert_eq!(read(json), [""; 0], "{json}");
        }
    }

    #[test]
    fn a_mapped_address_is_the_ipv4_address() {
        assert_eq!(
            read(r#"{"ips":[{"address":"::ffff:10.1.0.5/128"}]}"#),
            ["10.1.0.5"]
        );
    }
}
