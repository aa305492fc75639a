// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Where the running kernel keeps what goes with a packet, as its own type information says (BTF:
//! `Documentation/bpf/btf.rst`). Of it all, only the members of one structure are looked for.

use std::{fs, io, path::Path};

/// Where Linux has it since 5.4, if it was built with `CONFIG_DEBUG_INFO_BTF`.
const KERNEL: &str = "/sys/kernel/btf/vmlinux";

/// Whether the kernel lets programs read its memory (`man 7 kernel_lockdown`).
const LOCKDOWN: &str = "/sys/kernel/security/lockdown";

/// Where `struct sk_buff` keeps how the checksum of a packet stands.
///
/// All zero: not known. The programs then do not look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SkbLayout {
    /// The byte with `ip_summed`.
    pub ip_summed: u32,
    /// Its lowest bit in that byte.
    pub ip_summed_shift: u32,
    /// `csum_start`, which `csum_offset` follows.
    pub csum_start: u32,
    /// `network_header`.
    pub network_header: u32,
}

impl SkbLayout {
    /// That of the running kernel.
    ///
    /// # Errors
    /// When the kernel has no type information, or it is not understood; or when no program may read the kernel's memory.
    pub fn of_kernel() -> io::Result<Self> {
        // Where there is no such file, nothing is locked down.
        let lockdown = fs::read_to_string(LOCKDOWN).unwrap_or_default();
        if lockdown.contains("[confidentiality]") {
            let message = format!("{LOCKDOWN}: programs may not read the kernel's memory");
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, message));
        }
        let path = Path::new(KERNEL);
        fs::read(path)
            .and_then(|bytes| Self::from_btf(&bytes))
            .map_err(|error| io::Error::new(error.kind(), format!("{KERNEL}: {error}")))
    }

    /// The constants of the programs that say it.
    pub fn globals(&self) -> [(&'static str, &u32); 4] {
        [
            ("SKB_IP_SUMMED", &self.ip_summed),
            ("SKB_IP_SUMMED_SHIFT", &self.ip_summed_shift),
            ("SKB_CSUM_START", &self.csum_start),
            ("SKB_NETWORK_HEADER", &self.network_header),
        ]
    }

    fn from_btf(bytes: &[u8]) -> io::Result<Self> {
        let types = Types::read(bytes).ok_or_else(|| invalid("no type information"))?;
        let skb = types
            .structure("sk_buff")
            .ok_or_else(|| invalid("no struct sk_buff"))?;
        let member = |name: &str| {
            types
                .member(skb, name, 0)
                .ok_or_else(|| invalid(&format!("struct sk_buff has no {name}")))
        };
        let ip_summed = member("ip_summed")?;
        let csum_start = member("csum_start")?;
        let csum_offset = member("csum_offset")?;
        let network_header = member("network_header")?;
        let is_as_expected = ip_summed.size == Some(2)
            && ip_summed.bit % 8 <= 6
            && ip_summed.bit >= 8
            && csum_start.bit.is_multiple_of(8)
            && csum_offset.bit == csum_start.bit + 16
            && network_header.bit.is_multiple_of(8);
        if !is_as_expected {
            return Err(invalid("struct sk_buff is laid out in an unknown way"));
        }
        Ok(Self {
            ip_summed: ip_summed.bit / 8,
            ip_summed_shift: ip_summed.bit % 8,
            csum_start: csum_start.bit / 8,
            network_header: network_header.bit / 8,
        })
    }
}

fn invalid(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

const KIND_STRUCT: u32 = 4;
const KIND_UNION: u32 = 5;

/// Anonymous members are followed this deep: `sk_buff` nests four.
const DEEPEST: u32 = 8;

/// Where a member stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Place {
    /// From the beginning of the outermost structure.
    bit: u32,
    /// In bits, if it is a bit field.
    size: Option<u32>,
}

/// A section of types: each has a header of three words, and what its kind says.
struct Types<'a> {
    types: &'a [u8],
    strings: &'a [u8],
    /// Where each type begins; type 0 is `void`, and not there.
    starts: Vec<usize>,
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    let bytes = bytes.get(at..)?.first_chunk::<4>()?;
    Some(u32::from_le_bytes(*bytes))
}

impl<'a> Types<'a> {
    fn read(bytes: &'a [u8]) -> Option<Self> {
        if bytes.get(..3)? != [0x9f, 0xeb, 1] {
            return None;
        }
        let at = |field: usize| word(bytes, field).map(|number| number as usize);
        let header = at(4)?;
        let section = |offset: usize, length: usize| {
            let start = header.checked_add(offset)?;
            bytes.get(start..start.checked_add(length)?)
        };
        let types = section(at(8)?, at(12)?)?;
        let strings = section(at(16)?, at(20)?)?;
        let mut starts = vec![usize::MAX];
        let mut at = 0;
        while at < types.len() {
            starts.push(at);
            let info = word(types, at + 4)?;
            let count = (info & 0xffff) as usize;
            at += 12
                + match info >> 24 & 31 {
                    1 | 14 | 17 => 4,
                    3 => 12,
                    4 | 5 | 15 | 19 => 12 * count,
                    6 | 13 => 8 * count,
                    2 | 7..=12 | 16 | 18 => 0,
                    _ => return None,
                };
        }
        Some(Self {
            types,
            strings,
            starts,
        })
    }

