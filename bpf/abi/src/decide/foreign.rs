// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Foreign addresses: a pod may have what no pod, node or Service has, as far as the mode of its attachment goes.
//!
//! Only packets with an address that is not the pod's own come here.

use super::PolicyView;
use crate::{Address, Attachment, Broadcasts, RulesetId, Tables};

/// Whether an address may be foreign: no pod, node or Service is known to have it.
///
/// Asked once, unlike [`super::peer_word`]: the kernel does not use a node of a trie again while a program may read it.
#[inline(always)]
pub fn may_be_foreign<T: Tables>(tables: &T, address: Address) -> bool {
    address.is_ordinary() && !tables.is_taken(address)
}

/// Whether the pod may be at an address that is not its own.
#[inline(always)]
pub(super) fn admits<T: Tables>(
    tables: &T,
    attachment: &Attachment,
    view: &PolicyView,
    address: Address,
) -> bool {
    let is_isolated = view.to_pod.ruleset() != RulesetId::ALLOW_ALL
        || view.from_pod.ruleset() != RulesetId::ALLOW_ALL;
    attachment.link().admits_foreign(is_isolated)
        && !Broadcasts(attachment.broadcasts.load()).holds(address)
        && tables.may_be_foreign(address)
}

/// Whether the pod may tell its neighbors that an address is its own.
#[inline(always)]
pub(super) fn may_claim<T: Tables>(tables: &T, attachment: &Attachment, address: Address) -> bool {
    attachment.owns(address)
        || (attachment.link().speaks_for_foreign()
            && !Broadcasts(attachment.broadcasts.load()).holds(address)
            && tables.may_be_foreign(address))
}
