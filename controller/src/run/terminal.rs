//! Where the command talks to its user.

use std::fmt::Display;
use std::io::Write;

/// The stream for what people read: another one than an access log that programs read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Terminal {
    Stdout,
    Stderr,
}

impl Terminal {
    /// Prints a line. That nobody reads any more is no reason to end.
    pub(super) fn say(self, line: impl Display) {
        let _ = match self {
            Self::Stdout => writeln!(std::io::stdout(), "{line}"),
            Self::Stderr => writeln!(std::io::stderr(), "{line}"),
        };
    }
}
