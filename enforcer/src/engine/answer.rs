//! What an ADD is answered, and when.

use podgate_datapath::record::Identity;
use podgate_handoff::Reply;

/// After how many failed attempts an ADD is told so.
const PATIENCE: u32 = 3;

/// How far an attachment has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Progress {
    /// It has no file.
    NoFile,
    /// Its policy is in force, and its addresses have their class.
    InForce,
    /// The source does not know its pod.
    NotKnown,
    /// Something of it is still to be written.
    Underway,
}

/// What stands in the way of the last change.
#[derive(Debug, Clone, Copy)]
pub(super) struct Trouble<'a> {
    /// For people.
    pub(super) why: &'a str,
    /// How often in a row it failed.
    pub(super) attempts: u32,
}

impl Progress {
    /// The answer; none while it is worth waiting. While there is `more_to_come`, a pod may still become known.
    pub(super) fn reply(
        self,
        identity: &Identity,
        trouble: Option<Trouble<'_>>,
        more_to_come: bool,
    ) -> Option<Reply> {
        let given_up = trouble
            .filter(|trouble| trouble.attempts >= PATIENCE)
            .map(|trouble| Reply::Failed(trouble.why.to_owned()));
        match self {
            Self::InForce => Some(Reply::InForce),
            Self::NotKnown => (!more_to_come).then_some(Reply::Unknown),
            Self::Underway => given_up,
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
        let identity = Identity {
            container_id: "c".into(),
            ifname: "eth0".into(),
        };
        let trouble = |attempts| {
            Some(Trouble {
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
            let reply = progress.reply(&identity, trouble, more_to_come);
            assert_eq!(reply, expected, "{progress:?} {trouble:?} {more_to_come}");
        }
        let missing = Progress::NoFile.reply(&identity, None, true);
        assert!(matches!(missing, Some(Reply::Failed(why)) if why.contains("c-eth0")));
    }
}
