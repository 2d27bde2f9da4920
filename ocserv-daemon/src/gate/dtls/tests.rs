//! Handshakes with OpenSSL as the client.

use ocserv_proto::dtls::DtlsChannel;
use ocserv_proto::dtls::prf;
use ocserv_proto::dtls::record::RECORD_HEADER;
use openssl::ssl::{
    ErrorCode, Ssl, SslContextBuilder, SslMethod, SslOptions, SslStream, SslVersion,
};

use super::context::Datagrams;
use super::*;

const PSK: [u8; 32] = [7; 32];
const APP_ID: [u8; 32] = [0xab; 32];
const ALL: [Cipher; 3] = [
    Cipher::Aes256Gcm,
    Cipher::Chacha20Poly1305,
    Cipher::Aes128Gcm,
];

fn flow() -> Flow {
    Flow {
        peer: "192.0.2.7:40000".parse().unwrap(),
        local: "198.51.100.1:443".parse().unwrap(),
    }
}

fn server(ciphers: &[Cipher]) -> DtlsServer {
    DtlsServer::new(DtlsSettings {
        context: DtlsContext::new().unwrap(),
        psk: Secret::new(PSK.to_vec()),
        app_id: APP_ID,
        ciphers: ciphers.to_vec(),
    })
}

/// An OpenSSL client; it cannot place a session id of our choice, so the App-ID goes into
/// the extension of openconnect 7.08.
fn client(psk: [u8; 32], ciphers: &str) -> SslStream<Datagrams> {
    let mut context = SslContextBuilder::new(SslMethod::dtls_client()).unwrap();
    context
        .set_min_proto_version(Some(SslVersion::DTLS1_2))
        .unwrap();
    context.set_options(SslOptions::NO_QUERY_MTU | SslOptions::NO_TICKET);
    context.set_cipher_list(ciphers).unwrap();
    context.set_psk_client_callback(move |_, _, identity, key| {
        identity[..4].copy_from_slice(b"psk\0");
        key[..32].copy_from_slice(&psk);
        Ok(32)
    });
    context
        .add_custom_ext(
            48018,
            openssl::ssl::ExtensionContext::CLIENT_HELLO,
            |_, _, _| Ok(Some([&[32_u8][..], &APP_ID].concat())),
            |_, _, _, _| Ok(()),
        )
        .unwrap();
    let mut ssl = Ssl::new(&context.build()).unwrap();
    ssl.set_mtu(1200).unwrap();
    SslStream::new(ssl, Datagrams::default()).unwrap()
}

/// One step of the client: its datagrams, and whether it is done.
fn step(client: &mut SslStream<Datagrams>, incoming: Option<Vec<u8>>) -> (Vec<Vec<u8>>, bool) {
    client.get_mut().incoming = incoming;
    let done = match client.connect() {
        Ok(()) => true,
        Err(error) if error.code() == ErrorCode::WANT_READ => false,
        Err(error) => panic!("client: {error}"),
    };
    (std::mem::take(&mut client.get_mut().outgoing), done)
}

fn sent(actions: &mut Vec<Action>) -> Vec<Vec<u8>> {
    let mut datagrams = Vec::new();
    for action in actions.drain(..) {
        match action {
            Action::Send(to, flight) => {
                assert_eq!(to, flow());
                datagrams.extend(flight);
            }
            other => panic!("{other:?}"),
        }
    }
    datagrams
}

