// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What an engine keeps, by what it is for.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use imbl::OrdSet;
use podgate_datapath::Sizes;
use podgate_datapath::record::Slot;
use podgate_policy::compile::SubjectRulesets;
use podgate_policy::model::World;
use tokio::sync::mpsc::UnboundedSender;
use tokio::sync::watch;

use super::adds::Waiting;
use super::backoff::Backoff;
use super::build::{Built, Unswapped};
use super::crowded::Crowded;
use super::dataplane::Dataplane;
use super::directory::Directory;
use super::draft::Draft;
use super::execute::Execution;
use super::isolate::Held;
use super::isolated_file::IsolatedFile;
use super::links::Links;
use super::own_node::OwnNode;
use super::portion::Portion;
use super::report::Counted;
use super::unpaired::{Half, Unpaired};
use crate::cluster::Cluster;
use crate::condition::Condition;
use crate::guard::Guard;
use crate::plan::Rulesets;
use crate::source::{Question, SourceStatus};

/// What is known, and what is wrong with that.
#[derive(Debug)]
pub(super) struct Known {
    pub(super) cluster: Cluster,
    /// What is wrong with the source now.
    pub(super) source: SourceStatus,
    /// Why what it says is older than it should be, if that is known.
    pub(super) doubt: Option<String>,
    /// Files of attachments that cannot be read.
    pub(super) unreadable: Vec<String>,
    /// Where the others are, as it was when all of them were read.
    pub(super) directory: Directory,
}

impl Known {
    pub(super) fn new(cluster: Cluster, source: SourceStatus, unreadable: Vec<String>) -> Self {
        Self {
            cluster,
            source,
            doubt: None,
            unreadable,
            directory: Directory::default(),
        }
    }
}

/// What is in force, and what is on its way there.
#[derive(Debug)]
pub(super) struct Standing<S> {
    pub(super) built: Built<S>,
    /// What the last finished flips put in force.
    pub(super) rulesets: Rulesets,
    /// The facts of the last plan of facts.
    pub(super) facts: World,
    /// Whether `peers` lacks an address, whatever the facts are.
    pub(super) facts_missing: bool,
    /// When facts that merely went away are written at the latest.
    pub(super) facts_due: Option<Instant>,
    /// How much of them is planned at once.
    pub(super) portion: Portion,
    /// Attachments whose pod is not known.
    pub(super) unknown: OrdSet<Slot>,
    /// What the plugin finds of the namespaces with policies.
    pub(super) isolated_file: IsolatedFile,
    /// The plan that is being executed.
    pub(super) pending: Option<Pending>,
    /// Whether the last turn ended because its time was up.
    pub(super) more_to_do: bool,
}

impl<S> Standing<S> {
    pub(super) fn new(built: Built<S>, rulesets: Rulesets, isolated_file: IsolatedFile) -> Self {
        Self {
            built,
            rulesets,
            facts: World::default(),
            facts_missing: false,
            facts_due: None,
            portion: Portion::default(),
            unknown: OrdSet::new(),
            isolated_file,
            pending: None,
            more_to_do: false,
        }
    }
}

/// A plan on its way.
#[derive(Debug)]
pub(super) struct Pending {
    pub(super) execution: Execution,
    /// What is in force when it is executed; none unless it changes policy.
    pub(super) rulesets: Option<Rulesets>,
}

/// What keeps attachments from being judged by the policy that is known, by slot.
#[derive(Debug, Default)]
pub(super) struct Hindrances(BTreeMap<Slot, Hindrance>);

/// What keeps one.
#[derive(Debug, Default)]
pub(super) struct Hindrance {
    /// The source isolates it by more than is known of it, until it is known.
    pub(super) held: Option<Held>,
    /// Why it could not be isolated while its policy is not in force.
    pub(super) open: Option<String>,
    /// There is no room for its policy but in the table set that is being made.
    pub(super) held_back: Option<HeldBack>,
    /// Why its filters are still an older table set's.
    pub(super) unswapped: Option<String>,
    /// Who decides before us on its interface.
    pub(super) shadowed: Option<String>,
}

/// A policy that waits for another table set.
#[derive(Debug, Default)]
pub(super) struct HeldBack {
    /// The one that is known to take nothing from what stands.
    pub(super) compared: Option<Arc<SubjectRulesets>>,
}

impl Hindrance {
    /// Whether somebody has to hear of it.
    pub(super) const fn is_reason(&self) -> bool {
        self.open.is_some() || self.unswapped.is_some() || self.shadowed.is_some()
    }

