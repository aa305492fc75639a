// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What has come since the engine last looked: all of it at once, so that what matters most goes first.

use std::collections::BTreeSet;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::Duration;

use podgate_datapath::netlink::Ifindex;
use podgate_datapath::record::PodName;
use podgate_handoff::{AttachmentId, Reply, Request};
use tokio::sync::oneshot;

use crate::guard::Guard;
use crate::node::{Addresses, Noticed};
use crate::source::{Answer, News, Update};

/// A request of the plugin, and where its answer goes. An answer that nobody waits for any more is dropped.
#[derive(Debug)]
pub struct Handoff {
    /// What is asked.
    pub request: Request,
    /// Where the answer goes.
    pub reply: oneshot::Sender<Reply>,
}

/// Something for the engine.
#[derive(Debug)]
pub enum Event {
    /// A plugin asks.
    Handoff(Handoff),
    /// The source says something.
    Source(News),
    /// The node's kernel said something.
    Node(Noticed),
    /// What is wrong with the guard behind the filters, now that it is something else.
    Guard(Guard),
    /// The grace period that was begun last is over.
    GraceOver,
    /// The kernel refuses it. It is asked again.
    GraceRefused,
    /// A table set was made that had been begun, or could not be.
    Drafted,
    /// Somebody reads the metrics: count the kernel's first.
    Count(oneshot::Sender<()>),
    /// The enforcer stops. Filters, tables and pins stay.
    Stop,
}

/// Interfaces that must be looked at.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) enum Links {
    /// None of them.
    #[default]
    None,
    /// These.
    Some(BTreeSet<Ifindex>),
    /// All of them: the kernel dropped messages.
    All,
}

impl Links {
    fn add(&mut self, interface: Ifindex) {
        match self {
            Self::None => *self = Self::Some([interface].into()),
            Self::Some(interfaces) => drop(interfaces.insert(interface)),
            Self::All => {}
        }
    }

    /// Those of them that are among these; where any may have changed, all.
    pub(super) fn among(self, ours: &BTreeSet<Ifindex>) -> Self {
        match self {
            Self::None => Self::None,
            Self::All => Self::All,
            Self::Some(interfaces) => {
                let both: BTreeSet<_> = interfaces.intersection(ours).copied().collect();
                if both.is_empty() {
                    Self::None
                } else {
                    Self::Some(both)
                }
            }
        }
    }
}

/// Events by what is to be done about them.
#[derive(Debug, Default)]
pub(super) struct Inbox {
    /// What changes what is known, or what may be done.
    pub(super) heard: Heard,
    /// ADDs that wait until their attachment is in force.
    pub(super) adds: Vec<(AttachmentId, oneshot::Sender<Reply>)>,
    /// DELs; their attachments are gone already.
    pub(super) dels: Vec<oneshot::Sender<Reply>>,
    /// Questions whether an ADD could be served.
    pub(super) statuses: Vec<oneshot::Sender<Reply>>,
    /// Why the source had not said everything when it was last heard.
    pub(super) not_synced: Option<Vec<String>>,
    /// Where interfaces went away or filters changed.
    pub(super) links: Links,
    /// Interfaces that came or changed.
    pub(super) changed_links: BTreeSet<Ifindex>,
    /// Scrapes.
    pub(super) counts: Vec<oneshot::Sender<()>>,
    /// Whether the enforcer stops.
    pub(super) stop: bool,
}

/// What changes what is known, or what may be done.
#[derive(Debug, Default)]
pub(super) struct Heard {
    /// What the source said, all of it together.
    pub(super) source: Option<Update>,
    /// Answers of the source, some of them given before the last that it said.
    pub(super) answers: Vec<(PodName, Answer)>,
    /// The last that was said of whether the source knows what it should.
    pub(super) doubt: Option<Option<String>>,
    /// The newest addresses of the node.
    pub(super) node_addresses: Option<Addresses>,
    /// What is wrong with the guard, if that is something else now.
    pub(super) guard: Option<Guard>,
    /// Whether a grace period is over.
    pub(super) grace_is_over: bool,
    /// Whether the kernel refused one.
    pub(super) grace_was_refused: bool,
    /// Whether table sets that were begun are made, or could not be.
    pub(super) is_drafted: bool,
}

impl Heard {
    pub(super) fn is_anything(&self) -> bool {
        let Self {
            source,
            answers,
            doubt,
            node_addresses,
            guard,
            grace_is_over,
            grace_was_refused,
            is_drafted,
        } = self;
        source.is_some()
            || !answers.is_empty()
            || doubt.is_some()
            || node_addresses.is_some()
            || guard.is_some()
            || *grace_is_over
            || *grace_was_refused
            || *is_drafted
    }
}

impl Inbox {
    /// Waits for an event, at most so long, and takes all that are there. Nobody left to send any means stop.
    pub(super) fn gather(events: &Receiver<Event>, wait: Duration) -> Self {
        let mut inbox = Self::default();
        match events.recv_timeout(wait) {
            Ok(event) => inbox.put(event),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => inbox.stop = true,
        }
        while let Ok(event) = events.try_recv() {
            inbox.put(event);
        }
        inbox
    }

