//! From what several observations say together to the class that none of them shows alone.
//!
//! WireGuard drops what it does not like without a word, so that the place of a fault must be read from what
//! does and does not come back.

use crate::Stage;

/// What is known of the tunnel when something in it failed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// The provider is WireGuard.
    pub wireguard: bool,
    /// A handshake was completed.
    pub handshake: bool,
    /// At least one packet from inside the network arrived.
    pub received: bool,
    /// Whether the gateway's inner address answers; `None` if it was not asked or is not known.
    pub gateway: Option<bool>,
    /// Whether the host that is called silent answers echoes; `None` if it was not asked or is not known.
    pub host: Option<bool>,
    /// Some other host behind the gateway answers, so the gateway forwards.
    pub others_answer: bool,
    /// Small echoes come back from somewhere and large ones do not.
    pub large_lost: bool,
}

/// Lost large packets; every provider has a class of its own for them.
pub(crate) const MTU: &str = "wg.mtu";

/// The class of a failure in the light of all facts; `None` if the facts add nothing.
pub fn infer(facts: &Facts, stage: Stage, class: &str) -> Option<&'static str> {
    if !facts.handshake {
        return None;
    }
    let silent = matches!(class, "target.silent" | "dns.silent" | "tunnel.silent");
    // A connection that opens and then hangs is how a lost large packet looks from above.
    if facts.large_lost && (matches!(class, "app.silent" | "target.silent") && stage >= Stage::Tls) {
        return Some(MTU);
    }
    // The rest is about what WireGuard drops without a word.
    if !facts.wireguard || !silent || facts.others_answer || facts.host == Some(true) {
        return None;
    }
    match facts.gateway {
        Some(true) if class != "tunnel.silent" => Some("wg.forwarding"),
        Some(true) => None,
        Some(false) | None if !facts.received => Some("wg.allowedips.server"),
        Some(false) | None => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const UP: Facts = Facts {
        wireguard: true,
        handshake: true,
        received: true,
        gateway: None,
        host: None,
        others_answer: false,
        large_lost: false,
    };

    #[test]
    fn nothing_ever_received_means_that_the_server_drops_our_address() {
        let facts = Facts { received: false, gateway: Some(false), ..UP };
        assert_eq!(infer(&facts, Stage::Target, "target.silent"), Some("wg.allowedips.server"));
        assert_eq!(infer(&facts, Stage::Dns, "dns.silent"), Some("wg.allowedips.server"));
        assert_eq!(infer(&facts, Stage::Address, "tunnel.silent"), Some("wg.allowedips.server"));
    }

    #[test]
    fn a_gateway_that_answers_before_silent_hosts_does_not_forward() {
        let facts = Facts { gateway: Some(true), ..UP };
        assert_eq!(infer(&facts, Stage::Target, "target.silent"), Some("wg.forwarding"));
    }

    #[test]
    fn one_silent_host_among_others_that_answer_is_only_silent() {
        let facts = Facts { gateway: Some(true), others_answer: true, ..UP };
        assert_eq!(infer(&facts, Stage::Target, "target.silent"), None);
    }

    #[test]
    fn a_host_that_answers_echoes_and_no_questions_is_only_silent() {
        let facts = Facts { gateway: Some(true), host: Some(true), ..UP };
        assert_eq!(infer(&facts, Stage::Dns, "dns.silent"), None);
        assert_eq!(infer(&facts, Stage::Target, "target.silent"), None);
        assert_eq!(
            infer(&Facts { host: Some(false), ..facts }, Stage::Dns, "dns.silent"),
            Some("wg.forwarding")
        );
    }

    #[test]
    fn a_refusal_is_never_reinterpreted() {
        assert_eq!(infer(&Facts { gateway: Some(true), ..UP }, Stage::Target, "target.refused"), None);
    }

    #[test]
    fn an_application_that_hangs_where_large_packets_vanish_is_a_matter_of_packet_size() {
        let facts = Facts { large_lost: true, gateway: Some(true), ..UP };
        assert_eq!(infer(&facts, Stage::App, "app.silent"), Some("wg.mtu"));
        assert_eq!(infer(&Facts { large_lost: false, ..facts }, Stage::App, "app.silent"), None);
    }

    #[test]
    fn other_protocols_have_black_holes_and_no_silence_of_wireguards() {
        let facts = Facts { wireguard: false, large_lost: true, gateway: Some(true), ..UP };
        assert_eq!(infer(&facts, Stage::App, "app.silent"), Some(MTU));
        assert_eq!(infer(&facts, Stage::Target, "target.silent"), None);
    }

    #[test]
    fn without_a_handshake_nothing_is_inferred() {
        let facts = Facts { handshake: false, received: false, ..UP };
        assert_eq!(infer(&facts, Stage::Target, "target.silent"), None);
    }
}
