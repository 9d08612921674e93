//! What is wrong with a file as a whole: missing keys, keys in the wrong place, prefixes that clash.

use std::collections::BTreeMap;

use adit_tunnel::Prefix;

use super::Supplied;
use super::parse::{Draft, DraftInterface, DraftPeer};
use crate::{Problem, SecretKey};

pub(super) fn whole(draft: &mut Draft, supplied: &Supplied) {
    let Draft { problems, warnings, interface, peers } = draft;
    match interface {
        Some(interface) => our_side(interface, supplied, problems, warnings),
        None => problems.push(
            Problem::new("wg.config.parse", "there is no [Interface] section")
                .fix("give a wg-quick file: [Interface] with PrivateKey and Address, and a [Peer]"),
        ),
    }
    if peers.is_empty() && interface.is_some() {
        problems.push(
            Problem::new("wg.config.parse", "there is no [Peer] section")
                .fix("add a [Peer] with the server's PublicKey, Endpoint and AllowedIPs"),
        );
    }
    if supplied.preshared_key.is_some() && peers.len() > 1 {
        problems.push(
            Problem::new(
                "wg.config.parse",
                format!("a preshared key is supplied, but there are {} peers", peers.len()),
            )
            .fix("write PresharedKey into the file, for the peer that it belongs to"),
        );
    }
    let private = supplied.private_key.as_ref().or(interface.as_ref().and_then(|i| i.private_key.as_ref()));
    for peer in peers.iter() {
        far_side(peer, private, problems);
    }
    endpoints(peers, problems);
    twice(peers, problems);
    overlaps(peers, warnings);
}

fn our_side(
    interface: &DraftInterface,
    supplied: &Supplied,
    problems: &mut Vec<Problem>,
    warnings: &mut Vec<Problem>,
) {
    if !interface.private_key_given && supplied.private_key.is_none() {
        problems.push(
            Problem::new("wg.key.missing", "[Interface] has no PrivateKey")
                .fix("add it to the file, or keep it elsewhere: --private-key file:PATH (or env:NAME, fd:N, -)")
                .at(interface.head.clone()),
        );
    }
    if !interface.address_given {
        problems.push(
            Problem::new("wg.address.missing", "[Interface] has no Address")
                .fix("add the address that the server's AllowedIPs has for you, like Address = 10.8.0.2/32")
                .at(interface.head.clone()),
        );
    }
    if !interface.values.ignored.is_empty() {
        warnings.push(Problem {
            evidence: interface.values.ignored.clone(),
            ..Problem::new(
                "wg.hooks.ignored",
                "these lines are for wg-quick as root; they are not carried out",
            )
            .fix("delete them, or do what they did in your own script")
        });
    }
}

fn far_side(peer: &DraftPeer, private: Option<&SecretKey>, problems: &mut Vec<Problem>) {
    if !peer.public_key_given {
        problems.push(
            Problem::new("wg.key.missing", "[Peer] has no PublicKey")
                .fix("ask the server: wg show INTERFACE public-key")
                .at(peer.head.clone()),
        );
    }
    let (Some(public), Some(private)) = (peer.public_key, private) else { return };
    let swapped = if public == private.public() {
        "it is the public half of this file's own PrivateKey"
    } else if public.as_bytes() == private.expose() {
        "it is this file's own PrivateKey; treat that key as known to others"
    } else {
        return;
    };
    let mut place = peer.public_key_place.clone().unwrap_or_else(|| peer.head.clone());
    // It may be the private key.
    place.text = place.text.chars().take(place.column - 1).chain("[redacted]".chars()).collect();
    place.length = "[redacted]".len();
    problems.push(
        Problem::new("wg.key.swapped", "PublicKey of the [Peer] is our own key, not the server's")
            .seen(swapped)
            .fix("put the server's public key there: wg show INTERFACE public-key, on the server")
            .at(place),
    );
}

/// A client needs one peer that it can call; others may call us.
fn endpoints(peers: &[DraftPeer], problems: &mut Vec<Problem>) {
    let Some(first) = peers.first() else { return };
    if peers.iter().all(|peer| !peer.endpoint_given) {
        problems.push(
            Problem::new("wg.endpoint.missing", "no [Peer] has an Endpoint, so there is nobody to call")
                .fix("add the server's address: Endpoint = vpn.example.com:51820")
                .at(first.head.clone()),
        );
    }
}

fn twice(peers: &[DraftPeer], problems: &mut Vec<Problem>) {
    let mut seen = BTreeMap::new();
    for peer in peers {
        let Some(key) = peer.public_key else { continue };
        if let Some(first) = seen.insert(key, peer.head.line) {
            problems.push(
                Problem::new("wg.config.parse", "two [Peer] sections have the same PublicKey")
                    .seen(format!("the other one is at line {first}"))
                    .fix("make one section of them; AllowedIPs takes several prefixes")
                    .at(peer.public_key_place.clone().unwrap_or_else(|| peer.head.clone())),
            );
        }
    }
}

/// The same prefix on two peers: the last one has it, as in the kernel.
fn overlaps(peers: &[DraftPeer], warnings: &mut Vec<Problem>) {
    let mut owner: BTreeMap<Prefix, usize> = BTreeMap::new();
    for (index, peer) in peers.iter().enumerate() {
        for (prefix, place) in &peer.allowed_ips {
            if let Some(other) = owner.insert(*prefix, index).filter(|other| *other != index) {
                warnings.push(
                    Problem::new(
                        "wg.allowedips.overlap",
                        format!("{prefix} belongs to two peers; the last one has it"),
                    )
                    .seen(format!("the other [Peer] is at line {}", peers[other].head.line))
                    .fix("delete it from the peer that it does not lead to")
                    .at(place.clone()),
                );
            }
        }
    }
}
