//! The maximum segment size option (RFC 9293 §3.7.1).

use adit_tunnel::view::TcpView;

const END: u8 = 0;
const NO_OPERATION: u8 = 1;
const MSS: u8 = 2;

/// What a SYN without the option says, by RFC 9293 §3.7.1.
pub(crate) fn default(v4: bool) -> u16 {
    if v4 { 536 } else { 1220 }
}

/// What the segment says that its sender takes.
pub(crate) fn read(tcp: &TcpView<'_>) -> Option<u16> {
    let options = tcp.options();
    let at = find(options)?;
    Some(u16::from_be_bytes([options[at], options[at + 1]]))
}

/// Replaces the value in the TCP header at the front of `header`, if it has the option. The checksum is left as it is.
pub(crate) fn write(header: &mut [u8], mss: u16) {
    let end = (usize::from(header[12] >> 4) * 4).min(header.len());
    if let Some(at) = header.get(20..end).and_then(find) {
        header[20 + at..20 + at + 2].copy_from_slice(&mss.to_be_bytes());
    }
}

/// Where the option's value lies.
fn find(options: &[u8]) -> Option<usize> {
    let mut at = 0;
    loop {
        match *options.get(at)? {
            END => return None,
            NO_OPERATION => at += 1,
            kind => {
                let length = usize::from(*options.get(at + 1)?);
                if length < 2 {
                    return None;
                }
                if kind == MSS {
                    return (length == 4 && at + 4 <= options.len()).then_some(at + 2);
                }
                at += length;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn header(options: &[u8]) -> Vec<u8> {
        let mut header = vec![0; 20];
        header.extend(options);
        header.resize(header.len().next_multiple_of(4), END);
        header[12] = (header.len() / 4) as u8 * 16;
        header
    }

    #[test]
    fn the_option_is_found_behind_others_and_replaced() {
        let mut header = header(&[NO_OPERATION, 3, 3, 7, 4, 2, MSS, 4, 0x05, 0xb4]);
        assert_eq!(read(&TcpView::parse(&header).unwrap()), Some(1460));
        write(&mut header, 1340);
        assert_eq!(read(&TcpView::parse(&header).unwrap()), Some(1340));
    }

    #[test]
    fn a_truncated_or_misshapen_option_is_none() {
        for options in
            [&[MSS][..], &[MSS, 4, 1], &[MSS, 3, 1, 0], &[MSS, 0], &[3, 1, MSS, 4], &[END, MSS, 4, 5]]
        {
            let header = header(options);
            let value = read(&TcpView::parse(&header).unwrap());
            assert!(value.is_none() || options == [MSS, 4, 1], "{options:?}: {value:?}");
        }
    }

    proptest! {
        #[test]
        fn no_options_panic(options in proptest::collection::vec(any::<u8>(), 0..40)) {
            let mut header = header(&options);
            if let Some(before) = read(&TcpView::parse(&header).unwrap()) {
                write(&mut header, before ^ 1);
                prop_assert_eq!(read(&TcpView::parse(&header).unwrap()), Some(before ^ 1));
            }
        }
    }
}