    const fn is_none(&self) -> bool {
        let Self {
            held,
            open,
            held_back,
            unswapped,
            shadowed,
        } = self;
        held.is_none()
            && open.is_none()
            && held_back.is_none()
            && unswapped.is_none()
            && shadowed.is_none()
    }
}

impl Hindrances {
    pub(super) fn of(&self, slot: Slot) -> Option<&Hindrance> {
        self.0.get(&slot)
    }

    /// Changes those of one attachment.
    pub(super) fn update(&mut self, slot: Slot, change: impl FnOnce(&mut Hindrance)) {
        let hindrance = self.0.entry(slot).or_default();
        change(hindrance);
        if hindrance.is_none() {
            self.0.remove(&slot);
        }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (Slot, &Hindrance)> {
        self.0.iter().map(|(slot, it)| (*slot, it))
    }

    /// Changes those of each attachment that has any.
    pub(super) fn update_each(&mut self, mut change: impl FnMut(Slot, &mut Hindrance)) {
        self.0.retain(|slot, hindrance| {
            change(*slot, hindrance);
            !hindrance.is_none()
        });
    }

    /// Takes note of which filters could not be replaced by those of a new table set, and why.
    pub(super) fn not_swapped(&mut self, unswapped: Unswapped) {
        self.update_each(|_, it| it.unswapped = None);
        for (slot, why) in unswapped {
            self.update(slot, |it| it.unswapped = Some(why));
        }
    }

    /// Forgets those of all other attachments.
    pub(super) fn retain(&mut self, slots: &BTreeSet<Slot>) {
        self.0.retain(|slot, _| slots.contains(slot));
    }
}

/// The table set that is to take the place of the one in force.
#[derive(Debug)]
pub(super) struct Drafts<D: Dataplane> {
    pub(super) draft: Draft<D>,
    /// The addresses of attachments that came since it was begun, whether they are still there or not; none without a draft.
    pub(super) added: Option<BTreeSet<IpAddr>>,
    /// How many came to nothing in a row.
    pub(super) failed: u32,
    /// How large tables are to be, unless they must be larger.
    pub(super) sizes: Sizes,
    /// Whether some were larger than they need to be when they were looked at last.
    pub(super) seen_too_large: bool,
    /// When they are looked at next.
    pub(super) shrink_due: Instant,
}

impl<D: Dataplane> Drafts<D> {
    pub(super) const fn new(sizes: Sizes, now: Instant) -> Self {
        Self {
            draft: Draft::None,
            added: None,
            failed: 0,
            sizes,
            seen_too_large: false,
            shrink_due: now,
        }
    }
}

/// Who waits for an answer, and who is asked for it.
#[derive(Debug)]
pub(super) struct Adds {
    pub(super) waiting: Vec<Waiting>,
    /// Where the source takes questions; none if it tells all that it knows anyway.
    pub(super) questions: Option<UnboundedSender<Question>>,
}

/// What is tried again, and when.
#[derive(Debug)]
pub(super) struct Pace {
    /// Why the last attempt failed.
    pub(super) trouble: Option<String>,
    pub(super) backoff: Backoff,
    pub(super) upkeep_due: Instant,
    /// How many looks in a row left attachments with an older table set.
    pub(super) vain_looks: u32,
    /// How long this turn waited for the lock.
    pub(super) waited: Duration,
}

impl Pace {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            trouble: None,
            backoff: Backoff::default(),
            upkeep_due: now,
            vain_looks: 0,
            waited: Duration::ZERO,
        }
    }
}

/// What else is on the node, as far as policy depends on it.
#[derive(Debug)]
pub(super) struct Surroundings {
    /// What is wrong with the guard behind the filters.
    pub(super) guard: Guard,
    /// What is known of the node's interfaces.
    pub(super) links: Links,
    pub(super) own_node: OwnNode,
    pub(super) unattached: Unpaired,
    pub(super) unheard_of: Unpaired,
    pub(super) crowded: Crowded,
}

impl Surroundings {
    pub(super) fn new(guard: Guard) -> Self {
        Self {
            guard,
            links: Links::default(),
            own_node: OwnNode::default(),
            unattached: Unpaired::new(Half::Pod),
            unheard_of: Unpaired::new(Half::Attachment),
            crowded: Crowded::default(),
        }
    }
}

/// What was said of all this.
#[derive(Debug)]
pub(super) struct Reports {
    pub(super) condition: watch::Sender<Condition>,
    /// When figures were last published.
    pub(super) published: Instant,
    pub(super) counted: Counted,
}

impl Reports {
    pub(super) fn new(condition: watch::Sender<Condition>, now: Instant) -> Self {
        Self {
            condition,
            published: now,
            counted: Counted::default(),
        }
    }
}
