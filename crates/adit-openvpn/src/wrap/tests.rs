use adit_tunnel::Dropped;
use base64::Engine as _;
use proptest::prelude::*;
use zeroize::Zeroizing;

use super::*;
use crate::wire::{Control, Opcode};
use crate::{Algorithm, Wrap};

/// First packets of OpenVPN 2.6.14 with the key of [`key`], without and with each protection.
const NONE: &str = "3801b0edc5ecba89460000000000";
const AUTH: [(Option<Direction>, Algorithm, &str); 6] = [
    (
        Some(Direction::Inverse),
        Algorithm::Sha1,
        "3869776b1be7d6e9c926cef8e2c3c52742d153703c1031aed5d0fe11f8000000016b0543ae0000000000",
    ),
    (
        Some(Direction::Inverse),
        Algorithm::Sha512,
        "3844deaaafcf683adbcdc34394ad5a6e2361b01d2a1c2eaeb0c80e353a92e34aacbd962999a441368437932aa3212af3f99ffd30\
         73d00754a5618c645b97c4879f72b76540bf44d4cf000000016b0543af0000000000",
    ),
    (
        Some(Direction::Inverse),
        Algorithm::Sha256,
        "38724b889af8d5a57fce3c5b66eec7500dbada2f25627253e9781dd3b217481299511eb57f791a58c0000000016b0543af000000\
         0000",
    ),
    (
        Some(Direction::Inverse),
        Algorithm::Md5,
        "38b2b54cf5f3a42110d2ef6273d1d896768555ccf3042fe2af000000016b0543af0000000000",
    ),
    (
        Some(Direction::Normal),
        Algorithm::Sha224,
        "386710c704652dd619b0410d85bdd08431bce8dd15e96a7d5620c2766a9e7b7ac74addca83000000016b0543af0000000000",
    ),
    (
        None,
        Algorithm::Sha1,
        "3865ae15f31682da02d2df14441abafb03f8fdea77f01e8d86b9964146000000016b0543af0000000000",
    ),
];
const CRYPT: &str = "38d9239117f8245c68000000016b0543afb7b1a92ee225d6a894cdba0af2be32386536e948ba636c23a1c9bf76748839\
                     34d103846d1a";
/// A server key of OpenVPN 2.6.14, and the first packet of a client whose key was made with it.
const V2_SERVER: &str = "a0b2tTsPuSxmY5Kqdbb9hZWZYuIDbq4KO6j77sFmjEw3BaUupW+LRrktlUg2h2f+711LBdxbLVdt0zOnoZC3qSbS0KoW\
                         ExhmoFe7ufUfdfmE9HfOLCM/AmjXEZXHqcNW5SHEx3vWXbi53vBXgNkwKwAqGreK/w3xCRXSTi/awxU=";
const V2: &str = "50ba0c459161da3e330f0000016b0543afb2e50166e5f939b5f4f93837b528ffdbca6f5eca9c5ba96df6fb6d726c4f2d04d3\
    d52764486427a88939dbae15aef1e509cc96aa2c29419c245005e68cb09982ca683613b535371480d24afa60d40669d7c1de9ca5a051faf107\
    bf4bc350fe2d47017b5c93d94dbaaf58cb9c966253b5ed9a7687269019e17cccaf20778da508fa549aa8ca87c4e6b120396613c043195585a7\
    04c05894f99f59a98a70d934ab6aa453d1c99f39902948aef8bd809dde12f526204f9fbc2f9e3cc2a936a25a2b67f12a1813dd59a3069da4b5\
    cf304d0a247477b64305785b1d9cffcd3d08c7da3c254b39a5f1aa70aad2a2c3055e33d20e1785b88d6dba17d6fd5d9a9acae3072d0fdd3d60\
    f9d859c820c45a1f70352bd0d93958dabd8ef2c77fa5cfcb7cd480d64bbb04998a6800735d98eefdbfca94bfe7ebf92c21357c0ccfcb1d1c7d\
    87ec7d9f7fa9f0ecb46c6182733e993e012b";

fn key() -> StaticKey {
    StaticKey(Zeroizing::new(std::array::from_fn(|at| (7 * at + 3) as u8)))
}

