//! Messages of the less trusted processes, and the packet link.

use ocserv_daemon::ipc::channel::from_bytes;
use ocserv_daemon::ipc::dataplane::FromDataplane;
use ocserv_daemon::ipc::gate::FromGate;
use ocserv_daemon::ipc::ids::ConnTicket;
use ocserv_daemon::ipc::packet::{
    FLOW_LEN, Frame, HEADER_LEN, Packed, pack, packet_header, packets_header,
};
use ocserv_daemon::ipc::secmod::{AuthReply, AuthRequest, FromSecmod, SignReply, SignRequest};
use ocserv_daemon::ipc::ticket;
use ocserv_proto::secret::Secret;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// The first byte names the type, the others are the message: it is read as one value or refused,
/// and what was read is written back in no more bytes.
pub fn ipc(data: &[u8]) {
    let Some((kind, message)) = data.split_first() else {
        return;
    };
    match kind % 8 {
        0 => check::<FromGate>(message),
        1 => check_auth(message),
        2 => check::<SignRequest>(message),
        3 => check::<FromDataplane>(message),
        4 => check::<FromSecmod>(message),
        5 => check::<AuthReply>(message),
        6 => check::<SignReply>(message),
        _ => check::<ConnTicket>(message),
    }
}

fn check<T: Serialize + DeserializeOwned>(message: &[u8]) {
    let Ok(value) = from_bytes::<T>(message) else {
        return;
    };
    let written = write(&value);
    assert!(written.len() <= message.len());
    let again: T = from_bytes(&written).expect("our own bytes");
    assert_eq!(write(&again), written);
    assert!(
        from_bytes::<T>(&[message, &[0]].concat()).is_err(),
        "a byte more"
    );
    if let Some((_, shorter)) = message.split_last() {
        assert!(from_bytes::<T>(shorter).is_err(), "a byte less");
    }
}

fn write(value: &impl Serialize) -> Vec<u8> {
    postcard::to_stdvec(value).expect("a message can be written")
}

/// No ticket is good that the supervisor did not sign.
fn check_auth(message: &[u8]) {
    check::<AuthRequest>(message);
    let Ok(request) = from_bytes::<AuthRequest>(message) else {
        return;
    };
    let key = Secret::new(vec![7; 32]);
    let mut signed = request.ticket;
    assert!(!ticket::verify(&signed, &key));
    ticket::sign(&mut signed, &key);
    let signable = signed.accepted_at >= std::time::SystemTime::UNIX_EPOCH;
    assert_eq!(ticket::verify(&signed, &key), signable);
    signed.gate.0 ^= 1;
    assert!(!ticket::verify(&signed, &key));
}

/// A frame that is read is written back as the same bytes.
pub fn packet_link(data: &[u8]) {
    let Some(frame) = Frame::parse(data) else {
        return;
    };
    let mut written = Vec::new();
    frame.write(&mut written);
    assert_eq!(written, data);
    match frame {
        Frame::Packet { slot, packet } => {
            assert_eq!(data[..HEADER_LEN], packet_header(slot));
            assert_eq!(data[HEADER_LEN..], *packet);
        }
        Frame::Packets { slot, packets } => {
            assert_eq!(data[..HEADER_LEN], packets_header(slot));
            check_packed(data, packets);
        }
        Frame::Datagram { bytes, .. } => {
            assert_eq!(data[HEADER_LEN + FLOW_LEN..], *bytes);
            assert_eq!(Frame::parse(&data[..HEADER_LEN + FLOW_LEN - 1]), None);
        }
    }
}

/// Each packet lies where its offset says, and packed again they are the beginning of the message.
fn check_packed(data: &[u8], packets: Packed<'_>) {
    let mut again = data[..HEADER_LEN].to_vec();
    for (at, packet) in packets {
        assert_eq!(data[at..at + packet.len()], *packet);
        assert_eq!(pack(&mut again, packet), Some(at));
    }
    assert!(data.starts_with(&again));
    let left = &data[again.len()..];
    let is_whole = left
        .split_first_chunk()
        .is_some_and(|(length, rest)| usize::from(u16::from_le_bytes(*length)) <= rest.len());
    assert!(!is_whole, "a packet was left out");
}
