// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What a table set holds, and the writes that change it, each kind complete in itself.

mod building;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;

use imbl::{OrdMap, OrdSet};
use ipnet::IpNet;
use podgate_abi::{
    Address, Class, Direction, PeerWord, PortSetId, PrefixWord, RowKey, RowSets, RowWords,
    RulesetId, Slot,
};
use podgate_policy::compile::facts::Facts;
use podgate_policy::compile::predicate::{Predicate, Questions};
use podgate_policy::compile::ruleset::{Judge, Ruleset};
use podgate_policy::compile::signature::Signature;

use super::classes::{Classes, RulesetIndex, is_of_prefix, parts_of};
use super::deferred::{Deferred, GraceEpoch};
use super::id_allocator::{Given, IdAllocator};
use super::moved::Moved;
use super::ports::{PortSets, WHOLE};
use super::prefix::{all_of_ipv4, is_mapped, is_mapped_block, lowered};
use super::{Capacities, Charges, Occupancy, PlanError, Table, Write, class_or_none};
use building::Building;

/// So many pairs of a ruleset and a class may always be worked out at once.
const PAIRS: usize = 1 << 15;

/// How many answers of a new class to predicates cost as much as one row.
const ANSWERS: usize = 8;

/// What a table set holds. A copy costs next to nothing.
///
/// Between two plans every ruleset and every class that have a number have their row, in use or not, wherever it differs
/// from what the next look-up step would say.
#[derive(Debug, Clone)]
pub(super) struct InstalledMaps {
    capacities: Capacities,
    rulesets: IdAllocator<Arc<Ruleset>>,
    known: OrdMap<RulesetId, Known>,
    asking: RulesetIndex,
    /// Who has which ruleset.
    holders: OrdSet<(RulesetId, Slot, Direction)>,
    now: GraceEpoch,
    /// Rulesets that nobody has.
    idle_rulesets: Deferred<RulesetId>,
    building: Building,
    /// One use for each address and prefix that has the class.
    numbers: IdAllocator<Arc<Signature>>,
    classes: Classes,
    /// Classes that nothing has.
    idle_classes: Deferred<Class>,
    ports: PortSets,
    rows: OrdMap<RowKey, RowSets>,
    /// The addresses that `peers` has: those of which more is to be said than what their prefix says.
    peers: OrdMap<IpAddr, Arc<Signature>>,
    prefixes: OrdMap<IpNet, Arc<Signature>>,
    /// Addresses of which a plugin may have deleted what was said, and what that was: its class is kept until something is said
    /// of them again.
    forgotten: OrdMap<IpAddr, Option<Arc<Signature>>>,
}

/// A ruleset that has a number.
#[derive(Debug, Clone)]
struct Known {
    compiled: Arc<Ruleset>,
    questions: Arc<Questions>,
    default_row: RowSets,
}

/// Classes that have a number since a moment ago, and no rows yet.
#[derive(Debug, Default)]
pub(super) struct Fresh(BTreeSet<Class>);

impl InstalledMaps {
    pub(super) fn new(capacities: Capacities) -> Self {
        Self {
            rulesets: IdAllocator::new(
                Table::Rulesets,
                RulesetId::FIRST.0,
                capacities.rulesets.min(RulesetId::MAX.0 + 1),
            ),
            numbers: IdAllocator::new(Table::Classes, Class::NONE.0 + 1, Class::MAX.0 + 1),
            ports: PortSets::new(&capacities),
            capacities,
            known: OrdMap::new(),
            asking: RulesetIndex::default(),
            holders: OrdSet::new(),
            now: GraceEpoch::default(),
            idle_rulesets: Deferred::new(),
            building: Building::default(),
            classes: Classes::default(),
            idle_classes: Deferred::new(),
            rows: OrdMap::new(),
            peers: OrdMap::new(),
            prefixes: OrdMap::new(),
            forgotten: OrdMap::new(),
        }
    }

    /// The tables are made this large, and hold what was planned until now.
    pub(super) fn limit_to(&mut self, capacities: Capacities) {
        self.rulesets
            .limit_to(capacities.rulesets.min(RulesetId::MAX.0 + 1));
        self.ports.limit_to(&capacities);
        self.capacities = capacities;
    }

