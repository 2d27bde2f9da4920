//! DTLS records and hellos.

use std::time::Duration;

use ocserv_common::replay::{MAX_SEQUENCE, ReplayWindow};
use ocserv_common::session::{ChannelState, DropReason};
use ocserv_proto::dtls::channel::{MAX_HEADROOM, Opened, TAG};
use ocserv_proto::dtls::control::{DtlsInput, DtlsSettings, DtlsTimer};
use ocserv_proto::dtls::hello::{APP_ID, HelloError, find_app_id};
use ocserv_proto::dtls::record::{ContentType, RECORD_HEADER, RecordHeader, split_record};
use ocserv_proto::dtls::{ChannelKeys, Cipher, DtlsChannel, DtlsControl};
use ocserv_proto::secret::Secret;

use crate::input::{Choices, Reader};

const CIPHERS: [Cipher; 3] = [
    Cipher::Aes128Gcm,
    Cipher::Aes256Gcm,
    Cipher::ChaCha20Poly1305,
];

/// A datagram is cut at its records' ends, none of them is taken for authentic, and what the peer
/// seals comes through once and unchanged, or not at all.
pub fn dtls_record(data: &[u8]) {
    let records = split(data);
    for cipher in CIPHERS {
        let (server, client) = pair(cipher);
        for record in &records {
            refuses(&server, record);
        }
        refuses(&server, data);
        let mut choices = Choices::new(data);
        let record = seal(&client, data, &mut choices);
        opens_once(&server, &record, data);
        refuses_changed(&server, record, &mut choices);
    }
}

fn split(data: &[u8]) -> Vec<Vec<u8>> {
    let mut datagram = data.to_vec();
    let mut records = Vec::new();
    let mut rest = &mut datagram[..];
    let mut left = rest.len();
    while let Some((header, record, later)) = split_record(rest) {
        assert_eq!(header.to_bytes(), record[..RECORD_HEADER]);
        assert_eq!(header.record_len(), record.len());
        assert!(header.sequence <= MAX_SEQUENCE);
        assert_eq!(RecordHeader::parse(record), Some(header));
        assert_eq!(RecordHeader::parse(&record[..record.len() - 1]), None);
        records.push(record.to_vec());
        left = later.len();
        rest = later;
    }
    assert_eq!(records.concat(), data[..data.len() - left]);
    records
}

/// Both ends of a channel: the server's, the client's.
fn pair(cipher: Cipher) -> (DtlsChannel, DtlsChannel) {
    let part = |seed: u8, length: usize| Secret::new(vec![seed; length]);
    let keys = ChannelKeys {
        cipher,
        epoch: 1,
        next_send: 1,
        next_receive: 1,
        client_key: part(1, cipher.key_len()),
        client_iv: part(2, cipher.iv_len()),
        server_key: part(3, cipher.key_len()),
        server_iv: part(4, cipher.iv_len()),
    };
    let swapped = ChannelKeys {
        client_key: keys.server_key.clone(),
        client_iv: keys.server_iv.clone(),
        server_key: keys.client_key.clone(),
        server_iv: keys.client_iv.clone(),
        ..keys.clone()
    };
    let channel = |keys| DtlsChannel::new(keys).expect("lengths fit the cipher");
    (channel(&keys), channel(&swapped))
}

/// Nobody sealed it, so it is not opened and the window does not move.
fn refuses(channel: &DtlsChannel, record: &[u8]) {
    let window = ReplayWindow::new();
    window.reset(1);
    let mut bytes = record.to_vec();
    let reason = channel
        .open(&mut bytes, &window)
        .expect_err("a forged record");
    assert!(matches!(
        reason,
        DropReason::Malformed | DropReason::Auth | DropReason::Replay
    ));
    if let Some(header) = RecordHeader::parse(record).filter(|header| header.sequence > 0) {
        assert!(window.would_accept(header.sequence));
    }
}

fn seal(channel: &DtlsChannel, payload: &[u8], choices: &mut Choices) -> Vec<u8> {
    let sequence = 1 + choices.below(MAX_SEQUENCE);
    let kind = choices.below(12) as u8;
    let mut record = vec![0; MAX_HEADROOM + payload.len() + TAG];
    let length = channel
        .seal(sequence, kind, payload, &mut record)
        .expect("the fuzzer's input fits a record");
    assert_eq!(length, payload.len() + channel.overhead());
    record.truncate(length);
    let header = RecordHeader::parse(&record).expect("our own header");
    assert_eq!((header.sequence, header.epoch), (sequence, channel.epoch()));
    record
}

fn opens_once(channel: &DtlsChannel, record: &[u8], payload: &[u8]) {
    let window = ReplayWindow::new();
    window.reset(1);
    let mut first = record.to_vec();
    let opened = channel
        .open(&mut first, &window)
        .expect("the peer sealed it");
    assert_eq!(opened.content_type, ContentType::ApplicationData);
    assert_eq!(opened.plaintext[1..], *payload);
    check_control(opened);
    let mut again = record.to_vec();
    assert_eq!(channel.open(&mut again, &window), Err(DropReason::Replay));
}

