// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Plans and attachments on the host's tables alone, where no kernel is needed.

use std::net::IpAddr;

use podgate_abi::{
    Address, Attachment, Birth, CHUNK_ALL, CHUNK_NONE, Chunk, Class, Direction, FIRST_CHUNK,
    HardwareWord, MAX_ADDRESSES, PolicyWord, PortSetChunks, PortSetId, PrefixKey, PrefixWord,
    Quota, RulesetId, Slot, Word, tunnel,
};
use podgate_enforcer::plan::{Capacities, Plan, PlanError, Planner, Rulesets, Write};
use podgate_policy::model::World;

use super::{FlowMemory, HZ, HostTables};

/// Room for what tests plan.
pub const CAPACITIES: Capacities = Capacities {
    rulesets: 1024,
    rows: 16384,
    peers: 4096,
    prefixes: 4096,
    port_sets: 1024,
    chunks: 1024,
};

impl HostTables {
    /// Tables of a new set, with room for so many flows in each of their tables.
    pub fn with_room_for(flows: u32) -> Self {
        let mut tables = Self {
            flows: FlowMemory::with_capacity(flows),
            embryonic: FlowMemory::with_capacity(flows),
            crowd: FlowMemory::with_capacity(flows),
            limits: [flows.into(); 4],
            second: HZ,
            forwards: true,
            ..Self::default()
        };
        tables.now.set(u64::from(HZ));
        let constants = constants();
        tables.chunks.extend(constants.chunks);
        let sets = constants.port_sets.into_iter();
        tables
            .port_sets
            .extend(sets.map(|(set, chunks)| (set.0, chunks)));
        let (address, length) = constants.prefix;
        let key = PrefixKey {
            length: 96 + length,
            address: Address::from(address),
        };
        let nothing = PrefixWord(Class::NONE.0.into());
        tables.prefixes.insert(key, nothing);
        tables
    }

    /// Puts a pod into a slot, open both ways, and tells the generation of its birth.
    ///
    /// # Panics
    /// When it has more addresses than an attachment can hold.
    pub fn attach(&mut self, slot: Slot, own: &[IpAddr]) -> u32 {
        let birth = self.draw_generation();
        assert!(own.len() <= MAX_ADDRESSES);
        let mut addresses = [Address::UNSPECIFIED; MAX_ADDRESSES];
        for (place, address) in addresses.iter_mut().zip(own) {
            *place = Address::from(*address);
        }
        let open = PolicyWord::new(RulesetId::ALLOW_ALL, birth).0;
        let attachment = Attachment {
            words: [Word::new(open), Word::new(open)],
            origin: Word::new(Birth::new(birth).0),
            hardware: Word::new(HardwareWord::UNBOUND.0),
            addresses,
            ..Attachment::default()
        };
        self.attachments.insert(slot, attachment);
        self.quotas.insert(slot, Quota::default());
        birth
    }

    /// Empties a slot.
    pub fn detach(&mut self, slot: Slot) {
        self.attachments.remove(&slot);
    }

    /// Forgets every flow.
    pub fn forget_flows(&self) {
        for flows in [&self.flows, &self.embryonic, &self.crowd] {
            flows.clear();
        }
    }

    /// Puts facts in force, then policy, then what waits for a grace period, as the engine does.
    ///
    /// # Errors
    /// When there is no room.
    pub fn settle(
        &mut self,
        planner: &mut Planner,
        world: &World,
        rulesets: &Rulesets,
    ) -> Result<(), PlanError> {
        let mut commit = |planner: &mut Planner, plan: Plan| {
            self.execute(&plan);
            planner.commit(plan);
        };
        let facts = planner.facts_change(world)?;
        commit(planner, facts);
        let policy = planner.policy_change(rulesets)?;
        commit(planner, policy);
        while planner.waits_for_grace() {
            planner.grace_begins();
            let rest = planner.after_grace()?;
            commit(planner, rest);
        }
        Ok(())
    }

    /// Executes a plan to its end.
    pub fn execute(&mut self, plan: &Plan) {
        for write in plan.writes() {
            self.apply(write);
        }
    }

    fn apply(&mut self, write: &Write) {
        match write {
            Write::Chunk { number, chunk } => drop(self.chunks.insert(*number, **chunk)),
            Write::PortSet { number, chunks } => drop(self.port_sets.insert(number.0, *chunks)),
            Write::DefaultRow { ruleset, row } => drop(self.rulesets.insert(ruleset.0, *row)),
            Write::Row { key, row } => drop(self.rows.insert(*key, *row)),
            Write::RemoveRow { key } => drop(self.rows.remove(key)),
            Write::Peer { address, word } => drop(self.peers.insert(*address, *word)),
            Write::RemovePeer { address } => drop(self.peers.remove(address)),
            Write::Prefix { key, word } => drop(self.prefixes.insert(*key, *word)),
            Write::RemovePrefix { key } => drop(self.prefixes.remove(key)),
            Write::Way { key, word } => drop(self.ways.insert(*key, *word)),
            Write::RemoveWay { key } => drop(self.ways.remove(key)),
            Write::Flip {
                slot,
                direction,
                ruleset,
            } => self.flip(*slot, *direction, *ruleset),
            Write::Renew { slot, direction } => {
                let ruleset = self.attachments[slot].word(*direction).ruleset();
                self.flip(*slot, *direction, ruleset);
            }
        }
    }

    fn flip(&mut self, slot: Slot, direction: Direction, ruleset: RulesetId) {
        let word = PolicyWord::new(ruleset, self.draw_generation());
        self.attachments[&slot].words[direction as usize].store(word.0);
    }

    fn draw_generation(&mut self) -> u32 {
        self.last_generation += 1;
        self.last_generation
    }
}

/// What the maker of a table set writes into every set.
pub(super) struct Constants {
    pub(super) chunks: Vec<(u16, Chunk)>,
    pub(super) port_sets: Vec<(PortSetId, PortSetChunks)>,
    /// IPv4, of which IPv6 blocks hold nothing.
    pub(super) prefix: (IpAddr, u32),
}

pub(super) fn constants() -> Constants {
    let mut chunks = vec![(CHUNK_NONE, Chunk::NONE), (CHUNK_ALL, Chunk::ALL)];
    let mut port_sets = vec![
        (PortSetId::NONE, PortSetChunks([CHUNK_NONE; 16])),
        (PortSetId::ALL, PortSetChunks([CHUNK_ALL; 16])),
    ];
    let protocols = tunnel::PROTOCOLS.map(u16::from);
    let mut next = CHUNK_ALL + 1;
    for (set, members) in [
        (PortSetId::TUNNEL_PORTS, &tunnel::UDP_PORTS[..]),
        (PortSetId::TUNNEL_PROTOCOLS, &protocols[..]),
    ] {
        let mut numbers = [CHUNK_NONE; 16];
        for member in members {
            let number = &mut numbers[usize::from(member >> 12)];
            if *number == CHUNK_NONE {
                *number = next;
                chunks.push((next, Chunk::NONE));
                next += 1;
            }
            chunks[usize::from(*number)].1.insert(member & 0xfff);
        }
        port_sets.push((set, PortSetChunks(numbers)));
    }
    assert!(
        next <= FIRST_CHUNK,
        "the tunnels' chunks fit below the first free one"
    );
    Constants {
        chunks,
        port_sets,
        prefix: (IpAddr::from([0; 4]), 0),
    }
}
