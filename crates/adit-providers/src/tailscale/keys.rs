//! The keys of a node, and the text forms that only the control server sees.

use std::fmt;

use adit_tailscale::{Keys, NodeKey, SecretKey};

/// The prefix of a machine's or server's public key.
const MACHINE: &str = "mkey:";

/// The public key of a machine or of a control server; written `mkey:` and hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct MachineKey(pub [u8; 32]);

impl MachineKey {
    /// Reads the text form; `None` for anything else, and for the key of zeros.
    pub fn parse(text: &str) -> Option<Self> {
        // The digits are those of a node key, which has a reader.
        let digits = text.strip_prefix(MACHINE)?;
        let key: NodeKey = format!("nodekey:{digits}").parse().ok()?;
        (!key.is_zero()).then_some(Self(key.0))
    }
}

impl fmt::Display for MachineKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(MACHINE)?;
        f.write_str(&hex(&self.0))
    }
}

impl fmt::Debug for MachineKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Everything that makes a node the same node. The secrets are cleared when it goes, and `Debug` does not show them.
#[derive(Clone, Debug)]
pub struct Identity {
    /// The machine key: authenticates us to the control server.
    pub machine: SecretKey,
    /// The node key and the key of path discovery.
    pub keys: Keys,
    /// 64 hexadecimal digits that the server files logs under; nothing is ever logged there.
    pub log_id: String,
}

impl Identity {
    /// A new node.
    ///
    /// # Errors
    ///
    /// The system has no randomness.
    pub fn generate() -> Result<Self, getrandom::Error> {
        let mut log_id = [0; 32];
        getrandom::fill(&mut log_id)?;
        Ok(Self {
            machine: secret()?,
            keys: Keys { node: secret()?, disco: secret()? },
            log_id: hex(&log_id),
        })
    }

    /// Our public machine key.
    pub fn machine_key(&self) -> MachineKey {
        MachineKey(self.machine.public_bytes())
    }
}

/// A new secret key.
///
/// # Errors
///
/// The system has no randomness.
pub fn secret() -> Result<SecretKey, getrandom::Error> {
    let mut bytes = zeroize::Zeroizing::new([0; 32]);
    getrandom::fill(&mut bytes[..])?;
    Ok(SecretKey::from_bytes(*bytes))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_key_reads_back_and_zeros_are_none() {
        let key = Identity::generate().unwrap().machine_key();
        assert_eq!(MachineKey::parse(&key.to_string()), Some(key));
        for wrong in
            [String::new(), "mkey:".to_owned(), format!("mkey:{}", "0".repeat(64)), "nodekey:aa".to_owned()]
        {
            assert_eq!(MachineKey::parse(&wrong), None, "{wrong}");
        }
    }

    #[test]
    fn two_nodes_have_nothing_in_common_and_show_no_secret() {
        let (a, b) = (Identity::generate().unwrap(), Identity::generate().unwrap());
        assert_ne!(a.machine_key(), b.machine_key());
        assert_ne!(a.keys.node_key(), b.keys.node_key());
        assert_ne!(a.log_id, b.log_id);
        assert_eq!(a.log_id.len(), 64);
        let secret: String = hex(a.machine.as_bytes());
        assert!(!format!("{a:?}").contains(&secret));
    }
}
