//! What a table set holds, and the writes that change it, each kind complete in itself.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use podgate_abi::{Address, Class, PeerWord, PrefixWord, Row, RowKey, RowSets, Ruleset};
use podgate_policy::compile::facts::Facts;
use podgate_policy::compile::ports::Row as Allowed;
use podgate_policy::compile::predicate::{Questions, Signature};
use podgate_policy::compile::ruleset::Ruleset as Compiled;

use super::classes::{Candidates, is_broad, is_of_prefix, signatures_of};
use super::numbers::{Acquired, Numbers};
use super::ports::PortSets;
use super::prefix::{all_of_ipv4, is_mapped, is_mapped_block, lowered};
use super::{Capacities, Occupancy, PlanError, Step, Table, Write, class_or_none};

/// What a table set holds.
///
/// Between two plans every ruleset and every class in use have their row, wherever it differs from what the next
/// look-up step would say.
#[derive(Debug, Clone)]
pub(super) struct Record {
    capacities: Capacities,
    rulesets: Numbers<Arc<Compiled>>,
    known: BTreeMap<Ruleset, Known>,
    classes: Numbers<Arc<Signature>>,
    ports: PortSets,
    rows: BTreeMap<RowKey, RowSets>,
    /// The addresses that `peers` has: those of which more is to be said than what their prefix says.
    peers: BTreeMap<IpAddr, Arc<Signature>>,
    prefixes: BTreeMap<IpNet, Arc<Signature>>,
}

/// A ruleset that has a number.
#[derive(Debug, Clone)]
struct Known {
    compiled: Arc<Compiled>,
    questions: Arc<Questions>,
    default_row: RowSets,
}

impl Record {
    pub(super) fn new(capacities: Capacities) -> Self {
        Self {
            rulesets: Numbers::new(
                Table::Rulesets,
                Ruleset::FIRST.0,
                capacities.rulesets.min(Ruleset::MAX.0 + 1),
            ),
            classes: Numbers::new(Table::Classes, Class::NONE.0 + 1, Class::MAX.0 + 1),
            ports: PortSets::new(&capacities),
            capacities,
            known: BTreeMap::new(),
            rows: BTreeMap::new(),
            peers: BTreeMap::new(),
            prefixes: BTreeMap::new(),
        }
    }

    /// The number of a ruleset that is installed; of the two that always are, too.
    pub(super) fn number_of(&self, ruleset: &Compiled) -> Option<Ruleset> {
        match ruleset {
            Compiled::Denied => Some(Ruleset::DENY_ALL),
            Compiled::Allowed => Some(Ruleset::ALLOW_ALL),
            Compiled::Rules(_) => self.rulesets.number_of(ruleset).map(Ruleset),
        }
    }

