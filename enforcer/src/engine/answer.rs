// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What an ADD is answered, and when.

use std::time::Instant;

use podgate_datapath::record::AttachmentId;
use podgate_handoff::Reply;

use crate::source::Answer;

/// After how many failed attempts an ADD is told so.
const PATIENCE: u32 = 3;

/// How far an attachment has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Progress<'a> {
    /// It has no file.
    NoFile,
    /// Its policy is in force, and its addresses have their class.
    InForce,
    /// The source does not know its pod.
    NotKnown,
    /// Something of it is still to be written.
    Underway,
    /// All is written, and its interface does not obey: its filters run older tables, or others decide before them.
    Blocked {
        /// For people.
        why: &'a str,
        /// Whether its ADD has waited for the next look at interfaces in vain.
        for_long: bool,
    },
}

/// Whether the source was asked for the pod of an ADD that it had not told of.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) enum PodLookup {
    /// Not yet.
    #[default]
    None,
    /// It was, and has not answered.
    Open,
    /// It has said more than is known. It is asked again once that may be known, or then: it may have been known already, which
    /// the source could not tell.
    Behind(Instant),
    /// It has said what it knows, or cannot be asked at all.
    Done,
    /// It could not find out; why, for people.
    Failed(String),
}

impl From<Answer> for PodLookup {
    fn from(answer: Answer) -> Self {
        match answer {
            Answer::Known | Answer::Current | Answer::NoSuchPod | Answer::Isolation(_) => {
                Self::Done
            }
            Answer::Failed(why) => Self::Failed(why),
        }
    }
}

/// What stands in the way of the last change.
#[derive(Debug, Clone, Copy)]
pub(super) struct LastError<'a> {
    /// For people.
    pub(super) why: &'a str,
    /// How often in a row it failed.
    pub(super) attempts: u32,
}

impl Progress<'_> {
    /// The answer; none while it is worth waiting. While there is `more_to_come`, a pod may still become known.
    pub(super) fn reply(
        self,
        identity: &AttachmentId,
        inquiry: &PodLookup,
        trouble: Option<LastError<'_>>,
        more_to_come: bool,
    ) -> Option<Reply> {
        let given_up = trouble
            .filter(|trouble| trouble.attempts >= PATIENCE)
            .map(|trouble| Reply::Failed(trouble.why.to_owned()));
        match self {
            Self::InForce => Some(Reply::InForce),
            Self::NotKnown if more_to_come => None,
            Self::NotKnown => match inquiry {
                PodLookup::None | PodLookup::Open | PodLookup::Behind(_) => None,
                PodLookup::Done => Some(Reply::Unknown),
                PodLookup::Failed(why) => Some(Reply::Failed(why.clone())),
            },
            Self::Underway => given_up,
            Self::Blocked { why, for_long } => for_long
                .then(|| Reply::Failed(format!("attachment {identity} is not in force: {why}"))),
            // In trouble, its file may not have been read yet.
            Self::NoFile if trouble.is_some() => given_up,
            Self::NoFile => Some(Reply::Failed(format!(
                "there is no attachment file for {identity}: plugin and enforcer must have the same run directory"
            ))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_add_waits_exactly_while_waiting_may_help() {
        let identity = AttachmentId {
            container_id: "c".into(),
            ifname: "eth0".into(),
        };
        let trouble = |attempts| {
            Some(LastError {
                why: "full",
                attempts,
            })
        };
        let failed = Some(Reply::Failed("full".into()));
        for (progress, trouble, more_to_come, expected) in [
            (Progress::InForce, None, false, Some(Reply::InForce)),
            (Progress::InForce, trouble(9), true, Some(Reply::InForce)),
            (Progress::NotKnown, None, true, None),
            (Progress::NotKnown, None, false, Some(Reply::Unknown)),
            (Progress::Underway, None, false, None),
            (Progress::Underway, trouble(1), false, None),
            (Progress::Underway, trouble(PATIENCE), false, failed.clone()),
            (Progress::NoFile, trouble(1), false, None),
            (Progress::NoFile, trouble(PATIENCE), false, failed),
        ] {
            let reply = progress.reply(&identity, &PodLookup::Done, trouble, more_to_come);
            assert_eq!(reply, expected, "{progress:?} {trouble:?} {more_to_come}");
        }
        for (for_long, expected) in [
            (false, None),
            (
                true,
                Some(Reply::Failed(
                    "attachment c-eth0 is not in force: its qdisc".into(),
                )),
            ),
        ] {
            let why = "its qdisc";
            let blocked = Progress::Blocked { why, for_long };
            let reply = blocked.reply(&identity, &PodLookup::Done, None, false);
            assert_eq!(reply, expected, "{blocked:?}");
        }
        let missing = Progress::NoFile.reply(&identity, &PodLookup::None, None, true);
        assert!(matches!(missing, Some(Reply::Failed(why)) if why.contains("c-eth0")));
        let away = Answer::Failed("away".into());
        for (inquiry, expected) in [
            (PodLookup::None, None),
            (PodLookup::Open, None),
            (Answer::NoSuchPod.into(), Some(Reply::Unknown)),
            (Answer::Known.into(), Some(Reply::Unknown)),
            (Answer::Current.into(), Some(Reply::Unknown)),
            (away.into(), Some(Reply::Failed("away".into()))),
        ] {
            let reply = Progress::NotKnown.reply(&identity, &inquiry, None, false);
            assert_eq!(reply, expected, "{inquiry:?}");
            let underway = Progress::Underway.reply(&identity, &inquiry, None, false);
            assert_eq!(underway, None, "{inquiry:?}");
        }
    }
}