fn bytes(hex: &str) -> Vec<u8> {
    let digits: Vec<u8> = hex.bytes().filter(u8::is_ascii_hexdigit).collect();
    let (pairs, _) = digits.as_chunks::<2>();
    pairs.iter().map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap()).collect()
}

/// Whether a captured first packet opens, and whether we make the same one.
fn agrees(wrap: &Wrap, theirs: &Wrap, packet: &str) {
    let packet = bytes(packet);
    let mut received = packet.clone();
    let mut server = Wrapper::new(theirs, Side::Server, 0);
    let opened = server.unwrap(&mut received).unwrap();
    assert_eq!(opened.first, First { opcode: Opcode::HardResetClientV2, key_id: 0 });
    let control = Control::parse(opened.first.opcode, opened.body).unwrap();
    assert_eq!((control.id, control.acks.is_empty(), control.payload), (Some(0), true, &[][..]));
    let (first, session, body) = (opened.first, opened.session, opened.body.to_vec());
    let mut client = Wrapper::new(wrap, Side::Client, server.peer_time().unwrap_or_default());
    let mut sent = Vec::new();
    client.wrap(first, &session, &body, &mut sent);
    assert_eq!(sent, packet);
    assert_eq!(sent.len(), client.overhead() + body.len());
}

#[test]
fn first_packets_are_those_of_the_reference() {
    agrees(&Wrap::None, &Wrap::None, NONE);
    agrees(&Wrap::Crypt(key()), &Wrap::Crypt(key()), CRYPT);
    for (direction, algorithm, packet) in AUTH {
        let wrap = |direction| Wrap::Auth { key: key(), direction, algorithm };
        let (ours, theirs) = match direction {
            Some(Direction::Inverse) => (Direction::Inverse, Direction::Normal),
            Some(Direction::Normal) => (Direction::Normal, Direction::Inverse),
            Some(Direction::Both) | None => (Direction::Both, Direction::Both),
        };
        agrees(&wrap(ours), &wrap(theirs), packet);
    }
}

#[test]
fn a_wrapped_client_key_of_the_reference_opens_and_its_client_counts_on() {
    let server: [u8; 128] = base64::engine::general_purpose::STANDARD
        .decode(V2_SERVER.replace(' ', ""))
        .unwrap()
        .try_into()
        .unwrap();
    let server = ServerKey::new(&server);
    let mut packet = bytes(V2);
    let (packet, wrapped) = split_wrapped_key(&mut packet).unwrap();
    let (client, metadata) = server.unwrap(wrapped).unwrap();
    assert_eq!((metadata.len(), metadata[0]), (9, 1), "a timestamp");
    assert_eq!(server.wrap(&client, &metadata).unwrap(), wrapped, "wrapping is deterministic");
    let original = packet.to_vec();
    let mut there = Wrapper::new(&Wrap::Crypt(client.clone()), Side::Server, 0);
    let (first, session, body) = {
        let opened = there.unwrap(packet).unwrap();
        (opened.first, opened.session, opened.body.to_vec())
    };
    let ours = Wrap::CryptV2 { key: client, wrapped: wrapped.to_vec() };
    let mut here = Wrapper::new(&ours, Side::Client, there.peer_time().unwrap());
    let mut sent = Vec::new();
    here.wrap(first, &session, &body, &mut sent);
    assert_eq!(sent, original, "the counter begins where early negotiation is announced");
    sent.clear();
    here.wrap(first, &session, &body, &mut sent);
    assert_eq!(sent[9..13], 0x0f00_0002u32.to_be_bytes(), "and goes on from there");
}

#[test]
fn damaged_wrapped_keys_are_refused() {
    let server = ServerKey::new(&[7; 128]);
    let wrapped = server.wrap(&key(), b"\x01meta").unwrap();
    assert!(wrapped_key_is_whole(&wrapped));
    assert!(!wrapped_key_is_whole(&wrapped[1..]));
    assert_eq!(ServerKey::new(&[8; 128]).unwrap(&wrapped).err(), Some(WrappedKeyError::Unauthentic));
    assert_eq!(server.wrap(&key(), &[0; 800]).err(), Some(WrappedKeyError::Length));
}

