// SPDX-License-Identifier: Apache-2.0 OR MIT
use std::io::Write;

/// Lines for people. What cannot be written is lost, because nobody could be told.
pub(crate) struct Log<'a> {
    out: &'a mut dyn Write,
}

impl<'a> Log<'a> {
    /// Lines to `out`.
    pub(crate) fn new(out: &'a mut dyn Write) -> Self {
        Self { out }
    }

    /// Writes one line.
    pub(crate) fn line(&mut self, text: &str) {
        drop(writeln!(self.out, "podgate: {text}"));
    }
}
