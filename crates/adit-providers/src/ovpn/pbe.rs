//! Encryption under a password: PBES2 and PBES1 (RFC 8018), those of PKCS#12 (RFC 7292 appendix B and C), and the
//! older form of OpenSSL with `Proc-Type: 4,ENCRYPTED` (RFC 1421).

use std::num::NonZeroU32;

use cbc::cipher::block_padding::Pkcs7;
use cbc::cipher::{BlockCipher, BlockDecryptMut, KeyInit};
use md5::{Digest, Md5};
use ring::pbkdf2;
use sha1::Sha1;
use sha2::{Sha256, Sha384, Sha512};
use zeroize::Zeroizing;

use super::der::{Der, INTEGER, OCTETS, OID, SEQUENCE, damaged, dotted};
use super::pem::Pem;
use crate::Problem;

/// More rounds than any program writes; a hostile file must not keep us busy.
const MAX_ROUNDS: u64 = 2_000_000;
/// The most memory that scrypt may take.
const MAX_SCRYPT: u64 = 64 * 1024 * 1024;

const PBES2: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 5, 13];
const PBKDF2: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 5, 12];
const SCRYPT: &[u8] = &[0x2b, 6, 1, 4, 1, 0xda, 0x47, 4, 11];
const MD5_DES: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 5, 3];
const SHA1_DES: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 5, 10];
/// `pkcs-12PbeIds`; the last number says which.
const PKCS12_PBE: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 12, 1];
const HMAC: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 2];
const AES: &[u8] = &[0x60, 0x86, 0x48, 1, 0x65, 3, 4, 1];
const DES_EDE3: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 3, 7];
const DES: &[u8] = &[0x2b, 0x0e, 3, 2, 7];

/// Why something stays closed.
#[derive(Debug)]
pub(super) enum Closed {
    /// The password is wrong.
    Password,
    /// It cannot be opened with any password.
    Problem(Problem),
}

