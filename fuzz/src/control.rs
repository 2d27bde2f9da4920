//! The control socket.

use std::fmt::Debug;

use ocserv_proto::control::{
    ControlError, LENGTH_LEN, MAX_REQUEST, MAX_RESPONSE, decode_request, decode_response,
    encode_request, encode_response, message_len,
};

/// What decodes is written back in no more bytes, and read again as the same.
pub fn control(data: &[u8]) {
    check(data, MAX_REQUEST, decode_request, encode_request);
    check(data, MAX_RESPONSE, decode_response, encode_response);
    if let Some((field, rest)) = data.split_first_chunk::<LENGTH_LEN>() {
        check_length(*field, rest);
    }
}

fn check<T: Debug + PartialEq>(
    data: &[u8],
    max: usize,
    decode: fn(&[u8]) -> Result<T, ControlError>,
    encode: fn(&T) -> Result<Vec<u8>, ControlError>,
) {
    let Ok(value) = decode(data) else {
        return;
    };
    let message = encode(&value).expect("it came from a message");
    let (field, body) = message
        .split_first_chunk::<LENGTH_LEN>()
        .expect("a length field");
    assert_eq!(message_len(*field, max), Ok(body.len()));
    assert!(body.len() <= data.len());
    assert_eq!(decode(body), Ok(value));
    assert_eq!(decode(&data[..data.len() - 1]).ok(), None, "a byte less");
    assert_eq!(decode(&[data, &[0]].concat()).ok(), None, "a byte more");
}

fn check_length(field: [u8; LENGTH_LEN], rest: &[u8]) {
    for max in [MAX_REQUEST, MAX_RESPONSE] {
        if let Ok(length) = message_len(field, max) {
            assert!((1..=max).contains(&length));
            assert_eq!(length, u32::from_be_bytes(field) as usize);
            // As a server reads it.
            if let Some(message) = rest.get(..length) {
                let _ = decode_request(message);
            }
        }
    }
}
