//! The keys of the data channel: by the exporter of TLS, or by the PRF of TLS 1.0 from both ends' randoms.

use zeroize::Zeroizing;

use super::Randoms;
use crate::Algorithm;
use crate::data::KeyMaterial;
use crate::mac::Mac;
use crate::wire::SessionId;

/// The label under which TLS exports the keys of the data channel.
pub const DATA_KEYS_LABEL: &[u8] = b"EXPORTER-OpenVPN-datakeys";
/// The label under which TLS exports the key of dynamic tls-crypt.
pub const DYNAMIC_TLS_CRYPT_LABEL: &[u8] = b"EXPORTER-OpenVPN-dynamic-tls-crypt";

/// Keys from the randoms of both ends, where the exporter is not negotiated.
pub fn derive_keys(
    client: &Randoms,
    server: &Randoms,
    client_session: &SessionId,
    server_session: &SessionId,
) -> KeyMaterial {
    let mut master = Zeroizing::new([0; 48]);
    let seed = [&client.first[..], &server.first[..]];
    prf(&client.pre_master[..], b"OpenVPN master secret", &seed, &mut *master);
    let mut keys = Zeroizing::new([0; 256]);
    let seed = [&client.second[..], &server.second[..], client_session, server_session];
    prf(&master[..], b"OpenVPN key expansion", &seed, &mut *keys);
    KeyMaterial::new(keys)
}

/// The PRF of TLS 1.0 (RFC 2246 §5): P_MD5 of the first half of the secret, XOR P_SHA-1 of the second.
pub fn prf(secret: &[u8], label: &[u8], seed: &[&[u8]], out: &mut [u8]) {
    let seed: Vec<u8> = [&[label], seed].concat().concat();
    // The halves of an odd secret share a byte.
    let half = secret.len().div_ceil(2);
    let (first, _) = secret.split_at(half);
    let (_, second) = secret.split_at(secret.len() - half);
    out.fill(0);
    expand(Algorithm::Md5, first, &seed, out);
    expand(Algorithm::Sha1, second, &seed, out);
}

/// XORs P_hash (RFC 2246 §5) onto `out`.
fn expand(algorithm: Algorithm, secret: &[u8], seed: &[u8], out: &mut [u8]) {
    let mac = Mac::new(algorithm, secret);
    let mut a = mac.sign(&[seed]);
    for chunk in out.chunks_mut(mac.tag_len()) {
        let block = mac.sign(&[a.as_ref(), seed]);
        chunk.iter_mut().zip(block.as_ref()).for_each(|(byte, key)| *byte ^= key);
        a = mac.sign(&[a.as_ref()]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_prf_agrees_with_the_known_vector() {
        // The vector that implementers of TLS 1.0 agreed on (mailing list ietf-tls, 1999; also in the tests of GnuTLS).
        let mut out = [0; 104];
        prf(&[0xab; 48], b"PRF Testvector", &[&[0xcd; 64]], &mut out);
        let expected = "d3d4d1e349b5d515044666d51de32bab258cb521b6b053463e354832fd976754443bcf9a296519bc289abcbc1187e4eb\
                        d31e602353776c408aafb74cbc85eff69255f9788faa184cbb957a9819d84a5d7eb006eb459d3ae8de9810454b8b2d8\
                        f1afbc655a8c9a013";
        let hex: String = out.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hex, expected.replace(' ', ""));
    }

    #[test]
    fn every_contribution_changes_the_keys() {
        let randoms = |byte: u8| Randoms {
            pre_master: Zeroizing::new([byte; 48]),
            first: Zeroizing::new([byte; 32]),
            second: Zeroizing::new([byte; 32]),
        };
        let keys = |a: &Randoms, b: &Randoms, c: u8, d: u8| {
            let suite =
                crate::data::Suite { cipher: crate::Cipher::Aes256Gcm, auth: Algorithm::Sha1, epoch: false };
            let material = derive_keys(a, b, &[c; 8], &[d; 8]);
            let parameters = crate::data::Parameters {
                role: crate::data::Role::Client,
                key_id: 0,
                peer_id: None,
                replay_window: 64,
            };
            let mut keys = crate::data::DataKeys::new(suite, &material, &parameters);
            let mut slot = vec![0; keys.sealed_len(16)];
            keys.seal(&mut slot, 16).unwrap();
            slot
        };
        let (a, b) = (randoms(1), randoms(2));
        let base = keys(&a, &b, 3, 4);
        assert_eq!(base, keys(&a, &b, 3, 4));
        for other in [keys(&b, &b, 3, 4), keys(&a, &a, 3, 4), keys(&a, &b, 9, 4), keys(&a, &b, 3, 9)] {
            assert_ne!(base, other);
        }
    }
}