    /// The number of a ruleset that is installed; of the two that always are, too.
    pub(super) fn number_of(&self, ruleset: &Ruleset) -> Option<RulesetId> {
        match ruleset {
            Ruleset::Denied => Some(RulesetId::DENY_ALL),
            Ruleset::Allowed => Some(RulesetId::ALLOW_ALL),
            Ruleset::Rules(_) => self.rulesets.number_of(ruleset).map(RulesetId),
        }
    }

    /// Gives every class a number that something moves to in `facts`, until `room` pairs with a ruleset come of it; what
    /// moves with these. What does not yet stays in `moving`. Nothing points there yet.
    pub(super) fn add_classes(
        &mut self,
        facts: &Facts,
        moving: &mut Moved,
        room: usize,
        fresh: &mut Fresh,
    ) -> Result<Moved, PlanError> {
        let mut now = Moved::default();
        let mut looked_at = HashSet::new();
        let mut cost = 0_usize;
        while cost < room {
            let signature = if let Some(address) = moving.addresses.remove_min() {
                now.addresses.insert(address);
                peer_of(facts, address)
            } else if let Some(prefix) = moving.prefixes.remove_min() {
                now.prefixes.insert(prefix);
                prefix_of(facts, &prefix)
            } else {
                break;
            };
            cost += 1;
            // Equal ones are one allocation, which the facts keep.
            if let Some(signature) = signature
                && looked_at.insert(Arc::as_ptr(&signature))
            {
                cost = cost.saturating_add(self.add_classes_of(&signature, fresh)?);
            }
        }
        Ok(now)
    }

    /// How many pairs with a ruleset come of it.
    fn add_classes_of(
        &mut self,
        signature: &Arc<Signature>,
        fresh: &mut Fresh,
    ) -> Result<usize, PlanError> {
        let mut pairs = 0;
        for part in parts_of(signature) {
            match self.numbers.give(&part)? {
                Given::Known(_) => {}
                Given::New(number) => {
                    let class = Class(number);
                    self.classes.add(class, &part);
                    self.idle_classes.insert(class, self.now);
                    fresh.0.insert(class);
                    pairs += self.asking.about(&part).len() + part.predicates().len() / ANSWERS;
                }
            }
        }
        Ok(pairs)
    }

    /// Writes the rows of all rulesets for fresh classes: each that differs from what the next look-up step says, which
    /// is the broad class's, and then the ruleset's own. Nothing leads to them yet.
    pub(super) fn complete(
        &mut self,
        fresh: &Fresh,
        writes: &mut Vec<Write>,
    ) -> Result<(), PlanError> {
        let mut meeting: BTreeMap<RulesetId, Vec<Class>> = BTreeMap::new();
        let mut pairs = 0;
        for class in &fresh.0 {
            if let Some(signature) = self.numbers.content_of(class.0) {
                for ruleset in self.asking.about(signature) {
                    meeting.entry(ruleset).or_default().push(*class);
                    pairs += 1;
                }
            }
            self.bounded(pairs)?;
        }
        for (ruleset, classes) in meeting {
            self.add_rows(ruleset, classes, writes)?;
        }
        Ok(())
    }

    /// Writes the rows of a ruleset for classes, where it needs them.
    fn add_rows(
        &mut self,
        ruleset: RulesetId,
        classes: impl IntoIterator<Item = Class>,
        writes: &mut Vec<Write>,
    ) -> Result<(), PlanError> {
        let Some(known) = self.known.get(&ruleset) else {
            return Ok(());
        };
        let compiled = Arc::clone(&known.compiled);
        let mut judge = Judge::of(&compiled);
        for class in classes {
            self.add_row(ruleset, class, &mut judge, writes)?;
        }
        Ok(())
    }