/// Up to the client's last flight; gives that flight and the keys.
fn handshake(
    server: &mut DtlsServer,
    client: &mut SslStream<Datagrams>,
    now: Now,
) -> (Vec<Vec<u8>>, Box<ChannelKeys>) {
    let mut actions = Vec::new();
    let (hello, _) = step(client, None);
    for datagram in hello {
        server.datagram(now, flow(), &datagram, &mut actions);
    }
    let mut last = Vec::new();
    for datagram in sent(&mut actions) {
        last.extend(step(client, Some(datagram)).0);
    }
    for datagram in &last {
        server.datagram(now, flow(), datagram, &mut actions);
    }
    match actions.pop() {
        Some(Action::Install(_, keys)) => {
            assert!(
                actions.is_empty(),
                "the last flight waits for the dataplane"
            );
            (last, keys)
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn of_the_ciphers_that_a_client_offers_the_servers_first_is_taken() {
    let kernel = [
        Cipher::Chacha20Poly1305,
        Cipher::Aes256Gcm,
        Cipher::Aes128Gcm,
    ];
    let (long, short) = ("PSK-AES256-GCM-SHA384", "PSK-AES128-GCM-SHA256");
    let all = format!("{long}:PSK-CHACHA20-POLY1305:{short}");
    let without = format!("{short}:{long}");
    for (order, offer, expected) in [
        (kernel, &all, dtls::Cipher::ChaCha20Poly1305),
        (ALL, &all, dtls::Cipher::Aes256Gcm),
        (kernel, &without, dtls::Cipher::Aes256Gcm),
    ] {
        let (mut server, mut client) = (server(&order), client(PSK, offer));
        let (_, keys) = handshake(&mut server, &mut client, Now::ZERO);
        assert_eq!(keys.cipher, expected, "{offer}");
    }
}

#[test]
fn both_sides_end_with_the_same_keys_for_each_cipher() {
    let names = [
        (Cipher::Aes256Gcm, "PSK-AES256-GCM-SHA384", 0x00a9),
        (Cipher::Aes128Gcm, "PSK-AES128-GCM-SHA256", 0x00a8),
        (Cipher::Chacha20Poly1305, "PSK-CHACHA20-POLY1305", 0xccab),
    ];
    for (cipher, name, suite) in names {
        let (mut server, mut client) = (server(&[cipher]), client(PSK, name));
        let (_, keys) = handshake(&mut server, &mut client, Now::ZERO);
        let mut actions = Vec::new();
        server.keys_installed(Now::ZERO, &mut actions);
        let done = sent(&mut actions)
            .into_iter()
            .any(|d| step(&mut client, Some(d)).1);
        assert!(done, "{name}: the client takes our Finished");

        let (mut client_random, mut server_random, mut master) = ([0; 32], [0; 32], [0; 48]);
        client.ssl().client_random(&mut client_random);
        client.ssl().server_random(&mut server_random);
        client.ssl().session().unwrap().master_key(&mut master);
        let theirs = prf::derive(suite, &master, &client_random, &server_random, 1, 1, 1).unwrap();
        assert_eq!(keys.client_key, theirs.client_key);
        assert_eq!(keys.server_iv, theirs.server_iv);
        assert_eq!((keys.epoch, keys.next_send, keys.next_receive), (1, 1, 1));

        client.ssl_write(b"\0packet").unwrap();
        let mut record = client.get_mut().outgoing.pop().unwrap();
        let header = RecordHeader::parse(&record).unwrap();
        assert!(header.sequence >= keys.next_receive);
        assert!(record.len() > RECORD_HEADER);
        let channel = DtlsChannel::new(&keys).unwrap();
        assert_eq!(open(&channel, &keys, &mut record), b"\0packet");
    }
}

fn open(channel: &DtlsChannel, keys: &ChannelKeys, record: &mut [u8]) -> Vec<u8> {
    let window = ocserv_common::replay::ReplayWindow::new();
    window.reset(keys.next_receive);
    channel.open(record, &window).unwrap().plaintext.to_vec()
}

#[test]
fn a_lost_last_flight_is_sent_again_byte_for_byte() {
    let (mut server, mut client) = (server(&ALL), client(PSK, "PSK"));
    let (last, _) = handshake(&mut server, &mut client, Now::ZERO);
    let mut actions = Vec::new();
    server.keys_installed(Now::ZERO, &mut actions);
    let lost = sent(&mut actions);
    let later = Duration::from_secs(1);
    server.datagram(later, flow(), &last[0], &mut actions);
    assert_eq!(sent(&mut actions), lost);
    server.handle_timeout(KEEP_LAST_FLIGHT, &mut actions);
    server.datagram(KEEP_LAST_FLIGHT, flow(), &last[0], &mut actions);
    assert!(actions.is_empty(), "forgotten");
}

#[test]
fn a_lost_first_flight_is_sent_again_by_timer_and_on_request() {
    let (mut server, mut client) = (server(&ALL), client(PSK, "PSK"));
    let mut actions = Vec::new();
    let (hello, _) = step(&mut client, None);
    server.datagram(Now::ZERO, flow(), &hello[0], &mut actions);
    let first = sent(&mut actions);
    assert!(!first.is_empty());
    assert_eq!(server.poll_timeout(), Some(Duration::from_millis(400)));
    server.handle_timeout(Duration::from_millis(400), &mut actions);
    assert_eq!(sent(&mut actions), first);
    assert_eq!(server.poll_timeout(), Some(Duration::from_millis(1200)));
    server.datagram(Duration::from_millis(500), flow(), &hello[0], &mut actions);
    assert_eq!(sent(&mut actions), first);
    server.handle_timeout(Duration::from_millis(1200), &mut actions);
    assert_eq!(sent(&mut actions), first);
    let end = Duration::from_secs(60);
    assert_eq!(server.poll_timeout(), Some(end), "not a third time");
    server.handle_timeout(Duration::from_secs(60), &mut actions);
    assert!(matches!(actions[..], [Action::Failed(..)]));
    assert_eq!(server.poll_timeout(), None);
}

#[test]
fn a_client_that_says_nothing_new_gets_a_bounded_number_of_flights() {
    let (mut server, mut client) = (server(&ALL), client(PSK, "PSK"));
    let mut actions = Vec::new();
    let (hello, _) = step(&mut client, None);
    let mut flights = 0;
    for _ in 0..100 {
        server.datagram(Now::ZERO, flow(), &hello[0], &mut actions);
        flights += actions.drain(..).count();
    }
    assert_eq!(flights, 1 + MAX_REPEATS as usize);
}

#[test]
fn a_handshake_under_way_is_not_replaced_at_once() {
    let (mut server, mut first) = (server(&ALL), client(PSK, "PSK"));
    let mut actions = Vec::new();
    let (hello, _) = step(&mut first, None);
    server.datagram(Now::ZERO, flow(), &hello[0], &mut actions);
    let flight = sent(&mut actions);
    let (other, _) = step(&mut client(PSK, "PSK"), None);
    let soon = BETWEEN_HANDSHAKES - Duration::from_millis(1);
    server.datagram(soon, flow(), &other[0], &mut actions);
    assert!(actions.is_empty());
    server.datagram(soon, flow(), &hello[0], &mut actions);
    assert_eq!(sent(&mut actions), flight, "the first goes on");
    server.datagram(BETWEEN_HANDSHAKES, flow(), &other[0], &mut actions);
    assert_ne!(sent(&mut actions), flight, "the second has begun");
}

#[test]
fn keys_that_are_not_installed_end_their_handshake() {
    let mut server = server(&ALL);
    handshake(&mut server, &mut client(PSK, "PSK"), Now::ZERO);
    assert_eq!(server.poll_timeout(), Some(INSTALL_TIMEOUT));
    let mut actions = Vec::new();
    server.handle_timeout(INSTALL_TIMEOUT, &mut actions);
    assert!(matches!(actions[..], [Action::Failed(..)]), "{actions:?}");
    actions.clear();
    server.keys_installed(INSTALL_TIMEOUT, &mut actions);
    assert!(actions.is_empty(), "too late");
    handshake(&mut server, &mut client(PSK, "PSK"), INSTALL_TIMEOUT);
}

#[test]
fn a_client_with_another_key_gets_nothing() {
    let (mut server, mut client) = (server(&ALL), client([8; 32], "PSK"));
    let mut actions = Vec::new();
    let (hello, _) = step(&mut client, None);
    server.datagram(Now::ZERO, flow(), &hello[0], &mut actions);
    for datagram in sent(&mut actions) {
        for answer in step(&mut client, Some(datagram)).0 {
            server.datagram(Now::ZERO, flow(), &answer, &mut actions);
        }
    }
    assert!(
        !actions
            .iter()
            .any(|action| matches!(action, Action::Install(..))),
        "{actions:?}"
    );
}

#[test]
fn a_hello_of_another_session_is_ignored() {
    let mut server = server(&ALL);
    server.settings.app_id = [1; 32];
    let (hello, _) = step(&mut client(PSK, "PSK"), None);
    let mut actions = Vec::new();
    server.datagram(Now::ZERO, flow(), &hello[0], &mut actions);
    assert!(actions.is_empty());
}

#[test]
fn a_later_hello_makes_new_keys() {
    let mut server = server(&ALL);
    let (_, first) = handshake(&mut server, &mut client(PSK, "PSK"), Now::ZERO);
    server.keys_installed(Now::ZERO, &mut Vec::new());
    let mut actions = Vec::new();
    let (hello, _) = step(&mut client(PSK, "PSK"), None);
    server.datagram(Duration::from_secs(1), flow(), &hello[0], &mut actions);
    assert!(actions.is_empty(), "too soon");
    let later = Duration::from_secs(3);
    let (_, second) = handshake(&mut server, &mut client(PSK, "PSK"), later);
    assert_ne!(first.client_key, second.client_key);
}

#[test]
fn a_random_nonce_in_our_range_is_refused() {
    let record = |nonce: u64| {
        let mut bytes = vec![22, 0xfe, 0xfd, 0, 1, 0, 0, 0, 0, 0, 0, 0, 24];
        bytes.extend_from_slice(&nonce.to_be_bytes());
        bytes.extend_from_slice(&[0; 16]);
        vec![bytes]
    };
    let gcm = [0x00, 0xa9];
    assert_eq!(
        handshake::next_send(&record(0x0002_0000_0000_0007), gcm).unwrap(),
        1
    );
    assert_eq!(
        handshake::next_send(&record(0x0001_0000_0000_0000), gcm).unwrap(),
        1
    );
    assert!(handshake::next_send(&record(0x0001_0000_0000_0007), gcm).is_err());
    assert_eq!(
        handshake::next_send(&record(0x0001_0000_0000_0007), [0xcc, 0xab]).unwrap(),
        1
    );
    assert!(handshake::next_send(&[], gcm).is_err());
}

#[test]
fn noise_is_survived() {
    let mut server = server(&ALL);
    let mut actions = Vec::new();
    let (hello, _) = step(&mut client(PSK, "PSK"), None);
    for cut in 0..hello[0].len() {
        server.datagram(Now::ZERO, flow(), &hello[0][..cut], &mut actions);
        let mut broken = hello[0].clone();
        broken[cut] ^= 0x80;
        server.datagram(
            Duration::from_secs(4 * cut as u64),
            flow(),
            &broken,
            &mut actions,
        );
    }
    assert!(
        !actions
            .iter()
            .any(|action| matches!(action, Action::Install(..)))
    );
}