/// One bit is enough.
fn refuses_changed(channel: &DtlsChannel, mut record: Vec<u8>, choices: &mut Choices) {
    let at = choices.below(record.len() as u64) as usize;
    record[at] ^= 1 << choices.below(8);
    refuses(channel, &record);
}

fn check_control(opened: Opened<'_>) {
    let settings = DtlsSettings {
        dpd: Duration::from_secs(30),
        switch_to_tcp: Duration::from_secs(25),
    };
    let start = Duration::from_secs(100);
    let state = ChannelState::default();
    state.start(1, 1, 1, 1, start.as_millis() as u64);
    let live = &state.live;
    let control = DtlsControl::new(settings);
    let kind = opened.plaintext[0];
    let payload = opened.plaintext[1..].to_vec();
    match (kind, DtlsControl::received(live, start, opened)) {
        (0, DtlsInput::Packet(packet)) => assert!(!packet.is_empty() && *packet == payload[..]),
        (0, DtlsInput::Ignore) => assert!(payload.is_empty()),
        (3, DtlsInput::Respond(answer)) => assert_eq!(*answer, payload[..]),
        (4, DtlsInput::Answered) => {}
        (8, DtlsInput::Drop(DropReason::Malformed)) => {}
        (0 | 3 | 4 | 8, other) => panic!("type {kind}: {other:?}"),
        (_, input) => assert_eq!(input, DtlsInput::Ignore),
    }
    let mut now = start;
    while let Some(due) = control.poll_timeout(live) {
        assert!(due > now, "a timeout that stays due");
        now = due;
        assert_ne!(control.handle_timeout(live, now), DtlsTimer::Nothing);
    }
    assert_eq!(
        now,
        start + settings.dpd * 3,
        "silence ends the use of the channel"
    );
}

/// An App-ID comes out of a whole, plain ClientHello only; what stands elsewhere does not matter.
pub fn dtls_hello(data: &[u8]) {
    check_any(data);
    check_built(&mut Reader(data));
}

fn check_any(datagram: &[u8]) {
    let Ok(app_id) = find_app_id(datagram) else {
        return;
    };
    let header = RecordHeader::parse(datagram).expect("a record");
    assert_eq!(
        (header.content_type, header.epoch),
        (ContentType::Handshake, 0)
    );
    let record = &datagram[..header.record_len()];
    assert!(record.windows(APP_ID).any(|window| window == app_id));
    assert_eq!(find_app_id(record), Ok(app_id), "what follows the record");
    assert!(find_app_id(&record[..record.len() - 1]).is_err());
    let mut later = record.to_vec();
    later[5..11].copy_from_slice(&[0, 0, 0, 0, 0xff, 0xff]);
    assert_eq!(
        find_app_id(&later),
        Ok(app_id),
        "a hello that is sent again"
    );
}

/// A well-formed hello with these parts gives the App-ID that they name.
fn check_built(reader: &mut Reader<'_>) {
    let random: [u8; 32] = reader.array();
    let with_extension = reader.byte();
    let app_id_len = usize::from(reader.byte() % 40);
    let app_id = reader.bytes(app_id_len);
    let session_id_len = usize::from(reader.byte() % 36);
    let session_id = reader.bytes(session_id_len);
    let other = reader.bytes(300);
    let extension = match with_extension % 3 {
        0 => None,
        1 => Some(None),
        _ => Some(Some(app_id)),
    };
    let expected = match extension {
        _ if random == [0; 32] => Err(HelloError::ZeroRandom),
        _ if session_id.len() > 32 => Err(HelloError::Malformed),
        Some(Some(app_id)) => app_id.try_into().map_err(|_| HelloError::NoAppId),
        _ => session_id.try_into().map_err(|_| HelloError::NoAppId),
    };
    assert_eq!(
        find_app_id(&hello(&random, session_id, other, extension)),
        expected
    );
}

/// ClientHello as in RFC 6347 4.2.2; `extension`: none at all, others only, or others and ours.
fn hello(
    random: &[u8; 32],
    session_id: &[u8],
    other: &[u8],
    extension: Option<Option<&[u8]>>,
) -> Vec<u8> {
    let mut body = vec![0xfe, 0xfd];
    body.extend(random);
    body.extend(short(session_id));
    body.extend(short(&[]));
    body.extend([0, 2, 0, 0xa9, 1, 0]);
    if let Some(ours) = extension {
        let mut list = [&[0xff, 0x01][..], &long(other)].concat();
        if let Some(app_id) = ours {
            list.extend(48018_u16.to_be_bytes());
            list.extend(long(&short(app_id)));
        }
        body.extend(long(&list));
    }
    let length = &(body.len() as u32).to_be_bytes()[1..];
    let message = [&[1], length, &[0; 5], length, &body].concat();
    let start = [22, 0xfe, 0xff, 0, 0, 0, 0, 0, 0, 0, 0];
    [&start[..], &long(&message)].concat()
}

fn short(bytes: &[u8]) -> Vec<u8> {
    [&[bytes.len() as u8], bytes].concat()
}

fn long(bytes: &[u8]) -> Vec<u8> {
    [&(bytes.len() as u16).to_be_bytes(), bytes].concat()
}