    fn add_row(
        &mut self,
        ruleset: RulesetId,
        class: Class,
        judge: &mut Judge<'_>,
        writes: &mut Vec<Write>,
    ) -> Result<(), PlanError> {
        let Some(signature) = self.numbers.content_of(class.0) else {
            return Ok(());
        };
        let allowed = judge.row(signature);
        let next = if signature.is_broad() {
            judge.ruleset().default_row()
        } else {
            judge.row(&signature.broad())
        };
        let key = RowKey::new(ruleset, class);
        if allowed == next || self.rows.contains_key(&key) {
            return Ok(());
        }
        let sets = self.ports.acquire(&allowed, writes)?;
        self.rows.insert(key, sets);
        if self.rows.len() > self.capacities.rows as usize {
            return Err(PlanError::full(Table::Rows, self.capacities.rows));
        }
        let row = RowWords::new(key, sets);
        writes.push(Write::Row { key, row });
        Ok(())
    }

    /// Points what moves to its class in `facts`, which has a number: one write each, where it says something else than
    /// before.
    pub(super) fn point(
        &mut self,
        facts: &Facts,
        moved: &Moved,
        writes: &mut Vec<Write>,
    ) -> Result<(), PlanError> {
        let mut peers = Vec::new();
        for address in &moved.addresses {
            let (now, known) = (peer_of(facts, *address), self.peers.get(address));
            let forgotten = self.forgotten.remove(address);
            match now {
                Some(signature) if known != Some(&signature) => peers.push((*address, signature)),
                None if known.is_some() || forgotten.is_some() => {
                    if let Some(old) = self.peers.remove(address) {
                        self.leave(&old);
                    }
                    let address = Address::from(*address);
                    writes.push(Write::RemovePeer { address });
                }
                Some(_) | None => {}
            }
            if let Some(old) = forgotten.flatten() {
                self.leave(&old);
            }
        }
        for (address, signature) in peers {
            self.hold(&signature);
            let word = self.peer_word(address.into(), &signature);
            if let Some(old) = self.peers.insert(address, signature) {
                self.leave(&old);
            }
            let address = Address::from(address);
            writes.push(Write::Peer { address, word });
        }
        if self.peers.len() > self.capacities.peers as usize {
            return Err(PlanError::full(Table::Peers, self.capacities.peers));
        }

        let mut prefixes = Vec::new();
        for prefix in &moved.prefixes {
            let (now, known) = (prefix_of(facts, prefix), self.prefixes.get(prefix));
            match now {
                Some(signature) if known != Some(&signature) => {
                    prefixes.push((*prefix, signature));
                }
                None if known.is_some() => {
                    if let Some(old) = self.prefixes.remove(prefix) {
                        self.leave(&old);
                    }
                    let key = lowered(prefix);
                    writes.push(Write::RemovePrefix { key });
                }
                Some(_) | None => {}
            }
        }
        for (prefix, signature) in prefixes {
            self.hold(&signature);
            let (key, class) = (lowered(&prefix), self.class_of(&signature));
            if let Some(old) = self.prefixes.insert(prefix, signature) {
                self.leave(&old);
            }
            let word = PrefixWord(class.0.into());
            writes.push(Write::Prefix { key, word });
        }
        if self.prefixes.len() > self.capacities.prefixes as usize {
            return Err(PlanError::full(Table::Prefixes, self.capacities.prefixes));
        }
        Ok(())
    }

    /// An attachment has this ruleset in this direction; the number of it.
    pub(super) fn take_up(
        &mut self,
        ruleset: &Ruleset,
        slot: Slot,
        direction: Direction,
    ) -> Option<RulesetId> {
        let number = self.number_of(ruleset)?;
        self.holders.insert((number, slot, direction));
        self.is_had(number);
        Some(number)
    }

    /// An attachment has this ruleset no more.
    pub(super) fn give_up(&mut self, ruleset: &Ruleset, slot: Slot, direction: Direction) {
        let Some(number) = self.number_of(ruleset) else {
            return;
        };
        self.holders.remove(&(number, slot, direction));
        self.leave_if_idle(number);
    }

    /// Who has a ruleset.
    pub(super) fn holders_of(&self, ruleset: RulesetId) -> impl Iterator<Item = (Slot, Direction)> {
        self.holders
            .range((ruleset, Slot::MIN, Direction::Ingress)..)
            .take_while(move |(held, ..)| *held == ruleset)
            .map(|(_, slot, direction)| (*slot, *direction))
    }

