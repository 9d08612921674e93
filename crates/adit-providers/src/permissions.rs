//! Who else can read a file with a secret in it.

use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use rustix::fs::{StatVfsMountFlags, fstatfs, fstatvfs};

use crate::Problem;

/// The `f_type` of tmpfs (`statfs(2)`).
const TMPFS_MAGIC: u64 = 0x0102_1994;

/// Who else can read a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Exposure {
    /// Nobody but the owner and root.
    Private,
    /// Others could, but the file stands where orchestrators put secrets with open modes.
    Tolerated {
        /// The permission bits.
        mode: u32,
        /// What makes it tolerable.
        why: &'static str,
    },
    /// Others can.
    Exposed {
        /// The permission bits.
        mode: u32,
    },
}

/// Looks at an open file. Pipes, sockets and devices are private: nobody else has this end of them.
///
/// # Errors
///
/// The file cannot be inspected.
pub fn exposure(file: &File, path: &Path) -> io::Result<Exposure> {
    let metadata = file.metadata()?;
    let mode = metadata.mode() & 0o777;
    if !metadata.is_file() || mode & 0o066 == 0 {
        return Ok(Exposure::Private);
    }
    let under_secrets = ["/run/secrets", "/var/run/secrets"].iter().any(|root| path.starts_with(root));
    let why = if under_secrets {
        "it is under /run/secrets"
    } else if fstatfs(file).is_ok_and(|stat| stat.f_type as u64 == TMPFS_MAGIC) {
        "it is in memory (tmpfs)"
    } else if metadata.uid() == 0
        && fstatvfs(file).is_ok_and(|stat| stat.f_flag.contains(StatVfsMountFlags::RDONLY))
    {
        "it is root's, on a read-only mount"
    } else {
        return Ok(Exposure::Exposed { mode });
    };
    Ok(Exposure::Tolerated { mode, why })
}

impl Exposure {
    /// The rule: a private file passes, a tolerated one passes with a warning, and an exposed one is refused
    /// unless that was allowed (`--insecure-perms`), which leaves a warning too.
    ///
    /// # Errors
    ///
    /// The file is exposed.
    pub fn judge(&self, path: &Path, insecure_perms: bool) -> Result<Option<Problem>, Problem> {
        let problem = |mode: u32| {
            Problem::new("credential.permissions", format!("{} can be read by other users", path.display()))
                .seen(format!("its mode is {mode:04o}"))
                .fix(format!("chmod 600 {}", path.display()))
        };
        match self {
            Self::Private => Ok(None),
            Self::Tolerated { mode, why } => Ok(Some(problem(*mode).seen(*why))),
            Self::Exposed { mode } if insecure_perms => {
                Ok(Some(problem(*mode).seen("--insecure-perms allows it")))
            }
            Self::Exposed { mode } => {
                Err(problem(*mode).fix("or accept it, where no other users are: --insecure-perms"))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_exposed_file_is_refused_with_the_fix_unless_allowed() {
        let path = Path::new("lab.conf");
        let exposed = Exposure::Exposed { mode: 0o644 };
        let problem = exposed.judge(path, false).unwrap_err();
        assert_eq!(problem.class, "credential.permissions");
        assert_eq!(
            (problem.evidence[0].as_str(), problem.fix[0].as_str()),
            ("its mode is 0644", "chmod 600 lab.conf")
        );
        assert!(exposed.judge(path, true).unwrap().is_some());
        assert!(Exposure::Private.judge(path, false).unwrap().is_none());
        assert!(Exposure::Tolerated { mode: 0o444, why: "x" }.judge(path, false).unwrap().is_some());
    }
}
