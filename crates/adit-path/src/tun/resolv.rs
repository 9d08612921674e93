//! `resolv.conf`, replaced while the device is there and put back after it.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, symlink};
use std::path::{Path, PathBuf};

use adit_tunnel::DnsConfig;
use rustix::io::Errno;

/// The first line of our own file: what does not begin with it is somebody else's, and stays.
const MARK: &str = "# Written by adit while its TUN device is up; the original comes back when it ends.\n";
const BACKUP: &str = "resolv.conf.original";
const LINK: &str = "resolv.conf.link";

/// A replaced `resolv.conf`.
#[derive(Debug)]
pub(crate) struct Resolv {
    path: PathBuf,
    state: PathBuf,
}

impl Resolv {
    /// Writes the tunnel's servers to `path` after the original was saved in the directory `state`.
    pub(crate) fn replace(path: &Path, state: &Path, dns: &DnsConfig) -> io::Result<Self> {
        let this = Self { path: path.to_owned(), state: state.to_owned() };
        this.save()?;
        put(path, contents(dns).as_bytes())?;
        Ok(this)
    }

    /// Puts the original back, if the file is still ours.
    pub(crate) fn restore(&self) -> io::Result<()> {
        restore(&self.path, &self.state)
    }

    /// Keeps what is there now: the text, and the target where the file is a link. An original that an earlier run
    /// saved and did not put back stays the original.
    fn save(&self) -> io::Result<()> {
        let text = match fs::read(&self.path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(error) => return Err(error),
        };
        let backup = self.state.join(BACKUP);
        if text.starts_with(MARK.as_bytes()) && backup.exists() {
            return Ok(());
        }
        let link = self.state.join(LINK);
        match fs::read_link(&self.path) {
            Ok(target) => private(&link, target.as_os_str().as_encoded_bytes())?,
            Err(_) => remove(&link)?,
        }
        private(&backup, &text)
    }
}

/// Puts back what an earlier run saved in `state`; returns whether there was something.
pub(crate) fn repair(path: &Path, state: &Path) -> io::Result<bool> {
    if !state.join(BACKUP).exists() {
        return Ok(false);
    }
    restore(path, state)?;
    Ok(true)
}

fn restore(path: &Path, state: &Path) -> io::Result<()> {
    let (backup, link) = (state.join(BACKUP), state.join(LINK));
    let ours = fs::read(path).is_ok_and(|text| text.starts_with(MARK.as_bytes()));
    if ours {
        let is_link = fs::symlink_metadata(path).is_ok_and(|metadata| metadata.is_symlink());
        match fs::read_to_string(&link) {
            Ok(target) if !is_link => {
                let beside = beside(path);
                remove(&beside)?;
                symlink(target, &beside)?;
                fs::rename(&beside, path)?;
            }
            _ => put(path, &fs::read(&backup)?)?,
        }
    }
    remove(&link)?;
    remove(&backup)
}

/// The servers of this machine's own `resolv.conf`: of the saved original where the file is ours.
pub(crate) fn servers(path: &Path, state: &Path) -> Vec<std::net::IpAddr> {
    let mut text = fs::read_to_string(path).unwrap_or_default();
    if text.starts_with(MARK) {
        text = fs::read_to_string(state.join(BACKUP)).unwrap_or_default();
    }
    text.lines()
        .filter_map(|line| line.trim().strip_prefix("nameserver"))
        .filter_map(|server| server.split_whitespace().next()?.parse().ok())
        .collect()
}

fn contents(dns: &DnsConfig) -> String {
    let mut text = MARK.to_owned();
    if !dns.search.is_empty() {
        text += &format!("search {}\n", dns.search.join(" "));
    }
    for server in &dns.servers {
        text += &format!("nameserver {server}\n");
    }
    text
}

/// Replaces the file in one step where it can be replaced. A mount point, as containers have it, cannot: it is written
/// in place.
fn put(path: &Path, text: &[u8]) -> io::Result<()> {
    let beside = beside(path);
    let replaced = (|| {
        remove(&beside)?;
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o644).open(&beside)?;
        file.write_all(text)?;
        fs::rename(&beside, path)
    })();
    let Err(error) = replaced else { return Ok(()) };
    // What could not be renamed must not stay.
    let _ = remove(&beside);
    let busy = [Errno::BUSY, Errno::XDEV].map(Errno::raw_os_error);
    let in_place = error.raw_os_error().is_some_and(|code| busy.contains(&code))
        || matches!(error.kind(), io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem);
    if !in_place {
        return Err(error);
    }
    File::options().write(true).truncate(true).open(path)?.write_all(text)
}

