// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Parts of a datagram, as Linux puts them together (`inet_frag_queue_insert`, RFC 5722): what is there already is ignored,
//! what overlaps ends it all.

/// The parts of one datagram that have come so far.
#[derive(Debug, Default, Clone)]
pub(super) struct Queue {
    /// Offset and bytes of each, by offset.
    parts: Vec<(usize, Vec<u8>)>,
    /// How long it is, once its last part has come.
    length: Option<usize>,
}

/// What became of a part.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Put {
    /// Others are missing.
    Waits,
    /// It contradicts what has come before: all of it is dropped.
    Ends,
    /// The datagram is whole.
    Whole(Vec<u8>),
}

impl Queue {
    pub(super) fn put(&mut self, offset: usize, bytes: &[u8], more: bool) -> Put {
        let end = offset + bytes.len();
        if bytes.is_empty() || end > 0xffff || (more && !bytes.len().is_multiple_of(8)) {
            return Put::Ends;
        }
        if self.length.is_some_and(|length| end > length) {
            return Put::Ends;
        }
        let overlapping: Vec<_> = self
            .parts
            .iter()
            .filter(|(start, part)| *start < end && offset < start + part.len())
            .collect();
        match overlapping[..] {
            [] => {}
            [(start, part)] if *start <= offset && end <= start + part.len() => return Put::Waits,
            [..] => return Put::Ends,
        }
        if !more {
            let reaches_beyond = |(start, part): &(usize, Vec<u8>)| start + part.len() > end;
            if self.length.is_some() || self.parts.iter().any(reaches_beyond) {
                return Put::Ends;
            }
            self.length = Some(end);
        }
        self.parts.push((offset, bytes.to_vec()));
        self.parts.sort();
        let mut whole = Vec::new();
        for (start, part) in &self.parts {
            if *start != whole.len() {
                return Put::Waits;
            }
            whole.extend(part);
        }
        if self.length == Some(whole.len()) {
            Put::Whole(whole)
        } else {
            Put::Waits
        }
    }
}
