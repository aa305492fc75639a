// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What has to be written and removed so that our plugin is in the chain that the runtime reads, one act at a time.

use std::fmt;
use std::time::{Duration, Instant};

use crate::directory::Directory;
use crate::entry::Entry;
use crate::network::{Malformed, Network, Notice, Refusal};

#[cfg(test)]
mod tests;

/// How long the network may be without a file before ours goes, too: writers that delete and create again take less, and a node
/// must not go on claiming a network that its CNI plugin has left.
pub const GONE: Duration = Duration::from_secs(5);

/// How our plugin comes into the chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// By a conflist of our own, which sorts before the network's and repeats it. Who writes the network's file again, as
    /// aws-node does at each start, does not take us out.
    Own,
    /// By a file in the network's drop-in directory, which runtimes with libcni 1.3.0 read (containerd 2.1 and newer).
    DropIn,
    /// In the network's own file.
    Edit,
    /// Somebody else puts it there: we say whether it is.
    None,
    /// Not at all: ours is taken out of whatever it is in.
    Remove,
}

/// The names of our own files.
#[derive(Debug, Clone)]
pub struct Names {
    /// The conflist of mode `own`, in the directory.
    pub own: String,
    /// The file of mode `drop-in`, in the directory that has the network's name.
    pub drop_in: String,
}

impl Default for Names {
    fn default() -> Self {
        Self {
            own: "05-podgate.conflist".into(),
            drop_in: "50-podgate.conf".into(),
        }
    }
}

impl Names {
    /// Whether the file is one that only we write.
    fn are_ours(&self, path: &str) -> bool {
        path == self.own
            || path
                .split_once('/')
                .is_some_and(|(_, file)| file == self.drop_in)
    }
}

/// Something to do to the directory, as one atomic step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Act {
    /// The file has to hold this text.
    Write {
        /// Relative to the directory.
        path: String,
        /// All of it.
        text: String,
    },
    /// The file has to go.
    Remove {
        /// Relative to the directory.
        path: String,
    },
}

/// Whether the next pod is set up by our plugin.
#[derive(Debug)]
pub enum Chain {
    /// It is in the network that the runtime reads.
    Joined {
        /// The file.
        file: String,
        /// What a person should know of it.
        notices: Vec<Notice>,
    },
    /// It is not.
    Absent(Absence),
}

/// Why our plugin is not in the chain.
#[derive(Debug)]
pub enum Absence {
    /// There is no network.
    NoNetwork,
    /// A file that sorts before ours, and before the network's, has another chain.
    Before {
        /// What the runtime reads.
        file: String,
        /// What it should read.
        own: String,
    },
    /// What the runtime reads is no network.
    Unreadable {
        /// The file.
        file: String,
        /// What is wrong with it.
        why: Malformed,
    },
    /// Our plugin cannot be in this chain.
    Refused(Refusal),
    /// The network's file does not name our plugin (mode `none`, and while something is still to be done).
    NotNamed {
        /// The file.
        file: String,
    },
}

impl fmt::Display for Absence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoNetwork => f.write_str(
                "the directory has no network yet: podgate joins the chain when its CNI plugin has written one",
            ),
            Self::Before { file, own } => write!(
                f,
                "{file} sorts before {own}, so the runtime reads it, and podgate is not in its chain: rename it, have podgate's \
                 file sort before it (--own-file), or have podgate written into it (--chain-earlier)"
            ),
            Self::Unreadable { file, why } => write!(
                f,
                "{file} is no network that a runtime can load: {why}; podgate's own file stays as it is until it is one"
            ),
            Self::Refused(why) => write!(f, "podgate is not put into the chain: {why}"),
            Self::NotNamed { file } => write!(f, "the chain in {file} does not name podgate"),
        }
    }
}

/// What to do now.
#[derive(Debug)]
pub struct Step {
    /// The next act; none where all is as it should be. After an act the directory is looked at again.
    pub act: Option<Act>,
    /// Whether the next pod would be ours, with the directory as it is.
    pub chain: Chain,
    /// When to look again, though nothing changed.
    pub again: Option<Instant>,
}

/// Keeps the chain of one directory.
#[derive(Debug)]
pub struct Healing {
    mode: Mode,
    entry: Entry,
    names: Names,
    chain_earlier: bool,
    /// Since when the network has had no file, while ours is there.
    gone_since: Option<Instant>,
}

/// What a mode wants of the directory.
enum Wish {
    /// This file with this text, and none of our other files.
    File { path: String, text: String },
    /// None of our files.
    Nothing,
    /// What is there, for now.
    Keep { until: Option<Instant> },
}

impl Healing {
    /// Nothing is known of the directory yet.
    ///
    /// `chain_earlier` has our plugin written into a file that sorts before ours, too.
    #[must_use]
    pub fn new(mode: Mode, entry: Entry, names: Names, chain_earlier: bool) -> Self {
        Self {
            mode,
            entry,
            names,
            chain_earlier,
            gone_since: None,
        }
    }

