//! STUN (RFC 5389): binding requests and what servers answer.

use std::net::{IpAddr, SocketAddr};

/// Length of a request.
pub(crate) const REQUEST_LEN: usize = 40;
const COOKIE: [u8; 4] = [0x21, 0x12, 0xa4, 0x42];
const BINDING_SUCCESS: [u8; 2] = [0x01, 0x01];
const HEADER: usize = 20;
/// Servers of the tailnet answer only requests with this SOFTWARE attribute and a FINGERPRINT.
const SOFTWARE: &[u8; 8] = b"tailnode";
/// RFC 5389 §15.5.
const FINGERPRINT_XOR: u32 = 0x5354_554e;

/// The number of a request, which its answer repeats.
pub(crate) type Transaction = [u8; 12];

/// Whether a datagram has the form of a STUN message (RFC 5389 §6): two zero bits and the cookie.
pub(crate) fn is_stun(packet: &[u8]) -> bool {
    packet.len() >= HEADER
        && packet.first().is_some_and(|first| first & 0xc0 == 0)
        && packet.get(4..8) == Some(&COOKIE[..])
}

/// A binding request.
pub(crate) fn request(transaction: &Transaction) -> [u8; REQUEST_LEN] {
    let mut packet = [0; REQUEST_LEN];
    packet[1] = 1;
    packet[3] = (REQUEST_LEN - HEADER) as u8;
    packet[4..8].copy_from_slice(&COOKIE);
    packet[8..20].copy_from_slice(transaction);
    packet[20..24].copy_from_slice(&[0x80, 0x22, 0, SOFTWARE.len() as u8]);
    packet[24..32].copy_from_slice(SOFTWARE);
    packet[32..36].copy_from_slice(&[0x80, 0x28, 0, 4]);
    let fingerprint = crc32(&packet[..32]) ^ FINGERPRINT_XOR;
    packet[36..].copy_from_slice(&fingerprint.to_be_bytes());
    packet
}

/// The transaction of a request, as a server reads it; `None` if it is no binding request that a server answers.
pub fn parse_request(packet: &[u8]) -> Option<[u8; 12]> {
    let whole = is_stun(packet) && packet.starts_with(&[0, 1]) && packet.len() == REQUEST_LEN;
    let (body, fingerprint) = packet.split_last_chunk::<4>()?;
    let sum = crc32(body.get(..REQUEST_LEN - 8)?) ^ FINGERPRINT_XOR;
    let marked = packet.get(24..32) == Some(&SOFTWARE[..]) && u32::from_be_bytes(*fingerprint) == sum;
    (whole && marked).then(|| packet.get(8..20)?.try_into().ok()).flatten()
}

/// The answer of a server that saw a request come from `source`.
pub fn response(transaction: &[u8; 12], source: SocketAddr) -> Vec<u8> {
    let mut address = vec![0, if source.is_ipv4() { 1 } else { 2 }];
    address.extend((source.port() ^ 0x2112).to_be_bytes());
    let mask = COOKIE.iter().chain(transaction);
    let octets = match source.ip() {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    };
    address.extend(octets.iter().zip(mask).map(|(byte, mask)| byte ^ mask));
    let mut packet = BINDING_SUCCESS.to_vec();
    packet.extend((4 + address.len() as u16).to_be_bytes());
    packet.extend(COOKIE);
    packet.extend(transaction);
    packet.extend([0, 0x20]);
    packet.extend((address.len() as u16).to_be_bytes());
    packet.extend(address);
    packet
}

