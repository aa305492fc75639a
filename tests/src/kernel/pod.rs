//! The pod under test: what its attachment says.

use std::net::IpAddr;

use podgate_abi::{
    Address, Attachment, Direction, MAX_ADDRESSES, Origin as Birth, PolicyWord, Ruleset, Word,
};

use super::{ATTACHMENT_WORDS, Kernel, SLOT};

/// The ruleset of each direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PolicyOf {
    /// Ingress.
    pub to_pod: Ruleset,
    /// Egress.
    pub from_pod: Ruleset,
}

impl PolicyOf {
    /// No policy.
    pub const OPEN: Self = Self::both(Ruleset::ALLOW_ALL);
    /// Isolated both ways, without a rule.
    pub const SHUT: Self = Self::both(Ruleset::DENY_ALL);

    /// The same in both directions.
    pub const fn both(ruleset: Ruleset) -> Self {
        Self {
            to_pod: ruleset,
            from_pod: ruleset,
        }
    }

    /// Isolated for ingress only.
    pub const fn to_pod(ruleset: Ruleset) -> Self {
        Self {
            to_pod: ruleset,
            from_pod: Ruleset::ALLOW_ALL,
        }
    }

    /// Isolated for egress only.
    pub const fn from_pod(ruleset: Ruleset) -> Self {
        Self {
            to_pod: Ruleset::ALLOW_ALL,
            from_pod: ruleset,
        }
    }
}

/// An attachment to be.
#[derive(Debug, Clone)]
pub struct Pod {
    /// Its own addresses.
    pub addresses: Vec<IpAddr>,
    /// Its policy.
    pub policy: PolicyOf,
    /// Whether it routes.
    pub routes: bool,
}

impl Kernel {
    /// Puts a pod into the slot of test runs, born now.
    ///
    /// # Panics
    /// When it has more addresses than an attachment can hold.
    pub fn attach(&mut self, pod: &Pod) {
        let birth = self.draw_generation();
        let mut addresses = [Address::UNSPECIFIED; MAX_ADDRESSES];
        assert!(pod.addresses.len() <= MAX_ADDRESSES);
        for (place, address) in addresses.iter_mut().zip(&pod.addresses) {
            *place = Address::from(*address);
        }
        let words = [
            PolicyWord::new(pod.policy.to_pod, birth),
            PolicyWord::new(pod.policy.from_pod, birth),
        ];
        let attachment = Attachment {
            words: words.map(|word| Word::new(word.0)),
            origin: Word::new(Birth::new(birth, pod.routes).0),
            addresses,
        };
        self.put_attachment(attachment);
    }

    /// Empties the slot.
    pub fn detach(&mut self) {
        self.put_attachment(Attachment::default());
    }

    /// Puts a ruleset in force, with a new generation.
    pub fn flip(&mut self, direction: Direction, ruleset: Ruleset) {
        let word = PolicyWord::new(ruleset, self.draw_generation());
        let attachment = &self.host.attachments[&SLOT];
        attachment.words[direction as usize].store(word.0);
        self.store_attachment();
    }

    /// Gives both directions new generations: every flow is judged again.
    pub fn renew(&mut self) {
        for direction in Direction::BOTH {
            let ruleset = self.host.attachments[&SLOT].word(direction).ruleset();
            self.flip(direction, ruleset);
        }
    }

    /// A generation that nobody has had.
    pub fn draw_generation(&mut self) -> u32 {
        self.last_generation = self.last_generation.wrapping_add(1).max(1);
        self.last_generation
    }

    /// Others draw so many generations.
    pub fn skip_generations(&mut self, by: u32) {
        self.last_generation = self.last_generation.wrapping_add(by);
    }

    fn put_attachment(&mut self, attachment: Attachment) {
        self.host.attachments.insert(SLOT, attachment);
        self.store_attachment();
    }

    fn store_attachment(&mut self) {
        let attachment = &self.host.attachments[&SLOT];
        let mut words = [0; ATTACHMENT_WORDS];
        words[0] = attachment.words[0].load();
        words[1] = attachment.words[1].load();
        words[2] = attachment.origin.load();
        for (pair, address) in words[3..].chunks_exact_mut(2).zip(&attachment.addresses) {
            let halves: [u64; 2] = bytemuck::cast(*address);
            pair.copy_from_slice(&halves);
        }
        self.attachments
            .set(SLOT, words, 0)
            .expect("the attachment is written");
    }
}