    /// The next act, with the directory as it is at this time.
    pub fn step(&mut self, directory: &Directory, now: Instant) -> Step {
        let (wish, refusal) = match self.wish(directory, now) {
            Ok(wish) => (wish, None),
            Err(refusal) => (Wish::Keep { until: None }, Some(refusal)),
        };
        let chain = match (self.chain(directory), refusal) {
            (Chain::Absent(_), Some(refusal)) => Chain::Absent(Absence::Refused(refusal)),
            (chain, _) => chain,
        };
        let (act, again) = match wish {
            Wish::Keep { until } => (None, until),
            Wish::Nothing => (self.stale(directory, None), None),
            Wish::File { path, text } => {
                let act = if directory.get(&path) == Some(text.as_bytes()) {
                    self.earlier(directory)
                        .or_else(|| self.stale(directory, Some(&path)))
                } else {
                    Some(Act::Write { path, text })
                };
                (act, None)
            }
        };
        Step { act, chain, again }
    }

    fn wish(&mut self, directory: &Directory, now: Instant) -> Result<Wish, Refusal> {
        let primary = match self.mode {
            Mode::Own => directory.after(&self.names.own),
            Mode::DropIn | Mode::Edit | Mode::None => directory.besides(&self.names.own),
            Mode::Remove => return Ok(self.without(directory)),
        };
        let (file, network) = match primary {
            Some((file, Ok(network))) => (file, network),
            // Half a file may be a whole one in a moment.
            Some((_, Err(_))) => {
                self.gone_since = None;
                return Ok(Wish::Keep { until: None });
            }
            None => return Ok(self.outlive(directory, now)),
        };
        self.gone_since = None;
        Ok(match self.mode {
            Mode::Own => Wish::File {
                path: self.names.own.clone(),
                text: network.with(&self.entry)?,
            },
            Mode::DropIn => Wish::File {
                path: self.drop_in_of(&network),
                text: network.drop_in(&self.entry)?,
            },
            Mode::Edit => Wish::File {
                path: file.to_owned(),
                text: network.edited(&self.entry)?,
            },
            Mode::None | Mode::Remove => Wish::Nothing,
        })
    }

    /// No network: ours, which repeats one, stays for a while.
    fn outlive(&mut self, directory: &Directory, now: Instant) -> Wish {
        if directory.paths().all(|path| !self.names.are_ours(path)) {
            self.gone_since = None;
            return Wish::Keep { until: None };
        }
        let until = *self.gone_since.get_or_insert(now) + GONE;
        if now < until {
            Wish::Keep { until: Some(until) }
        } else {
            Wish::Nothing
        }
    }

    /// Ours out of the first file that has it, and then our own files.
    fn without(&self, directory: &Directory) -> Wish {
        let named = directory.networks().find_map(|(file, network)| {
            let network = network.ok().filter(Network::has_ours)?;
            let text = network.without()?;
            (file != self.names.own).then(|| (file.to_owned(), text))
        });
        match named {
            Some((path, text)) => Wish::File { path, text },
            None => Wish::Nothing,
        }
    }

    /// A file that sorts before ours, with our plugin in it.
    fn earlier(&self, directory: &Directory) -> Option<Act> {
        let (file, network) = directory.first()?;
        if self.mode != Mode::Own || !self.chain_earlier || file == self.names.own {
            return None;
        }
        let text = network.ok()?.edited(&self.entry).ok()?;
        (directory.get(file) != Some(text.as_bytes())).then(|| Act::Write {
            path: file.to_owned(),
            text,
        })
    }

    /// One of our files that no longer has to be there, as after a change of mode.
    fn stale(&self, directory: &Directory, wanted: Option<&str>) -> Option<Act> {
        directory
            .paths()
            .find(|path| self.names.are_ours(path) && Some(*path) != wanted)
            .map(|path| Act::Remove {
                path: path.to_owned(),
            })
    }

    fn chain(&self, directory: &Directory) -> Chain {
        let Some((file, network)) = directory.first() else {
            return Chain::Absent(Absence::NoNetwork);
        };
        let file = file.to_owned();
        let network = match network {
            Ok(network) => network,
            Err(why) => return Chain::Absent(Absence::Unreadable { file, why }),
        };
        let dropped_in =
            self.mode == Mode::DropIn && directory.get(&self.drop_in_of(&network)).is_some();
        if network.has_ours() || dropped_in {
            Chain::Joined {
                file,
                notices: network.notices().collect(),
            }
        } else if self.mode == Mode::Own && file < self.names.own {
            Chain::Absent(Absence::Before {
                file,
                own: self.names.own.clone(),
            })
        } else {
            Chain::Absent(Absence::NotNamed { file })
        }
    }

    fn drop_in_of(&self, network: &Network) -> String {
        format!("{}/{}", network.name(), self.names.drop_in)
    }
}
