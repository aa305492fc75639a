// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The oldest kernel that podgate is tested on, and the refusal of older ones.
//!
//! Loading the object is the probe for what a kernel can do: the verifier refuses a helper or an instruction that it does
//! not know, and the error names it. That does not show whether what loads also judges packets as on the kernels of level
//! `kernels` (an older kernel with backports loads it), so the release is asked first.

use std::{fmt, io};

use crate::{Failed, sys};

/// Major and minor number of a release.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Release {
    major: u32,
    minor: u32,
}

impl fmt::Display for Release {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

/// The oldest release that podgate supports: the first row of `tests/kernels/pins`.
pub const OLDEST: Release = Release {
    major: 5,
    minor: 10,
};

/// Why podgate does not run on this kernel.
#[derive(Debug, thiserror::Error)]
pub enum Unsupported {
    /// It could not be asked.
    #[error(transparent)]
    Failed(#[from] Failed),
    /// It is older than [`OLDEST`], or says something that is no release.
    #[error(
        "Linux {release} is not {OLDEST} or newer, which podgate needs: upgrade the node's kernel, \
         or take podgate out of the node's CNI configuration"
    )]
    TooOld {
        /// As `uname -r` prints it.
        release: String,
    },
}

/// Refuses a kernel that is older than [`OLDEST`].
///
/// # Errors
/// When this kernel is, or does not say what it is.
pub fn require() -> Result<(), Unsupported> {
    let release =
        sys::release().map_err(|e: io::Error| Failed::new("ask", "the kernel's release", e))?;
    supported(&release)
}

/// Whether a release as `uname -r` prints it is supported; one that cannot be read is not.
fn supported(release: &str) -> Result<(), Unsupported> {
    match parse(release) {
        Some(release) if release >= OLDEST => Ok(()),
        Some(_) | None => Err(Unsupported::TooOld {
            release: release.to_owned(),
        }),
    }
}

/// `5.10.0-46-cloud-amd64` is 5.10, `6.18-rc1` is 6.18.
fn parse(release: &str) -> Option<Release> {
    let (major, rest) = release.split_once('.')?;
    let end = rest
        .find(|character: char| !character.is_ascii_digit())
        .unwrap_or(rest.len());
    let number = |digits: &str| -> Option<u32> {
        // `u32` would take a sign.
        digits
            .bytes()
            .all(|byte| byte.is_ascii_digit())
            .then(|| digits.parse().ok())?
    };
    Some(Release {
        major: number(major)?,
        minor: number(&rest[..end])?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_release_from_the_oldest_on_is_supported() {
        for release in [
            "5.10.0-46-cloud-amd64",
            "5.10",
            "5.10-rc1",
            "5.100.1",
            "6.1.0-50-cloud-amd64",
            "6.12.117+deb13-cloud-amd64",
            "7.3.4+deb13-cloud-amd64",
            "10.0.1",
        ] {
            supported(release).unwrap();
        }
    }

    #[test]
    fn an_older_release_or_none_is_refused_in_one_sentence() {
        for release in [
            "5.9.16",
            "5.1.10",
            "4.19.0-27-amd64",
            "4.18.0-553.el8_10.x86_64",
            "2.6.78",
            "5",
            "",
            "5.",
            ".10",
            "+5.10.1",
            "5.+10",
            "five.ten",
            "v5.10",
            "99999999999.1",
        ] {
            let error = supported(release).unwrap_err().to_string();
            assert_eq!(
                error,
                format!(
                    "Linux {release} is not 5.10 or newer, which podgate needs: upgrade the node's kernel, or take \
                     podgate out of the node's CNI configuration"
                )
            );
        }
    }

    #[test]
    fn this_kernel_says_its_release() {
        require().unwrap();
    }
}