#[test]
fn each_end_refuses_its_own_packets_and_those_of_another_key() {
    for wrap in [
        Wrap::Crypt(key()),
        Wrap::Auth { key: key(), direction: Direction::Inverse, algorithm: Algorithm::Sha256 },
    ] {
        let mut packet = Vec::new();
        let first = First { opcode: Opcode::Control, key_id: 0 };
        Wrapper::new(&wrap, Side::Client, 1).wrap(first, &[1; 8], b"body", &mut packet);
        let mut mirror = Wrapper::new(&wrap, Side::Client, 1);
        assert_eq!(mirror.unwrap(&mut packet.clone()), Err(Dropped::Unauthentic));
        let mut stranger = Wrapper::dynamic(&[3; 256], &wrap, Side::Server, 1);
        assert!(matches!(stranger.unwrap(&mut packet), Err(Dropped::Unauthentic)));
    }
}

#[test]
fn a_packet_is_taken_once() {
    let mut packet = Vec::new();
    let first = First { opcode: Opcode::Control, key_id: 1 };
    Wrapper::dynamic(&[3; 256], &Wrap::None, Side::Client, 1).wrap(first, &[1; 8], b"body", &mut packet);
    let mut there = Wrapper::dynamic(&[3; 256], &Wrap::None, Side::Server, 1);
    let opened = there.unwrap(&mut packet.clone()).map(|opened| opened.body.to_vec());
    assert_eq!(opened, Ok(b"body".to_vec()));
    assert_eq!(there.unwrap(&mut packet), Err(Dropped::Replayed));
}

fn any_wrap() -> impl Strategy<Value = (Wrap, Wrap)> {
    let auth = |direction, algorithm| Wrap::Auth { key: key(), direction, algorithm };
    prop_oneof![
        Just((Wrap::None, Wrap::None)),
        Just((Wrap::Crypt(key()), Wrap::Crypt(key()))),
        Just((auth(Direction::Inverse, Algorithm::Sha384), auth(Direction::Normal, Algorithm::Sha384))),
        Just((auth(Direction::Both, Algorithm::Sha1), auth(Direction::Both, Algorithm::Sha1))),
    ]
}

proptest! {
    #[test]
    fn packets_survive_the_way_in_both_directions(
        (ours, theirs) in any_wrap(),
        session in any::<[u8; 8]>(),
        bodies in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..200), 1..5),
    ) {
        let mut client = Wrapper::new(&ours, Side::Client, 5);
        let mut server = Wrapper::new(&theirs, Side::Server, 6);
        let first = First { opcode: Opcode::Control, key_id: 3 };
        for body in &bodies {
            for up in [true, false] {
                let (from, to) = if up { (&mut client, &mut server) } else { (&mut server, &mut client) };
                let mut packet = Vec::new();
                from.wrap(first, &session, body, &mut packet);
                let opened = to.unwrap(&mut packet);
                prop_assert_eq!(opened, Ok(Unwrapped { first, session, body }));
            }
        }
    }

    #[test]
    fn a_flipped_bit_is_noticed(
        bit in 0usize..8 * 60, crypt in any::<bool>(), body in proptest::collection::vec(any::<u8>(), 20..40),
    ) {
        let auth = |direction| Wrap::Auth { key: key(), direction, algorithm: Algorithm::Sha1 };
        let (ours, theirs) = match crypt {
            true => (Wrap::Crypt(key()), Wrap::Crypt(key())),
            false => (auth(Direction::Inverse), auth(Direction::Normal)),
        };
        let mut packet = Vec::new();
        let first = First { opcode: Opcode::Control, key_id: 0 };
        Wrapper::new(&ours, Side::Client, 5).wrap(first, &[9; 8], &body, &mut packet);
        let at = bit / 8 % packet.len();
        packet[at] ^= 1 << (bit % 8);
        prop_assert!(Wrapper::new(&theirs, Side::Server, 5).unwrap(&mut packet).is_err());
    }

    #[test]
    fn no_bytes_make_a_wrapper_panic(
        (_, theirs) in any_wrap(), mut packet in proptest::collection::vec(any::<u8>(), 0..120),
    ) {
        let _ = Wrapper::new(&theirs, Side::Client, 0).unwrap(&mut packet.clone());
        let _ = split_wrapped_key(&mut packet);
    }
}
