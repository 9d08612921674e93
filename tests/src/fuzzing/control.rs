//! Messages of the control socket.

use adit::control::{Reply, Request, decode, encode, split};

/// Takes a byte stream apart into messages and reads each as both sides would.
pub fn control_message(mut stream: &[u8]) {
    while let Ok(Some((body, used))) = split(stream) {
        assert!(used > body.len() && used <= stream.len(), "a message lies inside its stream");
        if let Ok(request) = Request::parse(body) {
            let again = encode(&request).expect("what was read can be written");
            let (body, _) = split(&again).expect("a written message is whole").expect("and long enough");
            assert_eq!(Request::parse(body).as_ref(), Ok(&request), "a request survives the way");
        }
        if let Ok(reply) = decode::<Reply>(body) {
            let again = encode(&reply).expect("what was read can be written");
            let (body, _) = split(&again).expect("a written message is whole").expect("and long enough");
            assert_eq!(decode::<Reply>(body).as_ref(), Ok(&reply), "a reply survives the way");
        }
        stream = &stream[used..];
    }
}