    /// The rulesets in force, each once for every attachment and direction.
    pub(super) fn rulesets_held(&self) -> impl Iterator<Item = RulesetId> {
        self.holders.iter().map(|(held, ..)| *held)
    }

    /// The rulesets that may say something of their own of a signature.
    pub(super) fn rulesets_about(&self, signature: &Signature) -> BTreeSet<RulesetId> {
        self.asking.about(signature)
    }

    /// The era that this is.
    pub(super) fn now(&self) -> GraceEpoch {
        self.now
    }

    /// A grace period begins: no program will hold, when it is over, what was left until now.
    pub(super) fn grace_begins(&mut self) {
        self.now = self.now.next();
    }

    /// Whether something has a number that nothing names.
    pub(super) fn has_idle(&self) -> bool {
        !(self.idle_rulesets.is_empty() && self.idle_classes.is_empty())
    }

    /// Whether some of that has not been used since before the last grace period began.
    pub(super) fn has_dead(&self) -> bool {
        self.idle_rulesets.has_before(self.now) || self.idle_classes.has_before(self.now)
    }

    /// Deletes the rows of `room` classes at most that no address and no prefix has had since before the last grace
    /// period began, and frees their numbers.
    pub(super) fn discard_classes(&mut self, room: usize, writes: &mut Vec<Write>) {
        for class in self.idle_classes.take_before(self.now, room) {
            let Some(signature) = self.numbers.free(class.0) else {
                continue;
            };
            self.classes.remove(class, &signature);
            for ruleset in self.asking.about(&signature) {
                self.discard_row(RowKey::new(ruleset, class), writes);
            }
        }
    }

    /// What may be said of an address now, if it is one of those of which more is said than what their prefix says.
    pub(super) fn peer(&self, address: IpAddr) -> Option<&Arc<Signature>> {
        let forgotten = || self.forgotten.get(&address)?.as_ref();
        self.peers.get(&address).or_else(forgotten)
    }

    /// It is not known any more whether anything is said of an address.
    pub(super) fn forget_address(&mut self, address: IpAddr) {
        let known = self.peers.remove(&address);
        let before = self.forgotten.remove(&address).flatten();
        // It is said of it since before.
        if let (Some(_), Some(before)) = (&known, &before) {
            self.leave(before);
        }
        self.forgotten.insert(address, known.or(before));
    }

    /// What the rulesets ask, predicates apart.
    pub(super) fn beside(&self) -> &Questions {
        self.asking.beside()
    }

    /// Predicates that no ruleset asks any more, and that are still asked. A copy costs next to nothing.
    pub(super) fn surplus(&self) -> OrdSet<Arc<Predicate>> {
        self.asking.surplus().clone()
    }

    /// These are asked no more.
    pub(super) fn forget(&mut self, predicates: &[Arc<Predicate>]) {
        self.asking.forget(predicates);
    }

    /// What must be pointed to its class, whatever changed: the prefix that is always there.
    pub(super) fn lacking(&self) -> Moved {
        let is_missing = !self.prefixes.contains_key(&all_of_ipv4());
        Moved {
            addresses: OrdSet::new(),
            prefixes: is_missing.then(all_of_ipv4).into_iter().collect(),
        }
    }

    /// Addresses that were forgotten. Of whose they are now only new facts know.
    pub(super) fn forgotten(&self) -> impl Iterator<Item = IpAddr> {
        self.forgotten.keys().copied()
    }

    pub(super) fn occupancy(&self) -> [Occupancy; 7] {
        let length = |length: usize| u32::try_from(length).unwrap_or(u32::MAX);
        let of = |table, (used, capacity)| Occupancy {
            table,
            used,
            capacity,
        };
        let [port_sets, chunks] = self.ports.used();
        [
            of(Table::Rulesets, self.rulesets.used()),
            of(Table::Rows, (length(self.rows.len()), self.capacities.rows)),
            of(
                Table::Peers,
                (length(self.peers.len()), self.capacities.peers),
            ),
            of(
                Table::Prefixes,
                (length(self.prefixes.len()), self.capacities.prefixes),
            ),
            of(Table::PortSets, port_sets),
            of(Table::Chunks, chunks),
            of(Table::Classes, self.numbers.used()),
        ]
    }

