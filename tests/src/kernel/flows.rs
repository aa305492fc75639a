// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Flows as they stand in both tables, and what a test may do to them.

use podgate_abi::{FlowKey, FlowState, FlowValue, FlowWord, Put, Slot};

use super::{FlowMap, FlowMemory, HZ, Kernel};

impl Kernel {
    /// Lets every flow and fragmented datagram have been silent for so many seconds.
    ///
    /// # Panics
    /// Here and below: when a flow cannot be read or written.
    pub fn age_flows(&mut self, seconds: u32) {
        let age = u64::from(seconds) * u64::from(HZ);
        for table in [&mut self.flows, &mut self.embryonic, &mut self.crowd] {
            let keys: Vec<_> = table.keys().map(|key| key.expect("a key")).collect();
            for key in keys {
                let [word, seen] = table.get(&key, 0).expect("a flow");
                table
                    .insert(key, [word, seen.wrapping_sub(age)], 0)
                    .expect("a flow is written");
            }
        }
        let keys: Vec<_> = self
            .fragments
            .keys()
            .map(|key| key.expect("a key"))
            .collect();
        for key in keys {
            let value = self.fragments.get(&key, 0).expect("a fragment");
            // The time is the upper half.
            self.fragments
                .insert(key, value.wrapping_sub(age << 32), 0)
                .expect("a fragment is written");
        }
        self.age_attachment(age);
        self.host.now.set(self.host.now.get() + age);
    }

    /// Evicts every flow.
    pub fn forget_flows(&mut self) {
        for table in [&mut self.flows, &mut self.embryonic, &mut self.crowd] {
            let keys: Vec<_> = table.keys().map(|key| key.expect("a key")).collect();
            for key in keys {
                table.remove(&key).expect("a flow is deleted");
            }
        }
        self.host.flows = FlowMemory::with_capacity(self.host.flows.capacity());
        self.host.embryonic = FlowMemory::with_capacity(self.host.embryonic.capacity());
        self.host.crowd = FlowMemory::with_capacity(self.host.crowd.capacity());
        self.set_budgets(super::SLOT, [0, 0]);
        self.common.set(0, 0, 0).expect("the count is written");
        self.host.common.store(0);
    }

    /// Hands all flows of the slot of test runs over to another one, with what they use of its quota.
    pub fn give_away(&mut self, slot: u16) {
        let flows = move_to_slot(&mut self.flows, slot);
        let embryonic = move_to_slot(&mut self.embryonic, slot);
        move_to_slot(&mut self.crowd, slot);
        self.host.flows = FlowMemory::with_capacity(self.host.flows.capacity());
        self.host.embryonic = FlowMemory::with_capacity(self.host.embryonic.capacity());
        self.host.crowd = FlowMemory::with_capacity(self.host.crowd.capacity());
        self.set_budgets(super::SLOT, [0, 0]);
        self.set_budgets(Slot(slot.into()), [flows, embryonic]);
    }

    /// How many flows all slots are said to have beyond their guarantees.
    pub fn own_common(&self) -> u64 {
        let common = self.common.get(&0, 0).expect("the count");
        assert_eq!(
            common,
            self.host.common.load(),
            "kernel and host count as many"
        );
        common
    }

    /// Evicts the flows that stand in `crowd`, as others' would.
    pub fn forget_crowd(&mut self) {
        let keys: Vec<_> = self.crowd.keys().map(|key| key.expect("a key")).collect();
        for key in keys {
            self.crowd.remove(&key).expect("a flow is deleted");
        }
        self.host.crowd = FlowMemory::with_capacity(self.host.crowd.capacity());
    }

    /// How many answered flows there are.
    pub fn flow_count(&self) -> usize {
        let count = self.flows.keys().count();
        assert_eq!(count, self.host.flows.len(), "kernel and host have as many");
        count
    }