    fn put(&mut self, event: Event) {
        match event {
            Event::Handoff(Handoff { request, reply }) => match request {
                Request::Add(id) => self.adds.push((id, reply)),
                Request::Del(_) => self.dels.push(reply),
                Request::Status => self.statuses.push(reply),
            },
            Event::Source(News::Update(update)) => {
                let known = self.heard.source.get_or_insert_default();
                known.changes.extend(update.changes);
                known.wrong = update.wrong;
            }
            Event::Source(News::Answer(pod, answer)) => self.heard.answers.push((pod, answer)),
            Event::Source(News::Doubt(doubt)) => self.heard.doubt = Some(doubt),
            Event::Source(News::NotSynced(reasons)) => self.not_synced = Some(reasons),
            Event::Node(Noticed::Addresses(addresses)) => {
                self.heard.node_addresses = Some(addresses)
            }
            Event::Node(
                Noticed::LinkGone(interface)
                | Noticed::MasterChanged(interface)
                | Noticed::FiltersChanged(interface),
            ) => self.links.add(interface),
            Event::Guard(guard) => self.heard.guard = Some(guard),
            Event::Node(Noticed::LinkChanged(interface)) => {
                self.changed_links.insert(interface);
            }
            Event::Node(Noticed::Lost) => self.links = Links::All,
            Event::GraceOver => self.heard.grace_is_over = true,
            Event::GraceRefused => self.heard.grace_was_refused = true,
            Event::Drafted => self.heard.is_drafted = true,
            Event::Count(done) => self.counts.push(done),
            Event::Stop => self.stop = true,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;
    use std::sync::mpsc::channel;

    use super::*;
    use crate::source::{Change, SourceStatus};

    const LONG: Duration = Duration::from_secs(10);

    fn handoff(request: Request) -> Event {
        Event::Handoff(Handoff {
            request,
            reply: oneshot::channel().0,
        })
    }

    fn id(container_id: &str) -> AttachmentId {
        AttachmentId {
            container_id: container_id.into(),
            ifname: "eth0".into(),
        }
    }

    /// Interfaces of others count as none, and where any interface may have changed, all have.
    #[test]
    fn other_links_are_none_and_if_any_may_have_changed_all_have() {
        let ours = [Ifindex(7), Ifindex(8)].into();
        let some =
            |interfaces: &[u32]| Links::Some(interfaces.iter().copied().map(Ifindex).collect());
        assert_eq!(some(&[6, 9]).among(&ours), Links::None);
        assert_eq!(some(&[6, 7]).among(&ours), some(&[7]));
        assert_eq!(Links::None.among(&ours), Links::None);
        assert_eq!(Links::All.among(&ours), Links::All);
    }

    /// Everything that is there is taken at once, and changes of the source stay in order.
    #[test]
    fn events_are_taken_at_once_and_source_changes_stay_in_order() {
        let (out, events) = channel();
        let addresses = Addresses {
            own: [IpAddr::from([192, 0, 2, 1])].into(),
            ..Addresses::default()
        };
        let update = |name: &str, error: &str| Update {
            changes: vec![Change::Namespace(name.to_owned(), None)],
            wrong: SourceStatus {
                errors: vec![error.to_owned()],
                warnings: Vec::new(),
            },
        };
        for event in [
            Event::Source(News::Update(update("a", "mended"))),
            handoff(Request::Add(id("c1"))),
            Event::Source(News::Update(update("b", "new"))),
            Event::Node(Noticed::Addresses(addresses.clone())),
            Event::Node(Noticed::LinkGone(Ifindex(7))),
            handoff(Request::Del(id("c0"))),
            handoff(Request::Add(id("c2"))),
            handoff(Request::Status),
        ] {
            out.send(event).unwrap();
        }
        let inbox = Inbox::gather(&events, LONG);
        let adds: Vec<_> = inbox.adds.into_iter().map(|(id, _)| id).collect();
        assert_eq!(adds, [id("c1"), id("c2")]);
        assert_eq!((inbox.dels.len(), inbox.statuses.len()), (1, 1));
        let source = inbox.heard.source.unwrap();
        let gone = |name: &str| Change::Namespace(name.to_owned(), None);
        assert_eq!(source.changes, [gone("a"), gone("b")]);
        assert_eq!(source.wrong.errors, ["new"]);
        assert_eq!(inbox.heard.node_addresses, Some(addresses));
        assert_eq!(inbox.links, Links::Some([Ifindex(7)].into()));
        assert!(!inbox.stop);
    }

    #[test]
    fn nothing_to_do_is_an_empty_inbox_and_nobody_left_means_stop() {
        let (out, events) = channel();
        assert!(!Inbox::gather(&events, Duration::ZERO).stop);
        drop(out);
        assert!(Inbox::gather(&events, LONG).stop);
    }
}