    /// What each ruleset has of a table, or is about to have.
    pub(super) fn charges(&self, table: Table) -> Charges {
        let mut of_sets: HashMap<PortSetId, u64> = HashMap::new();
        let charges = self.known.iter().map(|(number, known)| {
            let charge = match table {
                Table::Rulesets => WHOLE,
                // Those for classes that it has not met are not less than they may become.
                Table::Rows | Table::Classes => {
                    (self.rows_of(*number).count() + self.still_to_meet(*number)) as u64 * WHOLE
                }
                Table::PortSets | Table::Chunks => {
                    let rows = self.rows_of(*number).map(|(_, sets)| sets);
                    let rows = rows.chain([&known.default_row]);
                    let sets = rows.flat_map(|row| [row.tcp, row.udp, row.sctp, row.rest]);
                    let charge = |set| self.ports.charge(table, set);
                    sets.map(|set| *of_sets.entry(set).or_insert_with(|| charge(set)))
                        .sum()
                }
                Table::Prefixes => {
                    let asked = known.questions.predicates.iter();
                    asked.map(|it| it.prefixes() as u64 * WHOLE).sum()
                }
                // Pods and Services fill this one, whatever the policies are.
                Table::Peers => 0,
            };
            (Arc::clone(&known.compiled), charge)
        });
        charges.collect()
    }

    fn rows_of(&self, ruleset: RulesetId) -> impl Iterator<Item = (&RowKey, &RowSets)> {
        let keys = RowKey::new(ruleset, Class::NONE)..=RowKey::new(ruleset, Class::MAX);
        self.rows.range(keys)
    }

    fn discard_row(&mut self, key: RowKey, writes: &mut Vec<Write>) {
        if let Some(sets) = self.rows.remove(&key) {
            self.ports.release(sets);
            writes.push(Write::RemoveRow { key });
        }
    }

    /// What cannot be told apart by its broad class has no class of its own, which saves a look-up.
    fn peer_word(&self, address: Address, signature: &Signature) -> PeerWord {
        let class = if signature.is_broad() {
            Class::NONE
        } else {
            self.class_of(signature)
        };
        let broad = self.class_of(&signature.broad());
        let word = PeerWord::new(address, class, broad, signature.is_own_node());
        if signature.is_other_node() {
            word.of_another_node()
        } else {
            word
        }
    }

    fn class_of(&self, signature: &Signature) -> Class {
        class_or_none(self.numbers.number_of(signature))
    }

    /// Something has the classes of a signature from now on.
    fn hold(&mut self, signature: &Arc<Signature>) {
        for part in parts_of(signature) {
            if let Some(number) = self.numbers.number_of(part.as_ref()) {
                self.numbers.hold(number);
                self.idle_classes.remove(&Class(number));
            }
        }
    }

    /// Something has the classes of a signature no more.
    fn leave(&mut self, signature: &Arc<Signature>) {
        for part in parts_of(signature) {
            if let Some(number) = self.numbers.number_of(part.as_ref())
                && self.numbers.leave(number)
            {
                self.idle_classes.insert(Class(number), self.now);
            }
        }
    }

    /// Pairs of a ruleset and a class that are worked out become rows, or come close.
    fn bounded(&self, pairs: usize) -> Result<(), PlanError> {
        if pairs > (self.capacities.rows as usize).max(PAIRS) * 2 {
            return Err(PlanError::full(Table::Rows, self.capacities.rows));
        }
        Ok(())
    }
}

/// What `peers` is to say of an address.
fn peer_of(facts: &Facts, address: IpAddr) -> Option<Arc<Signature>> {
    let signature = facts.addresses().get(&address)?;
    (!is_mapped(address) && !is_of_prefix(signature)).then(|| Arc::clone(signature))
}

/// What `prefixes` is to say of a prefix.
fn prefix_of(facts: &Facts, prefix: &IpNet) -> Option<Arc<Signature>> {
    match facts.prefixes().get(prefix) {
        Some(signature) if !is_mapped_block(prefix) => Some(Arc::clone(signature)),
        Some(_) | None => (*prefix == all_of_ipv4()).then(Arc::default),
    }
}