    fn is_named(&self, offset: u32, name: &str) -> bool {
        self.strings
            .get(offset as usize..)
            .and_then(|rest| rest.strip_prefix(name.as_bytes()))
            .is_some_and(|rest| rest.first() == Some(&0))
    }

    fn structure(&self, name: &str) -> Option<usize> {
        self.starts.iter().copied().skip(1).find(|&at| {
            word(self.types, at + 4).is_some_and(|info| info >> 24 & 31 == KIND_STRUCT)
                && word(self.types, at).is_some_and(|offset| self.is_named(offset, name))
        })
    }

    /// A member of the structure or union at `at`, or of one without a name in it.
    fn member(&self, at: usize, name: &str, depth: u32) -> Option<Place> {
        let info = word(self.types, at + 4)?;
        if !matches!(info >> 24 & 31, KIND_STRUCT | KIND_UNION) || depth > DEEPEST {
            return None;
        }
        let has_bit_fields = info >> 31 != 0;
        (0..(info & 0xffff) as usize).find_map(|number| {
            let member = at + 12 + 12 * number;
            let name_at = word(self.types, member)?;
            let kind = word(self.types, member + 4)?;
            let offset = word(self.types, member + 8)?;
            let (bit, size) = if has_bit_fields {
                (
                    offset & 0x00ff_ffff,
                    Some(offset >> 24).filter(|&size| size != 0),
                )
            } else {
                (offset, None)
            };
            if self.is_named(name_at, name) {
                return Some(Place { bit, size });
            }
            // A name of its own hides its members.
            if !self.is_named(name_at, "") {
                return None;
            }
            let inner = self.member(*self.starts.get(kind as usize)?, name, depth + 1)?;
            Some(Place {
                bit: bit + inner.bit,
                size: inner.size,
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `struct sk_buff { u8 x; union { struct { u8 a:5; u8 ip_summed:2; u16 csum_start; u16 csum_offset; }; };
    /// u16 network_header; }`, with a structure of another name before it.
    fn sample(csum_offset: u32) -> Vec<u8> {
        let strings = b"\0sk_buff\0ip_summed\0csum_start\0csum_offset\0network_header\0x\0";
        let name = |wanted: &str| {
            let wanted = [b"\0", wanted.as_bytes(), b"\0"].concat();
            let found = strings.windows(wanted.len()).position(|it| it == wanted);
            u32::try_from(found.expect("the name") + 1).expect("an offset")
        };
        let of = |kind: u32, count: u32, fields: u32| fields << 31 | kind << 24 | count;
        let words = [
            // 1: u16
            [name("x"), of(1, 0, 0), 2].as_slice(),
            &[16],
            // 2: the anonymous structure, with bit fields
            &[0, of(KIND_STRUCT, 4, 1), 6],
            &[name("x"), 1, 5 << 24],
            &[name("ip_summed"), 1, 2 << 24 | 5],
            &[name("csum_start"), 1, 16],
            &[name("csum_offset"), 1, csum_offset],
            // 3: the union
            &[0, of(KIND_UNION, 1, 0), 6],
            &[0, 2, 0],
            // 4: sk_buff
            &[name("sk_buff"), of(KIND_STRUCT, 3, 0), 12],
            &[name("x"), 1, 0],
            &[0, 3, 16],
            &[name("network_header"), 1, 64],
        ]
        .concat();
        let types: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        let (types_length, strings_length) = (types.len() as u32, strings.len() as u32);
        let header = [24, 0, types_length, types_length, strings_length];
        let mut bytes = vec![0x9f, 0xeb, 1, 0];
        bytes.extend(header.iter().flat_map(|word| word.to_le_bytes()));
        bytes.extend(types);
        bytes.extend(strings);
        bytes
    }

    #[test]
    fn members_are_found_through_anonymous_unions_and_structs() {
        let expected = SkbLayout {
            ip_summed: 2,
            ip_summed_shift: 5,
            csum_start: 4,
            network_header: 8,
        };
        let found = SkbLayout::from_btf(&sample(32)).expect("it is understood");
        assert_eq!(found, expected);
    }

    #[test]
    fn what_is_laid_out_otherwise_or_cut_short_is_an_error() {
        assert!(SkbLayout::from_btf(&sample(40)).is_err());
        let whole = sample(32);
        for length in 0..whole.len() {
            // What is behind the names that are looked for may be missing.
            if let Ok(found) = SkbLayout::from_btf(&whole[..length]) {
                panic!("{length} of {} bytes: {found:?}", whole.len());
            }
        }
    }
}