    /// Completes `rulesets` and the classes of `facts`: numbers, port sets, rulesets' own rows, and rows of each
    /// old or new ruleset for each old or new class. Nothing leads to any of it yet.
    pub(super) fn install<'a>(
        &mut self,
        rulesets: impl IntoIterator<Item = &'a Arc<Compiled>>,
        facts: &Facts,
        steps: &mut Vec<Step>,
    ) -> Result<(), PlanError> {
        let mut new_rulesets = BTreeSet::new();
        for ruleset in rulesets {
            if self.number_of(ruleset).is_none() {
                new_rulesets.insert(self.install_ruleset(ruleset, steps)?);
            }
        }
        let mut new_classes = BTreeSet::new();
        for signature in signatures_of(facts) {
            if self.classes.number_of(signature.as_ref()).is_none() {
                match self.classes.acquire(&signature)? {
                    Acquired::Known(_) => {}
                    Acquired::New(number) => {
                        new_classes.insert(Class(number));
                    }
                }
            }
        }
        if new_rulesets.is_empty() && new_classes.is_empty() {
            return Ok(());
        }
        let rows = self.missing_rows(&new_rulesets, &new_classes);
        for (key, row) in rows {
            let sets = self.ports.acquire(&row, steps)?;
            self.rows.insert(key, sets);
            if self.rows.len() > self.capacities.rows as usize {
                return Err(self.full(Table::Rows, self.capacities.rows));
            }
            let row = Row::new(key, sets);
            steps.push(Step::Write(Write::Row { key, row }));
        }
        Ok(())
    }

    fn install_ruleset(
        &mut self,
        ruleset: &Arc<Compiled>,
        steps: &mut Vec<Step>,
    ) -> Result<Ruleset, PlanError> {
        let number = match self.rulesets.acquire(ruleset)? {
            Acquired::Known(number) | Acquired::New(number) => Ruleset(number),
        };
        let default_row = self.ports.acquire(&ruleset.default_row(), steps)?;
        self.known.insert(
            number,
            Known {
                compiled: Arc::clone(ruleset),
                questions: Arc::new(ruleset.questions()),
                default_row,
            },
        );
        steps.push(Step::Write(Write::DefaultRow {
            ruleset: number,
            row: Row::new(RowKey(0), default_row),
        }));
        Ok(number)
    }

    /// The rows of new rulesets for all classes, and of all rulesets for new classes: each that differs from what
    /// the next look-up step says, which is the broad class's, and then the ruleset's own.
    fn missing_rows(
        &self,
        new_rulesets: &BTreeSet<Ruleset>,
        new_classes: &BTreeSet<Class>,
    ) -> Vec<(RowKey, Allowed)> {
        let classes = || self.classes.iter().map(|(number, s)| (Class(number), s));
        let fresh = Candidates::of(classes().filter(|(class, _)| new_classes.contains(class)));
        let all = if new_rulesets.is_empty() {
            Candidates::default()
        } else {
            Candidates::of(classes())
        };
        let mut rows = Vec::new();
        for (number, known) in &self.known {
            let candidates = if new_rulesets.contains(number) {
                &all
            } else {
                &fresh
            };
            for (class, signature) in candidates.under(&known.questions) {
                let row = known.compiled.row(signature);
                let next = if is_broad(signature) {
                    known.compiled.default_row()
                } else {
                    known.compiled.row(&signature.broad())
                };
                if row != next {
                    rows.push((RowKey::new(*number, class), row));
                }
            }
        }
        rows
    }

    /// Points addresses and prefixes to the classes of `facts`, which are installed: one write each, where it says
    /// something else than before. Whether anything moved.
    pub(super) fn point(
        &mut self,
        facts: &Facts,
        steps: &mut Vec<Step>,
    ) -> Result<bool, PlanError> {
        let before = steps.len();
        let peers: BTreeMap<IpAddr, Arc<Signature>> = facts
            .addresses()
            .filter(|(address, signature)| !is_mapped(*address) && !is_of_prefix(signature))
            .map(|(address, signature)| (address, Arc::clone(signature)))
            .collect();
        if peers.len() > self.capacities.peers as usize {
            return Err(self.full(Table::Peers, self.capacities.peers));
        }
        for address in self.peers.keys().filter(|known| !peers.contains_key(known)) {
            let address = Address::from(*address);
            steps.push(Step::Write(Write::RemovePeer { address }));
        }
        for (address, signature) in &peers {
            if self.peers.get(address) != Some(signature) {
                let address = Address::from(*address);
                let word = self.peer_word(address, signature);
                steps.push(Step::Write(Write::Peer { address, word }));
            }
        }
        self.peers = peers;

        let mut prefixes: BTreeMap<IpNet, Arc<Signature>> = facts
            .prefixes()
            .filter(|(prefix, _)| !is_mapped_block(prefix))
            .map(|(prefix, signature)| (prefix, Arc::clone(signature)))
            .collect();
        prefixes.entry(all_of_ipv4()).or_default();
        if prefixes.len() > self.capacities.prefixes as usize {
            return Err(self.full(Table::Prefixes, self.capacities.prefixes));
        }
        for prefix in self
            .prefixes
            .keys()
            .filter(|known| !prefixes.contains_key(known))
        {
            let key = lowered(prefix);
            steps.push(Step::Write(Write::RemovePrefix { key }));
        }
        for (prefix, signature) in &prefixes {
            if self.prefixes.get(prefix) != Some(signature) {
                let (key, class) = (lowered(prefix), self.class_of(signature));
                let word = PrefixWord(class.0.into());
                steps.push(Step::Write(Write::Prefix { key, word }));
            }
        }
        self.prefixes = prefixes;
        Ok(steps.len() > before)
    }

    /// Deletes the rows of every ruleset but `live`, and frees their numbers. No program may hold them any more.
    pub(super) fn discard_rulesets(&mut self, live: &BTreeSet<Ruleset>, steps: &mut Vec<Step>) {
        for number in self.dead_rulesets(live) {
            let keys = RowKey::new(number, Class::NONE)..=RowKey::new(number, Class::MAX);
            let dead: Vec<RowKey> = self.rows.range(keys).map(|(key, _)| *key).collect();
            for key in dead {
                self.discard_row(key, steps);
            }
            if let Some(known) = self.known.remove(&number) {
                self.ports.release(known.default_row);
            }
            self.rulesets.release(number.0);
        }
    }

    /// Deletes the rows of every class that no address and no prefix has, and frees their numbers. No program may
    /// hold them any more.
    pub(super) fn discard_classes(&mut self, steps: &mut Vec<Step>) {
        let rulesets: Vec<Ruleset> = self.known.keys().copied().collect();
        for class in self.dead_classes() {
            for ruleset in &rulesets {
                self.discard_row(RowKey::new(*ruleset, class), steps);
            }
            self.classes.release(class.0);
        }
    }

    /// The rulesets that have a number, but are not `live`.
    pub(super) fn dead_rulesets(&self, live: &BTreeSet<Ruleset>) -> Vec<Ruleset> {
        let known = self.known.keys().copied();
        known.filter(|number| !live.contains(number)).collect()
    }

    /// The classes that have a number, but neither an address nor a prefix.
    pub(super) fn dead_classes(&self) -> Vec<Class> {
        let live: BTreeSet<Class> = self
            .peers
            .values()
            .chain(self.prefixes.values())
            .flat_map(|signature| [self.class_of(signature), self.class_of(&signature.broad())])
            .collect();
        let numbers = self.classes.iter().map(|(number, _)| Class(number));
        numbers.filter(|class| !live.contains(class)).collect()
    }

    /// What an address says now, if it is one of those of which more is said than what their prefix says.
    pub(super) fn peer(&self, address: IpAddr) -> Option<&Arc<Signature>> {
        self.peers.get(&address)
    }

    /// Forgets that anything is said of an address.
    pub(super) fn forget_address(&mut self, address: IpAddr) {
        self.peers.remove(&address);
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
            of(Table::Classes, self.classes.used()),
        ]
    }

    fn discard_row(&mut self, key: RowKey, steps: &mut Vec<Step>) {
        if let Some(sets) = self.rows.remove(&key) {
            self.ports.release(sets);
            steps.push(Step::Write(Write::RemoveRow { key }));
        }
    }

    /// What cannot be told apart by its broad class has no class of its own, which saves a look-up.
    fn peer_word(&self, address: Address, signature: &Signature) -> PeerWord {
        let class = if is_broad(signature) {
            Class::NONE
        } else {
            self.class_of(signature)
        };
        let broad = self.class_of(&signature.broad());
        PeerWord::new(address, class, broad, signature.is_own_node())
    }

    fn class_of(&self, signature: &Signature) -> Class {
        class_or_none(self.classes.number_of(signature))
    }

    fn full(&self, table: Table, capacity: u32) -> PlanError {
        PlanError::Full { table, capacity }
    }
}
