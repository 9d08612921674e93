//! A node that outlives the process: its keys in the state directory, so that one sign-in serves many runs.

use std::path::Path;

use adit_tailscale::{Keys, NodeKey, SecretKey};
use serde::{Deserialize, Serialize};
use zeroize::{Zeroize as _, Zeroizing};

use super::keys::{Identity, secret};
use super::url::ControlUrl;
use crate::{Problem, StateDir};

/// The name in the state directory.
const FILE: &str = "tailscale.json";

/// What is kept. The key of path discovery is new in every process.
#[derive(Serialize, Deserialize)]
struct Stored {
    version: u32,
    /// The server that knows the node: another one knows nothing of it.
    control: String,
    machine: String,
    node: String,
    log_id: String,
}

impl Drop for Stored {
    fn drop(&mut self) {
        self.machine.zeroize();
        self.node.zeroize();
    }
}

/// The control server of the node that is kept in a directory, which is not opened for it: nothing is locked. `None` if there
/// is no node, or none that can be read.
pub fn kept_control(directory: &Path) -> Option<ControlUrl> {
    let bytes = Zeroizing::new(std::fs::read(directory.join(FILE)).ok()?);
    let stored: Stored = serde_json::from_slice(&bytes).ok()?;
    ControlUrl::parse(&stored.control).ok()
}

impl Identity {
    /// The node that was kept for this server; `None` if there is none.
    ///
    /// # Errors
    ///
    /// What was kept cannot be read (`config.file`), or the system has no randomness.
    pub fn load(state: &StateDir, control: &ControlUrl) -> Result<Option<Self>, Problem> {
        let wrong = |why: String| {
            Problem::new("config.file", format!("{FILE} in the state directory cannot be used"))
                .seen(why)
                .fix("delete it and sign in again")
        };
        let Some(bytes) = state.read(FILE).map_err(|error| wrong(error.to_string()))? else {
            return Ok(None);
        };
        let bytes = Zeroizing::new(bytes);
        // The message of the parser can quote the text.
        let stored: Stored =
            serde_json::from_slice(&bytes).map_err(|_| wrong("it is not what was written".to_owned()))?;
        if stored.version != 1 {
            return Err(wrong(format!("its version is {}", stored.version)));
        }
        if stored.control != control.to_string() {
            return Ok(None);
        }
        let key = |text: &str| unhex(text).ok_or_else(|| wrong("a key is damaged".to_owned()));
        let disco = secret().map_err(|error| wrong(error.to_string()))?;
        Ok(Some(Self {
            machine: key(&stored.machine)?,
            keys: Keys { node: key(&stored.node)?, disco },
            log_id: stored.log_id.clone(),
        }))
    }

    /// Keeps the node.
    ///
    /// # Errors
    ///
    /// The state directory cannot be written.
    pub fn save(&self, state: &StateDir, control: &ControlUrl) -> std::io::Result<()> {
        let stored = Stored {
            version: 1,
            control: control.to_string(),
            machine: hex(&self.machine),
            node: hex(&self.keys.node),
            log_id: self.log_id.clone(),
        };
        let bytes = Zeroizing::new(serde_json::to_vec(&stored).map_err(std::io::Error::other)?);
        state.write(FILE, &bytes)
    }

    /// Forgets what was kept, after the node has left.
    ///
    /// # Errors
    ///
    /// The state directory cannot be written.
    pub fn forget(state: &StateDir) -> std::io::Result<()> {
        state.remove(FILE)
    }
}

fn hex(key: &SecretKey) -> String {
    key.as_bytes().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// 64 digits; their reader is that of public keys.
fn unhex(text: &str) -> Option<SecretKey> {
    let prefixed = Zeroizing::new(format!("nodekey:{text}"));
    let mut key: NodeKey = prefixed.parse().ok()?;
    let secret = SecretKey::from_bytes(key.0);
    key.0.zeroize();
    Some(secret)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_is_kept_for_its_server_and_gets_a_new_disco_key() {
        let path = std::env::temp_dir().join(format!("adit-tailscale-state-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        let state = StateDir::open(&path).unwrap();
        let control = ControlUrl::default();
        assert!(Identity::load(&state, &control).unwrap().is_none());
        let node = Identity::generate().unwrap();
        node.save(&state, &control).unwrap();
        let again = Identity::load(&state, &control).unwrap().unwrap();
        assert_eq!(again.machine_key(), node.machine_key());
        assert_eq!(again.keys.node_key(), node.keys.node_key());
        assert_eq!(again.log_id, node.log_id);
        assert_ne!(again.keys.disco_key(), node.keys.disco_key());
        let other = ControlUrl::parse("https://hs.example").unwrap();
        assert!(Identity::load(&state, &other).unwrap().is_none());
        assert_eq!(kept_control(&path), Some(control.clone()));
        assert_eq!(kept_control(Path::new("/nowhere")), None);
        state.write(FILE, br#"{"version":1,"control":"https://controlplane.tailscale.com","machine":"canary","node":"","log_id":""}"#).unwrap();
        let problem = Identity::load(&state, &control).unwrap_err();
        assert!(!format!("{problem:?}").contains("canary"));
        Identity::forget(&state).unwrap();
        assert!(Identity::load(&state, &control).unwrap().is_none());
        std::fs::remove_dir_all(path).unwrap();
    }
}
