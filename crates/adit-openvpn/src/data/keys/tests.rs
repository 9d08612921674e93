use super::*;
use crate::{Algorithm, Cipher};
use proptest::prelude::*;
use zeroize::Zeroizing;

const PAYLOAD: &[u8] = b"the quick brown fox";

fn material() -> KeyMaterial {
    let mut bytes = Zeroizing::new([0; 256]);
    (0u8..=255).zip(bytes.iter_mut()).for_each(|(value, byte)| *byte = value);
    KeyMaterial::new(bytes)
}

fn suite(cipher: Cipher, auth: Algorithm) -> Suite {
    Suite { cipher, auth, epoch: false }
}

fn keys(suite: Suite, role: Role, peer_id: Option<u32>) -> DataKeys {
    DataKeys::new(suite, &material(), &Parameters { role, key_id: 5, peer_id, replay_window: 64 })
}

fn pair(suite: Suite, peer_id: Option<u32>) -> (DataKeys, DataKeys) {
    (keys(suite, Role::Client, peer_id), keys(suite, Role::Server, peer_id))
}

fn seal(keys: &mut DataKeys, payload: &[u8]) -> Vec<u8> {
    let mut slot = vec![0xee; keys.sealed_len(payload.len())];
    let head = keys.head();
    slot[head..head + payload.len()].copy_from_slice(payload);
    let length = keys.seal(&mut slot, payload.len()).unwrap();
    assert_eq!(length, slot.len(), "the length is known beforehand");
    slot
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Computed by Python's `cryptography` 48 and `hmac` from the layouts alone: key material 00 01 … ff, packet id 1, key
/// id 5, peer-id 0x010203 or none, the payload above. The IV of CBC is AES-128 of the packet id under the first half
/// of HMAC-SHA256(first slot, second slot | "adit cbc iv").
const VECTORS: [(Cipher, Algorithm, bool, &str); 12] = [
    (
        Cipher::Aes128Gcm,
        Algorithm::Sha1,
        true,
        "4d01020300000001fecb9aed1a4a7b47a363fee6b4f61aa5a66b99c7ada653f3e9fd4bdf77c0148da27832",
    ),
    (
        Cipher::Aes128Gcm,
        Algorithm::Sha1,
        false,
        "3500000001ed0367a23061a69157bd119e7f7c5a56a66b99c7ada653f3e9fd4bdf77c0148da27832",
    ),
    (
        Cipher::Aes256Gcm,
        Algorithm::Sha1,
        true,
        "4d010203000000016bbec6439c178eb607fed7c30f380a31bfa31e9d1ac3cfaa7e9e36051b416603950241",
    ),
    (
        Cipher::Aes256Gcm,
        Algorithm::Sha1,
        false,
        "35000000016d18de512df2c301d8ab674ac2706296bfa31e9d1ac3cfaa7e9e36051b416603950241",
    ),
    (
        Cipher::ChaCha20Poly1305,
        Algorithm::Sha1,
        true,
        "4d0102030000000193fa8091371760feb81f5d301a73caa77aec57e482d90a5df896858129bf93ca0c182d",
    ),
    (
        Cipher::ChaCha20Poly1305,
        Algorithm::Sha1,
        false,
        "3500000001071551cb6c64f2f92d32a5e61e5274cc7aec57e482d90a5df896858129bf93ca0c182d",
    ),
    (
        Cipher::Aes128Cbc,
        Algorithm::Sha1,
        true,
        "4d0102032152ae7bb2c551f5cf52bd6cfc48c956dca56dff63c5632723f700c646536511af7bae3a2644684765730444f50d16d132b0506ea9264154e602ac27037e892c2c2f120d",
    ),
    (
        Cipher::Aes192Cbc,
        Algorithm::Sha256,
        true,
        "4d010203ab5770028c953175aa09a529ab93943d7e8bae325411df56ccb17144d49e082163c5632723f700c646536511af7bae3aa6cbf0a446a1810db5ebc2e7aa8e5bbd33f19dd3bfa7c3735f60350561505089",
    ),
    (
        Cipher::Aes256Cbc,
        Algorithm::Sha512,
        true,
        "4d01020357774e63b10e97233b9a121496ec54430da15ea80e8d76b0c8d0000fe678205788359644b4e2c0e194da33ea8c3470dcb0a8768cc50363af25868a46c67c340963c5632723f700c646536511af7bae3aefe88fde2d5c4176d0b9b225b7d128409d2ba3d33afe866c8451ee755f70a13d",
    ),
    (
        Cipher::Aes256Cbc,
        Algorithm::Md5,
        true,
        "4d010203d43164c12a7164ac5d283b637300b9e763c5632723f700c646536511af7bae3aefe88fde2d5c4176d0b9b225b7d128409d2ba3d33afe866c8451ee755f70a13d",
    ),
    (
        Cipher::Aes128Cbc,
        Algorithm::Sha224,
        true,
        "4d010203605580a4c9553d53a3977f97e4de16e1d049f53bf8312176ca10665663c5632723f700c646536511af7bae3a2644684765730444f50d16d132b0506ea9264154e602ac27037e892c2c2f120d",
    ),
    (
        Cipher::Aes256Cbc,
        Algorithm::Sha384,
        true,
        "4d01020356ed6bb0ed148110bbb886214c7c0e3aa583585e5e1e37e88b35fc8262a9b626c7295b6b318609e04f2ab81262781db863c5632723f700c646536511af7bae3aefe88fde2d5c4176d0b9b225b7d128409d2ba3d33afe866c8451ee755f70a13d",
    ),
];

#[test]
fn sealed_messages_are_those_of_an_independent_computation() {
    for (cipher, auth, v2, expected) in VECTORS {
        let (mut client, mut server) = pair(suite(cipher, auth), v2.then_some(0x010203));
        let mut message = seal(&mut client, PAYLOAD);
        assert_eq!(hex(&message), expected, "{cipher:?} {auth:?} {v2}");
        assert_eq!(server.open(&mut message), Ok(&mut PAYLOAD.to_vec()[..]));
    }
}

#[test]
fn both_directions_have_their_own_keys() {
    for cipher in Cipher::ALL {
        let (mut client, mut server) = pair(suite(cipher, Algorithm::Sha256), Some(7));
        let (mut up, mut down) = (seal(&mut client, PAYLOAD), seal(&mut server, PAYLOAD));
        assert_ne!(up, down);
        assert_eq!(client.open(&mut up.clone()), Err(Dropped::Unauthentic));
        assert_eq!(client.open(&mut down), Ok(&mut PAYLOAD.to_vec()[..]));
        assert_eq!(server.open(&mut up), Ok(&mut PAYLOAD.to_vec()[..]));
    }
}

#[test]
fn a_message_is_opened_once() {
    for cipher in Cipher::ALL {
        let (mut client, mut server) = pair(suite(cipher, Algorithm::Sha1), None);
        let messages: Vec<_> = (0..70).map(|_| seal(&mut client, PAYLOAD)).collect();
        assert!(server.open(&mut messages[69].clone()).is_ok());
        for (index, message) in messages.iter().enumerate().take(69) {
            let opened = server.open(&mut message.clone()).is_ok();
            assert_eq!(opened, index >= 6, "{cipher:?}: 64 numbers end with 70, packet {}", index + 1);
            assert_eq!(server.open(&mut message.clone()), Err(Dropped::Replayed));
        }
        assert_eq!(server.traffic().1.packets, 64);
    }
}

#[test]
fn a_server_may_answer_with_another_peer_id_or_without() {
    let suite = suite(Cipher::Aes256Gcm, Algorithm::Sha1);
    for peer_id in [None, Some(0), Some(0x00ff_fffe), Some(0x00ff_ffff)] {
        let mut server = keys(suite, Role::Server, peer_id);
        let mut message = seal(&mut server, PAYLOAD);
        let v2 = peer_id.is_some_and(|id| id != 0x00ff_ffff);
        assert_eq!(message[0] >> 3, if v2 { DATA_V2 } else { DATA_V1 });
        assert!(keys(suite, Role::Client, Some(3)).open(&mut message).is_ok(), "{peer_id:?}");
    }
}

#[test]
fn packet_ids_end_and_no_nonce_comes_twice() {
    for cipher in Cipher::ALL {
        let (mut client, mut server) = pair(suite(cipher, Algorithm::Sha1), None);
        assert!(!client.needs_renegotiation());
        client.set_next(0xff00_0000);
        assert!(client.needs_renegotiation());
        client.set_next(u32::MAX);
        let mut last = seal(&mut client, PAYLOAD);
        assert!(server.open(&mut last).is_ok());
        let mut slot = vec![0; 200];
        assert_eq!(client.seal(&mut slot, 10), Err(Dropped::OverBudget));
        assert!(client.needs_renegotiation());
    }
}

#[test]
fn a_gcm_key_is_renewed_before_its_limit() {
    let mut client = keys(suite(Cipher::Aes128Gcm, Algorithm::Sha1), Role::Client, None);
    client.set_usage((1 << 36) / 8 * 7 - 100);
    seal(&mut client, &[0; 1400]);
    assert!(!client.needs_renegotiation());
    seal(&mut client, &[0; 1400]);
    assert!(client.needs_renegotiation());
    let mut client = keys(suite(Cipher::ChaCha20Poly1305, Algorithm::Sha1), Role::Client, None);
    client.set_usage(1 << 40);
    assert!(!client.needs_renegotiation(), "ChaCha20-Poly1305 has no such limit");
}

#[test]
fn a_slot_that_is_too_short_is_refused() {
    for cipher in Cipher::ALL {
        let mut client = keys(suite(cipher, Algorithm::Sha1), Role::Client, Some(1));
        let length = client.sealed_len(100);
        for short in 0..length {
            assert_eq!(client.seal(&mut vec![0; short], 100), Err(Dropped::TooBig));
        }
        assert_eq!(client.seal(&mut vec![0; length], 100), Ok(length));
        assert_eq!(client.traffic().0, Traffic { packets: 1, bytes: length as u64 });
    }
}

/// Computed by Python's `cryptography` 48 (`HKDFExpand`, `AESGCM`, `ChaCha20Poly1305`) as above, by epoch.
const EPOCH_VECTORS: [(Cipher, u16, &str); 6] = [
    (
        Cipher::Aes128Gcm,
        1,
        "4d0102030001000000000001c7dda03f44a71cef40fbe3d09a3794b226ebd7b2d4ada9edc016b4004b7dcdf1b6a0e4",
    ),
    (
        Cipher::Aes128Gcm,
        3,
        "4d01020300030000000000011c718439e23f006adc8c41facf6a247b76ae1324c02ff5299da06430fc23e1a5da7e5b",
    ),
    (
        Cipher::Aes256Gcm,
        1,
        "4d01020300010000000000019c8e1967414d5a53fe6f2a706acdb99f9f138e3781ad50ac88ece6fcea6f332c2ee1d8",
    ),
    (
        Cipher::Aes256Gcm,
        3,
        "4d0102030003000000000001959c0b5130c414db0b0d485ade954806eb15b2bf9309a7f74bb6fad75d050e1c7f9870",
    ),
    (
        Cipher::ChaCha20Poly1305,
        1,
        "4d0102030001000000000001d559b7da3e70c69b21ae6ab0a954c47111a2223b9d61ff0f447f9d1dcb7e053bab2e3a",
    ),
    (
        Cipher::ChaCha20Poly1305,
        3,
        "4d0102030003000000000001322b1751d65dcbefb96da7ecde9f4b9358afedac17a22325032ce5dc3824dfa480ff48",
    ),
];

fn epochs(keys: &DataKeys) -> (u16, u16) {
    match &keys.layout {
        Layout::Epochs(epochs) => epochs.epochs(),
        _ => panic!("a layout without epochs"),
    }
}

fn epoch_pair(cipher: Cipher) -> (DataKeys, DataKeys) {
    pair(Suite { cipher, auth: Algorithm::Sha1, epoch: true }, Some(0x010203))
}

#[test]
fn sealed_messages_of_an_epoch_are_those_of_an_independent_computation() {
    for (cipher, epoch, expected) in EPOCH_VECTORS {
        let (mut client, mut server) = epoch_pair(cipher);
        (1..epoch).for_each(|_| client.advance_epoch());
        let mut message = seal(&mut client, PAYLOAD);
        assert_eq!(hex(&message), expected, "{cipher:?} {epoch}");
        assert_eq!(server.open(&mut message), Ok(&mut PAYLOAD.to_vec()[..]));
    }
}

#[test]
fn a_peer_follows_into_a_later_epoch_and_still_takes_what_was_under_way() {
    let (mut client, mut server) = epoch_pair(Cipher::Aes256Gcm);
    let mut old: Vec<_> = (0..3).map(|_| seal(&mut client, PAYLOAD)).collect();
    assert!(server.open(&mut old[0]).is_ok());
    client.advance_epoch();
    client.advance_epoch();
    assert!(server.open(&mut seal(&mut client, PAYLOAD)).is_ok());
    assert_eq!(epochs(&server), (3, 3), "the server's own sending is lifted");
    let mut again = old[1].clone();
    assert!(server.open(&mut old[1]).is_ok());
    assert_eq!(server.open(&mut again), Err(Dropped::Replayed));
    assert!(client.open(&mut seal(&mut server, PAYLOAD)).is_ok());
    assert_eq!(epochs(&client), (3, 3));
    client.advance_epoch();
    assert!(server.open(&mut seal(&mut client, PAYLOAD)).is_ok());
    assert_eq!(server.open(&mut old[2]), Err(Dropped::Replayed), "two epochs ago is too old");
}

#[test]
fn four_epochs_ahead_are_known_and_the_fifth_is_not() {
    let (mut client, mut server) = epoch_pair(Cipher::ChaCha20Poly1305);
    (0..5).for_each(|_| client.advance_epoch());
    assert_eq!(server.open(&mut seal(&mut client, PAYLOAD)), Err(Dropped::Unauthentic));
    assert_eq!(epochs(&server), (1, 1));
    let (mut client, mut server) = epoch_pair(Cipher::ChaCha20Poly1305);
    (0..4).for_each(|_| client.advance_epoch());
    assert!(server.open(&mut seal(&mut client, PAYLOAD)).is_ok());
    (0..4).for_each(|_| client.advance_epoch());
    assert!(server.open(&mut seal(&mut client, PAYLOAD)).is_ok(), "and then four more");
    assert_eq!(epochs(&server), (9, 9));
}

#[test]
fn forged_epochs_move_nothing() {
    let (mut client, mut server) = epoch_pair(Cipher::Aes128Gcm);
    for epoch in [0u8, 2, 5, 6, 255] {
        let mut message = seal(&mut client, PAYLOAD);
        message[5] = epoch;
        assert!(server.open(&mut message).is_err());
        assert_eq!(epochs(&server), (1, 1));
    }
    let mut v1 = seal(&mut client, PAYLOAD);
    v1[0] = DATA_V1 << 3 | 5;
    assert_eq!(server.open(&mut v1), Err(Dropped::Malformed));
}

#[test]
fn an_epoch_ends_at_the_limit_of_its_key_in_either_direction() {
    const NEAR: u64 = (1 << 36) / 8 * 7;
    let usage = |keys: &mut DataKeys, sent, opened| {
        let Layout::Epochs(epochs) = &mut keys.layout else { panic!("a layout without epochs") };
        epochs.set_usage(sent, opened);
    };
    let (mut client, mut server) = epoch_pair(Cipher::Aes256Gcm);
    usage(&mut client, NEAR, 0);
    assert!(server.open(&mut seal(&mut client, PAYLOAD)).is_ok());
    assert_eq!((epochs(&client), epochs(&server)), ((2, 1), (2, 2)));
    // What the client received is at its limit: its own step makes the server take one.
    assert!(client.open(&mut seal(&mut server, PAYLOAD)).is_ok());
    usage(&mut client, 0, NEAR);
    assert!(server.open(&mut seal(&mut client, PAYLOAD)).is_ok());
    assert_eq!((epochs(&client), epochs(&server)), ((3, 2), (3, 3)));
    client.set_next(u32::MAX);
    assert!(server.open(&mut seal(&mut client, PAYLOAD)).is_ok() && epochs(&client).0 == 3, "48 bits count");
    let Layout::Epochs(layout) = &mut client.layout else { panic!("a layout without epochs") };
    layout.set_next(1 << 48);
    assert!(server.open(&mut seal(&mut client, PAYLOAD)).is_ok());
    assert_eq!(epochs(&server).1, 4);
}

#[test]
fn epochs_end_in_a_renegotiation() {
    let mut client = epoch_pair(Cipher::Aes256Gcm).0;
    (1..0xefff).for_each(|_| client.advance_epoch());
    assert!(!client.needs_renegotiation());
    client.advance_epoch();
    assert!(client.needs_renegotiation());
    (0..0x2000).for_each(|_| client.advance_epoch());
    assert_eq!(epochs(&client).0, u16::MAX);
    let Layout::Epochs(layout) = &mut client.layout else { panic!("a layout without epochs") };
    layout.set_next(1 << 48);
    assert_eq!(client.seal(&mut [0; 200], 10), Err(Dropped::OverBudget));
}

fn any_suite() -> impl Strategy<Value = Suite> {
    let auths = [
        Algorithm::Md5,
        Algorithm::Sha1,
        Algorithm::Sha224,
        Algorithm::Sha256,
        Algorithm::Sha384,
        Algorithm::Sha512,
    ];
    (prop::sample::select(Cipher::ALL.to_vec()), prop::sample::select(auths.to_vec()), any::<bool>())
        .prop_map(|(cipher, auth, epoch)| Suite { cipher, auth, epoch })
}

proptest! {
    #[test]
    fn what_is_sealed_opens_to_the_same(
        suite in any_suite(), peer_id in proptest::option::of(0u32..=0x00ff_ffff),
        payloads in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..1600), 1..5),
    ) {
        let (mut client, mut server) = pair(suite, peer_id);
        for mut payload in payloads {
            let mut message = seal(&mut client, &payload);
            prop_assert_eq!(server.open(&mut message), Ok(&mut payload[..]));
        }
    }

    #[test]
    fn no_damage_goes_unseen(
        suite in any_suite(), v2 in any::<bool>(), at in 0usize..400, bit in 0u8..8, cut in 0usize..200,
    ) {
        let (mut client, mut server) = pair(suite, v2.then_some(9));
        let message = seal(&mut client, &[7; 100]);
        let mut damaged = message.clone();
        let at = at % damaged.len();
        damaged[at] ^= 1 << bit;
        // The header of P_DATA_V1 and that of CBC are not authenticated: what a flip there may do is name another key.
        let authenticated = at >= 4 || (v2 && suite.cipher.is_aead());
        match server.open(&mut damaged) {
            Ok(payload) => prop_assert!(!authenticated && payload == [7; 100]),
            Err(error) => prop_assert!(
                matches!(error, Dropped::Unauthentic | Dropped::Malformed | Dropped::Replayed), "{error:?}"
            ),
        }
        let mut short = message[..message.len() - 1 - cut % message.len()].to_vec();
        prop_assert!(server.open(&mut short).is_err());
    }
}
