//! Where configuration is looked for.

use std::path::{Path, PathBuf};

/// The surroundings that decide where configuration is looked for.
#[derive(Clone, Debug)]
pub struct Place {
    /// The working directory.
    pub directory: PathBuf,
    /// `$XDG_CONFIG_HOME`, or `$HOME/.config`.
    pub config_home: Option<PathBuf>,
}

impl Place {
    /// Of this process.
    pub fn here() -> Self {
        let absolute =
            |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
        Self {
            directory: PathBuf::from("."),
            config_home: absolute("XDG_CONFIG_HOME").or_else(|| Some(absolute("HOME")?.join(".config"))),
        }
    }
}

/// The files that are looked for, the first one first.
pub fn search(place: &Place) -> Vec<PathBuf> {
    let local = |name: &str| {
        if place.directory == Path::new(".") { PathBuf::from(name) } else { place.directory.join(name) }
    };
    let mut files = vec![local("adit.toml"), local(".adit.toml")];
    files.extend(place.config_home.iter().map(|home| home.join("adit/config.toml")));
    files.push(PathBuf::from("/etc/adit/config.toml"));
    files
}
