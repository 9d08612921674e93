//! OpenVPN: messages of the data channel, and what a server pushes.

use std::time::{Duration, Instant};

use adit_openvpn::data::{Channel, DataKeys, Inner, KeyMaterial, Parameters, Role, Shape, Suite};
use adit_openvpn::push::{Item, Profile, Pull};
use adit_openvpn::{Algorithm, Cipher, Compression, MssFix, Transport};
use adit_tunnel::Prefix;

use super::pieces;

/// How packets travel, by the bits of a byte.
fn shape(bits: u8) -> Shape {
    let cipher = Cipher::ALL[usize::from(bits & 7) % Cipher::ALL.len()];
    let compressions = [Compression::None, Compression::Lzo, Compression::Stub, Compression::StubV2];
    Shape {
        suite: Suite { cipher, auth: Algorithm::Sha1, epoch: bits & 8 != 0 },
        peer_id: true,
        transport: Transport::Udp,
        outside_v6: false,
        compression: compressions[usize::from(bits >> 4 & 3)],
        fragment: (bits & 0x40 != 0).then_some(1200),
        mssfix: MssFix::Default,
        tun_mtu: 1500,
        envelope: 0,
    }
}

fn keys(suite: Suite, role: Role) -> DataKeys {
    let material = KeyMaterial::new([7; 256].into());
    DataKeys::new(suite, &material, &Parameters { role, key_id: 0, peer_id: Some(1), replay_window: 64 })
}

/// Opens pieces as they are, which nobody without the keys can have made, and then sealed by a server that sends what
/// it likes. The first byte says how packets travel.
pub fn openvpn_data(bytes: &[u8]) {
    let Some((bits, bytes)) = bytes.split_first() else { return };
    let shape = shape(*bits);
    let (mut ours, mut theirs) = (keys(shape.suite, Role::Client), keys(shape.suite, Role::Server));
    let mut channel = Channel::new(shape);
    let mut now = Instant::now();
    for (number, piece) in (1..).zip(pieces(bytes)) {
        let mut forged = piece.to_vec();
        let before = ours.traffic().1;
        assert!(channel.receive(now, &mut ours, &mut forged).is_err(), "nothing opens without the keys");
        assert_eq!(ours.traffic().1, before, "what does not open does not count");
        let mut slot = vec![0; theirs.sealed_len(piece.len())];
        let head = theirs.head();
        slot[head..head + piece.len()].copy_from_slice(piece);
        let length = theirs.seal(&mut slot, piece.len()).expect("the slot is as long as it must be");
        assert_eq!(length, slot.len());
        now += Duration::from_millis(300);
        if let Ok(Inner::Packet(packet)) = channel.receive(now, &mut ours, &mut slot) {
            assert!(matches!(packet[0] >> 4, 4 | 6));
        }
        assert_eq!(ours.traffic().1.packets, number, "what opens counts, whatever is in it");
    }
}

/// Takes the first piece for a push and the others for updates. Whatever the server says, it takes nothing of this
/// machine, and what is written of an option reads back as the same.
pub fn openvpn_push(bytes: &[u8]) {
    let profile = Profile {
        ciphers: vec![Cipher::Aes256Gcm],
        protected: vec!["172.17.0.0/16".parse().expect("a prefix")],
        tun_mtu: 1500,
        ..Profile::default()
    };
    let mut pull = Pull::from_profile(profile, "192.0.2.1".parse().ok());
    for (index, piece) in pieces(bytes).enumerate() {
        let text = String::from_utf8_lossy(piece);
        let _ = if index == 0 { pull.reply(&text) } else { pull.update(&text) };
        for option in text.split(',') {
            if let Ok(item) = Item::parse(option) {
                let written = item.to_string();
                assert_eq!(Item::parse(&written).as_ref(), Ok(&item), "{written}");
            }
        }
        let Ok(config) = pull.net_config() else { continue };
        assert!((576..=1600).contains(&config.mtu));
        for address in ["172.17.0.1", "192.0.2.1", "169.254.169.254", "fd00:ec2::254"] {
            assert!(!config.routes_to(address.parse().expect("an address")), "{address} in {text}");
        }
        // Wide routes hold such addresses, where nothing leads them into a tunnel; no route is about them.
        for ground in
            ["127.0.0.0/8", "169.254.0.0/16", "224.0.0.0/4", "172.17.0.0/16", "::1/128", "fe80::/10"]
        {
            let ground: Prefix = ground.parse().expect("a prefix");
            assert!(!config.routes.iter().any(|route| ground.covers(route)), "{ground} in {text}");
            let resolver = config.dns.servers.iter().find(|server| ground.contains(**server));
            assert_eq!(resolver, None, "{text}");
        }
        assert!(pull.take_notices().len() <= 64);
    }
}
