// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Addresses and blocks, in every spelling that an API server may have stored.
//!
//! Older API servers accepted leading zeros (which Kubernetes reads as decimal), host bits in a block, and IPv4 in
//! IPv6; what they stored stays valid, so all of it is read here.

use std::net::{IpAddr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

/// An octet without its leading zeros.
fn octet(part: &str) -> &str {
    let digits = part.trim_start_matches('0');
    if digits.is_empty() && !part.is_empty() {
        "0"
    } else {
        digits
    }
}

/// The address without the leading zeros of its dotted part.
fn without_leading_zeros(text: &str) -> String {
    let start = text.rfind(':').map_or(0, |colon| colon + 1);
    let (head, tail) = text.split_at(start);
    if !tail.contains('.') {
        return text.to_owned();
    }
    format!(
        "{head}{}",
        tail.split('.').map(octet).collect::<Vec<_>>().join(".")
    )
}

fn parse(text: &str) -> Option<IpAddr> {
    without_leading_zeros(text).parse().ok()
}

/// An address; IPv4 inside IPv6 becomes IPv4.
pub fn address(text: &str) -> Result<IpAddr, String> {
    parse(text)
        .map(|address| address.to_canonical())
        .ok_or_else(|| format!("{text:?} is not an IP address"))
}

/// A block, its host bits cleared; a block of IPv4 inside IPv6 becomes one of IPv4.
pub fn block(text: &str) -> Result<IpNet, String> {
    let wrong =
        || format!("{text:?} is not a CIDR block: write it like 192.0.2.0/24 or 2001:db8::/64");
    let (address, length) = text.split_once('/').ok_or_else(wrong)?;
    if length.is_empty() || !length.bytes().all(|b| b.is_ascii_digit()) {
        return Err(wrong());
    }
    let length: u8 = length.parse().map_err(|_| wrong())?;
    let net = match parse(address).ok_or_else(wrong)? {
        IpAddr::V4(v4) => IpNet::V4(Ipv4Net::new(v4, length).map_err(|_| wrong())?.trunc()),
        IpAddr::V6(v6) => unmapped(v6, length).ok_or_else(wrong)?,
    };
    Ok(net)
}

fn unmapped(address: Ipv6Addr, length: u8) -> Option<IpNet> {
    let net = Ipv6Net::new(address, length).ok()?.trunc();
    match net.network().to_ipv4_mapped() {
        Some(v4) if length >= 96 => Some(IpNet::V4(Ipv4Net::new(v4, length - 96).ok()?.trunc())),
        Some(_) | None => Some(IpNet::V6(net)),
    }
}
