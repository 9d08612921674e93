//! Programs as `nobody`: no capabilities, none to be had, no new privileges, no /dev/net/tun.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use super::laboratory::{Lab, NOBODY};
use super::process::run;

/// What a shell does as root before it becomes the program: hide the devices, drop everything.
const BECOME_NOBODY: &str = "mount -t tmpfs -o mode=0755 none /dev/net && \
    exec setpriv --reuid 65534 --regid 65534 --clear-groups --inh-caps=-all --bounding-set=-all --no-new-privs -- \"$@\"";

impl Lab {
    /// A command that runs as `nobody` in the client's namespace. Its environment holds nothing of the test's.
    pub(crate) fn nobody(&self, program: impl AsRef<OsStr>) -> Command {
        self.nobody_where("true", program)
    }

    /// Like [`Self::nobody`], after root has run a line of shell in the program's mount namespace.
    pub(crate) fn nobody_where(&self, prepared: &str, program: impl AsRef<OsStr>) -> Command {
        let mut command = self.client.command("sh");
        // A namespace's command has a mount namespace of its own, so hiding /dev/net is not seen elsewhere.
        command.arg("-c").arg(format!("{prepared} && {BECOME_NOBODY}")).arg("nobody").arg(program);
        command.env_clear().envs(plain_environment()).env("XDG_RUNTIME_DIR", self.run_dir());
        command.current_dir(self.home());
        command
    }

    /// The release binary as `nobody`.
    pub(crate) fn adit(&self, arguments: &[&str]) -> Command {
        let mut command = self.nobody(self.binary());
        command.args(arguments);
        command
    }

    /// A copy of the release binary where everybody can reach it.
    pub(crate) fn binary(&self) -> PathBuf {
        let copy = self.dir.path().join("adit");
        if !copy.exists() {
            let built = std::env::var_os("ADIT_BIN").expect("checked before the laboratory was built");
            // By a process of its own: one that another test starts meanwhile would hold our descriptor for writing, and
            // nobody may execute the copy before that process has become its program.
            let mut command = Command::new("install");
            run(command.args(["-m", "0755"]).arg(built).arg(&copy), Duration::from_secs(60)).expect(0);
        }
        copy
    }

    /// A directory that `nobody` owns, and where its programs start.
    pub(crate) fn home(&self) -> PathBuf {
        own(&self.dir.path().join("home"))
    }

    /// The runtime directory of `nobody`.
    pub(crate) fn run_dir(&self) -> PathBuf {
        own(&self.dir.path().join("run"))
    }
}

/// Creates a directory for `nobody` alone, unless it is there.
fn own(path: &Path) -> PathBuf {
    if !path.exists() {
        fs::create_dir(path).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(0o700)).unwrap();
        std::os::unix::fs::chown(path, Some(NOBODY), Some(NOBODY)).unwrap();
    }
    path.to_path_buf()
}

/// The environment of a sandbox.
pub(crate) fn plain_environment() -> [(&'static str, &'static str); 4] {
    [
        ("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"),
        ("HOME", "/nonexistent"),
        ("LANG", "C.UTF-8"),
        ("TERM", "dumb"),
    ]
}