fn beside(path: &Path) -> PathBuf {
    path.with_file_name(".resolv.conf.adit")
}

/// Writes a file that only its owner reads.
pub(crate) fn private(path: &Path, text: &[u8]) -> io::Result<()> {
    let new = path.with_extension("new");
    remove(&new)?;
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new)?;
    file.write_all(text)?;
    file.sync_all()?;
    fs::rename(&new, path)
}

pub(crate) fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    struct Directory(PathBuf);

    impl Directory {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("adit-resolv-{name}-{}", std::process::id()));
            fs::create_dir_all(&path).unwrap();
            Self(path)
        }

        fn file(&self) -> PathBuf {
            self.0.join("resolv.conf")
        }
    }

    impl Drop for Directory {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn dns() -> DnsConfig {
        DnsConfig {
            servers: vec!["10.8.0.1".parse().unwrap()],
            search: vec!["corp.internal".to_owned()],
            routes: Vec::new(),
        }
    }

    #[test]
    fn the_original_comes_back() {
        let directory = Directory::new("plain");
        fs::write(directory.file(), "nameserver 192.0.2.1\n").unwrap();
        let resolv = Resolv::replace(&directory.file(), &directory.0, &dns()).unwrap();
        let ours = fs::read_to_string(directory.file()).unwrap();
        assert!(ours.ends_with("search corp.internal\nnameserver 10.8.0.1\n"), "{ours}");
        let mode = fs::metadata(directory.0.join(BACKUP)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        resolv.restore().unwrap();
        assert_eq!(fs::read_to_string(directory.file()).unwrap(), "nameserver 192.0.2.1\n");
        assert!(!directory.0.join(BACKUP).exists());
    }

    #[test]
    fn after_a_kill_the_next_start_still_knows_the_original() {
        let directory = Directory::new("killed");
        fs::write(directory.file(), "nameserver 192.0.2.1\n").unwrap();
        for _ in 0..2 {
            // The value is dropped without a word, as by SIGKILL.
            Resolv::replace(&directory.file(), &directory.0, &dns()).unwrap();
        }
        assert!(repair(&directory.file(), &directory.0).unwrap());
        assert_eq!(fs::read_to_string(directory.file()).unwrap(), "nameserver 192.0.2.1\n");
        assert!(!repair(&directory.file(), &directory.0).unwrap(), "there is nothing more to repair");
    }

    #[test]
    fn a_link_comes_back_as_a_link() {
        let directory = Directory::new("link");
        fs::write(directory.0.join("stub"), "nameserver 127.0.0.53\n").unwrap();
        symlink("stub", directory.file()).unwrap();
        let resolv = Resolv::replace(&directory.file(), &directory.0, &dns()).unwrap();
        assert_eq!(fs::read_to_string(directory.0.join("stub")).unwrap(), "nameserver 127.0.0.53\n");
        resolv.restore().unwrap();
        assert_eq!(fs::read_link(directory.file()).unwrap(), Path::new("stub"));
    }

    #[test]
    fn what_somebody_else_wrote_meanwhile_stays() {
        let directory = Directory::new("other");
        fs::write(directory.file(), "nameserver 192.0.2.1\n").unwrap();
        let resolv = Resolv::replace(&directory.file(), &directory.0, &dns()).unwrap();
        fs::write(directory.file(), "nameserver 192.0.2.2\n").unwrap();
        resolv.restore().unwrap();
        assert_eq!(fs::read_to_string(directory.file()).unwrap(), "nameserver 192.0.2.2\n");
    }

    #[test]
    fn the_servers_of_a_file_are_read() {
        let directory = Directory::new("servers");
        fs::write(
            directory.file(),
            "# nameserver 1.1.1.1\nnameserver 192.0.2.1 \nnameserver\tfd00::1\nsearch x\n",
        )
        .unwrap();
        let expected: Vec<std::net::IpAddr> = vec!["192.0.2.1".parse().unwrap(), "fd00::1".parse().unwrap()];
        assert_eq!(servers(&directory.file(), &directory.0), expected);
        Resolv::replace(&directory.file(), &directory.0, &dns()).unwrap();
        assert_eq!(servers(&directory.file(), &directory.0), expected, "while ours is in its place");
    }
}