/// Reads a binding success: the transaction and the address that the server saw.
pub fn parse_response(packet: &[u8]) -> Option<([u8; 12], SocketAddr)> {
    if !is_stun(packet) || !packet.starts_with(&BINDING_SUCCESS) {
        return None;
    }
    let transaction: Transaction = packet.get(8..20)?.try_into().ok()?;
    let stated = usize::from(u16::from_be_bytes(*packet.get(2..)?.first_chunk()?));
    let mut rest = packet.get(HEADER..HEADER + stated)?;
    let mut fallback = None;
    while let Some((header, tail)) = rest.split_first_chunk::<4>() {
        let [high, low, length_high, length_low] = *header;
        let length = usize::from(u16::from_be_bytes([length_high, length_low]));
        let value = tail.get(..length)?;
        match u16::from_be_bytes([high, low]) {
            // XOR-MAPPED-ADDRESS, and its number in an early draft.
            0x0020 | 0x8020 => return Some((transaction, address(value, Some(&transaction))?)),
            // MAPPED-ADDRESS.
            0x0001 => fallback = address(value, None),
            _ => {}
        }
        // Values are padded to four bytes (§15); the padding of the last may be missing.
        rest = tail.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    Some((transaction, fallback?))
}

fn address(value: &[u8], xor: Option<&Transaction>) -> Option<SocketAddr> {
    let (&[_, family, port_high, port_low], octets) = value.split_first_chunk::<4>()?;
    let mut mask = [0; 16];
    if let Some(transaction) = xor {
        mask[..4].copy_from_slice(&COOKIE);
        mask[4..].copy_from_slice(transaction);
    }
    let port = u16::from_be_bytes([port_high, port_low]) ^ u16::from_be_bytes([mask[0], mask[1]]);
    let ip = match family {
        1 => IpAddr::from(unmask::<4>(octets, &mask)?),
        2 => IpAddr::from(unmask::<16>(octets, &mask)?),
        _ => return None,
    };
    Some(SocketAddr::new(ip, port))
}

fn unmask<const N: usize>(octets: &[u8], mask: &[u8; 16]) -> Option<[u8; N]> {
    let mut plain: [u8; N] = *octets.first_chunk()?;
    plain.iter_mut().zip(mask).for_each(|(byte, mask)| *byte ^= mask);
    Some(plain)
}

/// CRC-32 (ITU-T V.42) bit by bit: for messages of 40 bytes a table would be longer than the work.
fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(u32::MAX, |sum, byte| {
        (0..8).fold(sum ^ u32::from(*byte), |sum, _| (sum >> 1) ^ (0xedb8_8320 & (sum & 1).wrapping_neg()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sum_is_crc_32() {
        assert_eq!(crc32(b"123456789"), 0xcbf4_3926);
    }

    #[test]
    fn a_request_is_one_that_servers_answer() {
        let transaction = [7; 12];
        let request = request(&transaction);
        assert!(is_stun(&request));
        assert_eq!(parse_request(&request), Some(transaction));
        let mut wrong = request;
        wrong[25] ^= 1;
        assert_eq!(parse_request(&wrong), None);
    }

    #[test]
    fn answers_of_rfc_5769_are_read() {
        // RFC 5769 §2.2 and §2.3: 192.0.2.1:32853 and [2001:db8:1234:5678:11:2233:4455:6677]:32853.
        let v4 = b"\x01\x01\x00\x3c\x21\x12\xa4\x42\xb7\xe7\xa7\x01\xbc\x34\xd6\x86\xfa\x87\xdf\xae\
            \x80\x22\x00\x0b\x74\x65\x73\x74\x20\x76\x65\x63\x74\x6f\x72\x20\
            \x00\x20\x00\x08\x00\x01\xa1\x47\xe1\x12\xa6\x43\
            \x00\x08\x00\x14\x2b\x91\xf5\x99\xfd\x9e\x90\xc3\x8c\x74\x89\xf9\x2a\xf9\xba\x53\xf0\x6b\xe7\xd7\
            \x80\x28\x00\x04\xc0\x7d\x4c\x96";
        let (transaction, address) = parse_response(v4).unwrap();
        assert_eq!((transaction[0], address), (0xb7, "192.0.2.1:32853".parse().unwrap()));
        let v6: SocketAddr = "[2001:db8:1234:5678:11:2233:4455:6677]:32853".parse().unwrap();
        for source in [v6, "203.0.113.7:1".parse().unwrap()] {
            let answer = response(&transaction, source);
            assert_eq!(parse_response(&answer), Some((transaction, source)));
            for cut in 0..answer.len() {
                assert_eq!(parse_response(&answer[..cut]), None, "{cut} bytes");
            }
        }
    }
}