impl From<Problem> for Closed {
    fn from(problem: Problem) -> Self {
        Self::Problem(problem)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cipher {
    Aes128,
    Aes192,
    Aes256,
    TripleDes,
    Des,
    Rc2 { bits: usize },
}

impl Cipher {
    fn key_length(self) -> usize {
        match self {
            Self::Aes128 => 16,
            Self::Aes192 | Self::TripleDes => 24,
            Self::Aes256 => 32,
            Self::Des => 8,
            Self::Rc2 { bits } => bits / 8,
        }
    }
}

/// Opens what an `AlgorithmIdentifier` says how to open. `algorithm` is its content.
pub(super) fn open(
    algorithm: &[u8],
    data: &[u8],
    password: &str,
    what: &str,
) -> Result<Zeroizing<Vec<u8>>, Closed> {
    let unreadable = || Closed::Problem(damaged(what));
    let mut algorithm = Der(algorithm);
    let oid = algorithm.take(OID).ok_or_else(unreadable)?;
    let mut parameters = algorithm.enter(SEQUENCE).ok_or_else(unreadable)?;
    if oid == PBES2 {
        return pbes2(parameters, data, password, what);
    }
    let salt = parameters.take(OCTETS).ok_or_else(unreadable)?;
    let rounds = rounds(parameters.number(), what)?;
    if let Some([kind]) = oid.strip_prefix(PKCS12_PBE) {
        let cipher = match kind {
            3 => Cipher::TripleDes,
            5 => Cipher::Rc2 { bits: 128 },
            6 => Cipher::Rc2 { bits: 40 },
            _ => return Err(unknown(what, oid).into()),
        };
        let secret = utf16(password);
        let key = derive::<Sha1, 64>(&secret, salt, rounds, 1, cipher.key_length());
        let iv = derive::<Sha1, 64>(&secret, salt, rounds, 2, 8);
        return decrypt(cipher, &key, &iv, data);
    }
    let derived = match oid {
        MD5_DES => pbkdf1::<Md5>(password, salt, rounds),
        SHA1_DES => pbkdf1::<Sha1>(password, salt, rounds),
        _ => return Err(unknown(what, oid).into()),
    };
    let (key, rest) = derived.split_first_chunk::<8>().ok_or_else(unreadable)?;
    decrypt(Cipher::Des, key, rest.get(..8).unwrap_or_default(), data)
}

fn pbes2(
    mut parameters: Der<'_>,
    data: &[u8],
    password: &str,
    what: &str,
) -> Result<Zeroizing<Vec<u8>>, Closed> {
    let unreadable = || Closed::Problem(damaged(what));
    let mut function = parameters.enter(SEQUENCE).ok_or_else(unreadable)?;
    let mut encryption = parameters.enter(SEQUENCE).ok_or_else(unreadable)?;
    let oid = encryption.take(OID).ok_or_else(unreadable)?;
    let iv = encryption.take(OCTETS).ok_or_else(unreadable)?;
    let cipher = match oid {
        DES_EDE3 => Cipher::TripleDes,
        DES => Cipher::Des,
        _ => match oid.strip_prefix(AES) {
            Some([2]) => Cipher::Aes128,
            Some([22]) => Cipher::Aes192,
            Some([42]) => Cipher::Aes256,
            _ => return Err(unknown(what, oid).into()),
        },
    };
    let mut key = Zeroizing::new(vec![0u8; cipher.key_length()]);
    let oid = function.take(OID).ok_or_else(unreadable)?;
    let mut function = function.enter(SEQUENCE).ok_or_else(unreadable)?;
    let salt = function.take(OCTETS).ok_or_else(unreadable)?;
    match oid {
        PBKDF2 => {
            let rounds = rounds(function.number(), what)?;
            // A key length may stand between; the cipher has it.
            function.take(INTEGER);
            let prf = match function.enter(SEQUENCE).and_then(|mut prf| prf.take(OID)) {
                None => pbkdf2::PBKDF2_HMAC_SHA1,
                Some(oid) => match oid.strip_prefix(HMAC) {
                    Some([7]) => pbkdf2::PBKDF2_HMAC_SHA1,
                    Some([9]) => pbkdf2::PBKDF2_HMAC_SHA256,
                    Some([10]) => pbkdf2::PBKDF2_HMAC_SHA384,
                    Some([11]) => pbkdf2::PBKDF2_HMAC_SHA512,
                    _ => return Err(unknown(what, oid).into()),
                },
            };
            pbkdf2::derive(prf, rounds, salt, password.as_bytes(), &mut key);
        }
        SCRYPT => {
            let numbers = [function.number(), function.number(), function.number()];
            let [Some(n), Some(r), Some(p)] = numbers else { return Err(unreadable()) };
            let memory = n.checked_mul(r).and_then(|product| product.checked_mul(128));
            let fits =
                memory.is_some_and(|memory| memory <= MAX_SCRYPT) && p <= 4 && n.is_power_of_two() && n > 1;
            let parameters = fits
                .then(|| scrypt::Params::new(n.ilog2() as u8, r as u32, p as u32, key.len()).ok())
                .flatten()
                .ok_or_else(unreadable)?;
            scrypt::scrypt(password.as_bytes(), salt, &parameters, &mut key).map_err(|_| unreadable())?;
        }
        _ => return Err(unknown(what, oid).into()),
    }
    decrypt(cipher, &key, iv, data)
}

/// Opens a block with `Proc-Type: 4,ENCRYPTED`.
pub(super) fn open_traditional(pem: &Pem, password: &str) -> Result<Zeroizing<Vec<u8>>, Closed> {
    let what = "the encrypted private key";
    let info = pem.header("DEK-Info").ok_or_else(|| damaged(what))?;
    let (name, iv) = info.split_once(',').ok_or_else(|| damaged(what))?;
    let cipher = match name.trim() {
        "AES-128-CBC" => Cipher::Aes128,
        "AES-192-CBC" => Cipher::Aes192,
        "AES-256-CBC" => Cipher::Aes256,
        "DES-EDE3-CBC" => Cipher::TripleDes,
        "DES-CBC" => Cipher::Des,
        other => {
            return Err(Problem::new(
                "ovpn.key.unsupported",
                format!("the private key is encrypted with {other}"),
            )
            .fix("encrypt it anew: openssl pkcs8 -topk8 -in client.key -out new.key")
            .into());
        }
    };
    let iv = super::tls::hexadecimal(iv.trim()).ok_or_else(|| damaged(what))?;
    let salt = iv.get(..8).ok_or_else(|| damaged(what))?;
    // EVP_BytesToKey with MD5 and one round.
    let mut key = Zeroizing::new(Vec::with_capacity(48));
    while key.len() < cipher.key_length() {
        let mut hash = Md5::new();
        hash.update(key.get(key.len().saturating_sub(16)..).unwrap_or_default());
        hash.update(password.as_bytes());
        hash.update(salt);
        key.extend_from_slice(&hash.finalize());
    }
    decrypt(cipher, key.get(..cipher.key_length()).unwrap_or_default(), &iv, &pem.der)
}

fn rounds(number: Option<u64>, what: &str) -> Result<NonZeroU32, Closed> {
    number
        .filter(|rounds| *rounds <= MAX_ROUNDS)
        .and_then(|rounds| NonZeroU32::new(rounds as u32))
        .ok_or_else(|| damaged(what).into())
}

fn unknown(what: &str, oid: &[u8]) -> Problem {
    Problem::new("ovpn.key.unsupported", format!("{what} is encrypted in a way that adit does not have"))
        .seen(format!("its algorithm is {}", dotted(oid)))
        .fix("encrypt it anew: openssl pkcs8 -topk8 -v2 aes256 -in client.key -out new.key")
}

/// PKCS#12 passwords are UTF-16 with a zero at the end (RFC 7292 appendix B.1).
pub(super) fn utf16(password: &str) -> Zeroizing<Vec<u8>> {
    Zeroizing::new(password.encode_utf16().chain([0]).flat_map(u16::to_be_bytes).collect())
}

/// RFC 7292 appendix B.2, for a digest with blocks of `BLOCK` bytes.
fn derive<D: Digest, const BLOCK: usize>(
    password: &[u8],
    salt: &[u8],
    rounds: NonZeroU32,
    id: u8,
    length: usize,
) -> Zeroizing<Vec<u8>> {
    let filled = |bytes: &[u8]| -> Vec<u8> {
        bytes.iter().copied().cycle().take(bytes.len().div_ceil(BLOCK) * BLOCK).collect()
    };
    let mut input = Zeroizing::new(filled(salt));
    let secret = Zeroizing::new(filled(password));
    input.extend_from_slice(&secret);
    let mut output = Zeroizing::new(Vec::with_capacity(length + 64));
    while output.len() < length {
        let mut hash = D::new().chain_update([id; BLOCK]).chain_update(input.as_slice()).finalize();
        for _ in 1..rounds.get() {
            hash = D::digest(&hash);
        }
        output.extend_from_slice(&hash);
        // Each block of the input grows by the hash plus one, modulo 2^(8·BLOCK).
        let addend: Vec<u8> = hash.iter().copied().cycle().take(BLOCK).collect();
        let (blocks, _) = input.as_chunks_mut::<BLOCK>();
        for block in blocks {
            let mut carry = 1u16;
            for (byte, more) in block.iter_mut().zip(&addend).rev() {
                carry += u16::from(*byte) + u16::from(*more);
                *byte = carry as u8;
                carry >>= 8;
            }
        }
    }
    output.truncate(length);
    output
}

/// The key of the MAC of a PKCS#12 archive, by the digest's length.
pub(super) fn mac_key(
    digest: usize,
    password: &[u8],
    salt: &[u8],
    rounds: u64,
) -> Option<Zeroizing<Vec<u8>>> {
    let rounds = NonZeroU32::new(u32::try_from(rounds.min(MAX_ROUNDS)).ok()?)?;
    Some(match digest {
        20 => derive::<Sha1, 64>(password, salt, rounds, 3, digest),
        32 => derive::<Sha256, 64>(password, salt, rounds, 3, digest),
        48 => derive::<Sha384, 128>(password, salt, rounds, 3, digest),
        64 => derive::<Sha512, 128>(password, salt, rounds, 3, digest),
        _ => return None,
    })
}

/// PBKDF1 (RFC 8018 §5.1): 16 bytes and more.
fn pbkdf1<D: Digest>(password: &str, salt: &[u8], rounds: NonZeroU32) -> Zeroizing<Vec<u8>> {
    let mut hash = D::new().chain_update(password.as_bytes()).chain_update(salt).finalize();
    for _ in 1..rounds.get() {
        hash = D::digest(&hash);
    }
    Zeroizing::new(hash.to_vec())
}

fn decrypt(cipher: Cipher, key: &[u8], iv: &[u8], data: &[u8]) -> Result<Zeroizing<Vec<u8>>, Closed> {
    fn with<C: BlockDecryptMut + BlockCipher + KeyInit>(
        key: &[u8],
        iv: &[u8],
        data: &[u8],
    ) -> Option<Zeroizing<Vec<u8>>> {
        let inner = C::new_from_slice(key).ok()?;
        using(inner, iv, data)
    }
    fn using<C: BlockDecryptMut + BlockCipher>(
        inner: C,
        iv: &[u8],
        data: &[u8],
    ) -> Option<Zeroizing<Vec<u8>>> {
        use cbc::cipher::InnerIvInit as _;
        let mut bytes = Zeroizing::new(data.to_vec());
        let length = cbc::Decryptor::inner_iv_slice_init(inner, iv)
            .ok()?
            .decrypt_padded_mut::<Pkcs7>(&mut bytes)
            .ok()?
            .len();
        bytes.truncate(length);
        Some(bytes)
    }
    let opened = match cipher {
        Cipher::Aes128 => with::<aes::Aes128>(key, iv, data),
        Cipher::Aes192 => with::<aes::Aes192>(key, iv, data),
        Cipher::Aes256 => with::<aes::Aes256>(key, iv, data),
        Cipher::TripleDes => with::<des::TdesEde3>(key, iv, data),
        Cipher::Des => with::<des::Des>(key, iv, data),
        Cipher::Rc2 { bits } => using(rc2::Rc2::new_with_eff_key_len(key, bits), iv, data),
    };
    // A wrong password shows in the padding, most of the time; the caller looks at the content too.
    opened.ok_or(Closed::Password)
}
