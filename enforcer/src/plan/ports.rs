// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Port sets as the kernel has them: sixteen chunks of 4,096 ports, both shared by content.

use std::sync::Arc;

use podgate_abi::{CHUNK_ALL, CHUNK_NONE, Chunk, FIRST_CHUNK, PortSetChunks, PortSetId, RowSets};
use podgate_policy::compile::ports::{PortSet, Row};

use super::id_allocator::{Given, IdAllocator};
use super::{Capacities, PlanError, Table, Write};

/// An entry of a table, in the parts in which it is charged.
pub(super) const WHOLE: u64 = 1_000_000;

/// The highest number of an array that 16 bits index, and one.
const LIMIT: u32 = 1 << 16;

/// The port sets and chunks in use.
#[derive(Debug, Clone)]
pub(super) struct PortSets {
    /// One use for each place in a row.
    sets: IdAllocator<Arc<PortSet>>,
    /// One use for each place in a set.
    chunks: IdAllocator<Arc<Chunk>>,
}

impl PortSets {
    pub(super) fn new(capacities: &Capacities) -> Self {
        Self {
            sets: IdAllocator::new(
                Table::PortSets,
                PortSetId::FIRST.0.into(),
                capacities.port_sets.min(LIMIT),
            ),
            chunks: IdAllocator::new(
                Table::Chunks,
                FIRST_CHUNK.into(),
                capacities.chunks.min(LIMIT),
            ),
        }
    }

    /// The tables are made this large.
    pub(super) fn limit_to(&mut self, capacities: &Capacities) {
        self.sets.limit_to(capacities.port_sets.min(LIMIT));
        self.chunks.limit_to(capacities.chunks.min(LIMIT));
    }

    /// The port sets of `row`, one more use of each. What is new is written, chunks before sets.
    pub(super) fn acquire(
        &mut self,
        row: &Row,
        writes: &mut Vec<Write>,
    ) -> Result<RowSets, PlanError> {
        Ok(RowSets {
            tcp: self.acquire_set(&row.tcp, writes)?,
            udp: self.acquire_set(&row.udp, writes)?,
            sctp: self.acquire_set(&row.sctp, writes)?,
            rest: self.acquire_set(&row.rest, writes)?,
        })
    }

    /// Takes one use of each set back. No program may hold the row that had them.
    pub(super) fn release(&mut self, row: RowSets) {
        for set in [row.tcp, row.udp, row.sctp, row.rest] {
            let Some(ports) = last_use(&mut self.sets, set.0.into()) else {
                continue;
            };
            for chunk in chunks_of(&ports) {
                if let Piece::Some(chunk) = chunk
                    && let Some(number) = self.chunks.number_of(&chunk)
                {
                    last_use(&mut self.chunks, number);
                }
            }
        }
    }

    /// How many sets and how many chunks are taken, each of how many.
    pub(super) fn used(&self) -> [(u32, u32); 2] {
        [self.sets.used(), self.chunks.used()]
    }

    /// What one use of a set is charged of a table, in millionths of an entry.
    pub(super) fn charge(&self, table: Table, set: PortSetId) -> u64 {
        let part = |uses: u32| WHOLE / u64::from(uses.max(1));
        let number = set.0.into();
        let Some(ports) = self.sets.content_of(number) else {
            return 0;
        };
        let of_set = if table == Table::Chunks {
            let chunks = chunks_of(ports).into_iter();
            let parts = chunks.map(|piece| match piece {
                Piece::None | Piece::All => 0,
                Piece::Some(chunk) => {
                    let number = self.chunks.number_of(&chunk);
                    number.map_or(0, |number| part(self.chunks.uses_of(number)))
                }
            });
            parts.sum()
        } else {
            WHOLE
        };
        of_set / u64::from(self.sets.uses_of(number).max(1))
    }

    fn acquire_set(
        &mut self,
        ports: &PortSet,
        writes: &mut Vec<Write>,
    ) -> Result<PortSetId, PlanError> {
        if ports.is_empty() {
            return Ok(PortSetId::NONE);
        }
        if ports.is_all() {
            return Ok(PortSetId::ALL);
        }
        let given = self.sets.give(&Arc::new(ports.clone()))?;
        let (Given::Known(number) | Given::New(number)) = given;
        self.sets.hold(number);
        let number = PortSetId(narrow(number));
        match given {
            Given::Known(_) => return Ok(number),
            Given::New(_) => {}
        }
        let mut chunks = PortSetChunks::default();
        for (place, piece) in chunks.0.iter_mut().zip(chunks_of(ports)) {
            *place = match piece {
                Piece::None => CHUNK_NONE,
                Piece::All => CHUNK_ALL,
                Piece::Some(chunk) => {
                    let given = self.chunks.give(&chunk)?;
                    let (Given::Known(number) | Given::New(number)) = given;
                    self.chunks.hold(number);
                    let number = narrow(number);
                    match given {
                        Given::Known(_) => {}
                        Given::New(_) => writes.push(Write::Chunk { number, chunk }),
                    }
                    number
                }
            };
        }
        writes.push(Write::PortSet { number, chunks });
        Ok(number)
    }
}

/// Takes one use back, and the number with the last one; what had it then.
fn last_use<K: Clone + Eq + std::hash::Hash>(
    numbers: &mut IdAllocator<K>,
    number: u32,
) -> Option<K> {
    let was_last = numbers.leave(number);
    was_last.then(|| numbers.free(number)).flatten()
}

/// 4,096 ports of a set.
enum Piece {
    /// None of them.
    None,
    /// All of them.
    All,
    /// Some of them.
    Some(Arc<Chunk>),
}

fn chunks_of(ports: &PortSet) -> [Piece; 16] {
    let mut chunks = [Chunk::NONE; 16];
    for range in ports.ranges() {
        let (first, last) = (usize::from(range.first), usize::from(range.last));
        for word in first / 64..=last / 64 {
            let from = u64::MAX << (first.saturating_sub(word * 64));
            let to = u64::MAX >> (63 - (last - word * 64).min(63));
            chunks[word / 64].0[word % 64] |= from & to;
        }
    }
    chunks.map(|chunk| {
        if chunk == Chunk::NONE {
            Piece::None
        } else if chunk == Chunk::ALL {
            Piece::All
        } else {
            Piece::Some(Arc::new(chunk))
        }
    })
}

/// A number below [`LIMIT`], as the kernel holds it.
fn narrow(number: u32) -> u16 {
    u16::try_from(number).expect("the numbers end below 2^16")
}
