//! What each fuzz target does with its bytes. `fuzz/fuzz_targets` calls these under libFuzzer on the nightly compiler,
//! the test `corpus` calls them with the committed corpora on the stable one. Each asserts more than that nothing panics.

mod control;
mod dns;
mod packet;

pub use control::control_message;
pub use dns::dns_message;
pub use packet::ip_packet;

/// A fuzz target: its name, which is that of its corpus, and what it does.
pub type Target = (&'static str, fn(&[u8]));

/// Every target.
pub const TARGETS: &[Target] =
    &[("control_message", control_message), ("dns_message", dns_message), ("ip_packet", ip_packet)];