    /// How far the answered flows have come, in words.
    ///
    /// # Panics
    /// When kernel and host do not agree, or a state is none of an answered flow.
    pub fn flow_states(&self) -> Vec<&'static str> {
        let keys = self.flows.keys().map(|key| key.expect("a key"));
        keys.map(|key| {
            let [word, _] = self.flows.get(&key, 0).expect("a flow");
            let host = self.host.flows.get(&bytemuck::cast(key));
            let word = FlowWord(word);
            assert_eq!(host.expect("the host has it too").word(), word);
            match word.state() {
                FlowState::ESTABLISHED => "established",
                FlowState::CLOSING => "closing",
                other => panic!("{other:?} is no state of an answered flow"),
            }
        })
        .collect()
    }

    /// How many answered flows of a slot the kernel has.
    pub fn kernel_flows_of_slot(&self, slot: Slot) -> usize {
        of_slot(&self.flows, slot)
    }

    /// How many flows of a slot the kernel has in `embryonic`.
    pub fn kernel_embryonic_of_slot(&self, slot: Slot) -> usize {
        of_slot(&self.embryonic, slot)
    }

    /// Hands the kernel's answered flows over to another slot, with what they use of its quota; how many.
    pub fn move_flows_to_slot(&mut self, slot: u16) -> u64 {
        let moved = move_to_slot(&mut self.flows, slot);
        let [_, embryonic] = self.quotas(super::SLOT);
        self.set_budgets(super::SLOT, [0, embryonic]);
        self.set_budgets(Slot(slot.into()), [moved, 0]);
        moved
    }

    /// Hands the kernel's flows in `embryonic` over to another slot, with what they use of its share; how many.
    pub fn move_embryonic_to_slot(&mut self, slot: u16) -> u64 {
        let moved = move_to_slot(&mut self.embryonic, slot);
        let [flows, _] = self.quotas(super::SLOT);
        self.set_budgets(super::SLOT, [flows, 0]);
        self.set_budgets(Slot(slot.into()), [0, moved]);
        moved
    }

    /// Writes a flow into the answered ones, seen now.
    pub fn put_flow_word(&mut self, key: &FlowKey, word: FlowWord) {
        let keys: Vec<_> = self.flows.keys().map(|key| key.expect("a key")).collect();
        let seen = keys.first().map_or(0, |key| {
            let [_, seen] = self.flows.get(key, 0).expect("a flow");
            seen
        });
        self.flows
            .insert(bytemuck::cast::<_, [u8; 24]>(*key), [word.0, seen], 0)
            .expect("a flow is written");
        let now = self.host.now.get();
        assert!(
            self.host
                .flows
                .put(key, &FlowValue::new(word, now), Put::Either)
        );
    }

    /// How many flows a slot is said to have: answered ones, and in `embryonic`.
    pub fn quotas(&self, slot: Slot) -> [u64; 2] {
        self.quotas.get(&slot.0, 0).expect("a quota")
    }

    /// The same of the slot of test runs, of which the host must know the same.
    pub fn own_budgets(&self) -> [u64; 2] {
        let counts = self.quotas(super::SLOT);
        let host = &self.host.quotas[&super::SLOT];
        assert_eq!(counts, [host.flows.load(), host.embryonic.load()]);
        counts
    }

    /// Says how many flows a slot has.
    pub fn set_budgets(&mut self, slot: Slot, counts: [u64; 2]) {
        self.quotas
            .set(slot.0, counts, 0)
            .expect("a quota is written");
        if let Some(host) = self.host.quotas.get(&slot) {
            host.flows.store(counts[0]);
            host.embryonic.store(counts[1]);
        }
    }
}

fn of_slot(table: &FlowMap, slot: Slot) -> usize {
    let keys = table.keys().map(|key| key.expect("a key"));
    keys.filter(|key| u32::from(bytemuck::cast::<_, FlowKey>(*key).slot) == slot.0)
        .count()
}

fn move_to_slot(table: &mut FlowMap, slot: u16) -> u64 {
    let keys = table.keys().map(|key| bytemuck::cast(key.expect("a key")));
    let keys: Vec<FlowKey> = keys
        .filter(|key: &FlowKey| u32::from(key.slot) == super::SLOT.0)
        .collect();
    for key in &keys {
        let bytes: [u8; 24] = bytemuck::cast(*key);
        let value = table.get(&bytes, 0).expect("a flow");
        table.remove(&bytes).expect("a flow is deleted");
        let key = FlowKey { slot, ..*key };
        table
            .insert(bytemuck::cast::<_, [u8; 24]>(key), value, 0)
            .expect("a flow is written");
    }
    keys.len() as u64
}
