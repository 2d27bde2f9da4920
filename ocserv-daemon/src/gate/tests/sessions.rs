//! Login, CONNECT, packets, DTLS and the end.

use openssl::ssl::SslVersion;

use super::bed::{Bed, SLOT};
use super::client::Client;
use crate::ipc::gate::{EndReason, FromGate, ToGate, TunnelRefused};
use crate::ipc::ids::ConnId;
use crate::ipc::packet::Frame;

pub fn tunnel(bed: &mut Bed, version: SslVersion) -> (ConnId, Client, String) {
    let (conn, tcp) = bed.connect();
    let mut client = Client::new(tcp, version);
    let cookie = client.log_in();
    client.connect(&cookie);
    bed.grant(conn);
    let answer = client.answer();
    (conn, client, answer)
}

fn closed(bed: &Bed) -> (ConnId, EndReason) {
    match bed.heard() {
        FromGate::Closed { conn, reason } => (conn, reason),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_client_logs_in_and_its_packets_pass_both_ways() {
    for version in [SslVersion::TLS1_2, SslVersion::TLS1_3] {
        let mut bed = Bed::new(&["ecdsa"], "");
        let (conn, mut client, answer) = tunnel(&mut bed, version);
        assert!(answer.starts_with("HTTP/1.1 200 CONNECTED\r\n"), "{answer}");
        for line in [
            "X-CSTP-Address: 192.0.2.10",
            "X-CSTP-MTU: 1434",
            "X-DTLS-Port: 443",
        ] {
            assert!(
                answer.contains(&format!("\r\n{line}\r\n")),
                "{line} in {answer}"
            );
        }
        match bed.heard() {
            FromGate::TunnelUp {
                conn: up,
                mtu,
                tls_cipher,
            } => {
                assert_eq!((up, mtu), (conn, 1434));
                assert!(tls_cipher.ends_with("-(AES-256-GCM)"), "{tls_cipher}");
                assert!(tls_cipher.contains("-(ECDSA-"), "{tls_cipher}");
            }
            other => panic!("{other:?}"),
        }
        client.send(0, b"to the lan");
        assert_eq!(bed.packet(), b"to the lan");
        bed.send_frame(&Frame::Packet {
            slot: SLOT,
            packet: b"first",
        });
        bed.send_frame(&Frame::Packet {
            slot: SLOT,
            packet: b"second",
        });
        assert_eq!(client.frame(), (0, b"first".to_vec()));
        assert_eq!(client.frame(), (0, b"second".to_vec()));
        client.send(3, b"alive?");
        assert_eq!(client.frame(), (4, b"alive?".to_vec()), "DPD is mirrored");
        client.send(5, &[0xb0, b'b', b'y', b'e']);
        assert_eq!(closed(&bed), (conn, EndReason::UserDisconnect));
        bed.stop();
    }
}

#[test]
fn the_supervisor_ends_a_tunnel_with_disconnect() {
    let mut bed = Bed::new(&["ecdsa"], "");
    let (conn, mut client, _) = tunnel(&mut bed, SslVersion::TLS1_3);
    assert!(matches!(bed.heard(), FromGate::TunnelUp { .. }));
    bed.tell(
        &ToGate::Disconnect {
            conn,
            reason: EndReason::IdleTimeout,
        },
        &[],
    );
    assert_eq!(client.frame(), (5, Vec::new()));
    assert!(client.is_closed());
    drop(client);
    assert_eq!(closed(&bed), (conn, EndReason::IdleTimeout));
    bed.stop();
}

#[test]
fn stop_says_goodbye_to_everyone() {
    let mut bed = Bed::new(&["ecdsa"], "");
    let (_, mut client, _) = tunnel(&mut bed, SslVersion::TLS1_3);
    assert!(matches!(bed.heard(), FromGate::TunnelUp { .. }));
    bed.tell(&ToGate::Stop, &[]);
    assert_eq!(client.frame(), (5, Vec::new()));
}

#[test]
fn a_refused_cookie_gets_401_and_a_wrong_password_too() {
    let mut bed = Bed::new(&["ecdsa"], "");
    let (conn, tcp) = bed.connect();
    let mut client = Client::new(tcp, SslVersion::TLS1_3);
    let cookie = client.log_in();
    client.connect(&cookie);
    assert!(matches!(bed.heard(), FromGate::OpenTunnel { .. }));
    bed.tell(
        &ToGate::Tunnel {
            conn,
            result: Err(TunnelRefused::Cookie),
        },
        &[],
    );
    assert!(
        client
            .answer()
            .starts_with("HTTP/1.1 401 Cookie is not acceptable\r\n")
    );
    assert!(client.is_closed());
    drop(client);
    assert_eq!(closed(&bed).0, conn);

    let (_, tcp) = bed.connect();
    let mut client = Client::new(tcp, SslVersion::TLS1_3);
    let answer = client.post_form("username=alice&password=wrong");
    assert!(
        answer.starts_with("HTTP/1.1 401 Authentication failed\r\n"),
        "{answer}"
    );
    bed.stop();
}

/// A client whose CONNECT the supervisor has not answered.
fn waiting(bed: &mut Bed) -> (ConnId, Client) {
    let (conn, tcp) = bed.connect();
    let mut client = Client::new(tcp, SslVersion::TLS1_3);
    let cookie = client.log_in();
    client.connect(&cookie);
    assert!(matches!(bed.heard(), FromGate::OpenTunnel { .. }));
    (conn, client)
}

#[test]
fn a_client_that_gives_up_waiting_for_its_tunnel_is_reported() {
    let mut bed = Bed::new(&["ecdsa"], "");
    let (conn, client) = waiting(&mut bed);
    drop(client);
    assert_eq!(closed(&bed), (conn, EndReason::Unspecified));
    let (conn, mut client) = waiting(&mut bed);
    client.tls.shutdown().unwrap();
    assert_eq!(closed(&bed), (conn, EndReason::Unspecified));
    bed.stop();
}

#[test]
fn a_client_that_sends_before_the_answer_to_connect_is_ended() {
    let mut bed = Bed::new(&["ecdsa"], "");
    let (conn, mut client) = waiting(&mut bed);
    client.send(0, b"early");
    assert_eq!(closed(&bed), (conn, EndReason::Error));
    bed.stop();
}

#[test]
fn a_frame_that_is_not_cstp_ends_the_tunnel() {
    use std::io::Write;
    let mut bed = Bed::new(&["ecdsa"], "");
    let (conn, mut client, _) = tunnel(&mut bed, SslVersion::TLS1_3);
    assert!(matches!(bed.heard(), FromGate::TunnelUp { .. }));
    client.tls.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
    assert_eq!(closed(&bed), (conn, EndReason::Error));
    bed.stop();
}

#[test]
fn a_new_dataplane_takes_over_running_tunnels() {
    let mut bed = Bed::new(&["ecdsa"], "");
    let (_, mut client, _) = tunnel(&mut bed, SslVersion::TLS1_3);
    assert!(matches!(bed.heard(), FromGate::TunnelUp { .. }));
    bed.replace_link();
    client.send(0, b"to the new one");
    assert_eq!(bed.packet(), b"to the new one");
    bed.send_frame(&Frame::Packet {
        slot: SLOT,
        packet: b"from the new one",
    });
    assert_eq!(client.frame(), (0, b"from the new one".to_vec()));
    bed.stop();
}

#[test]
fn tls_1_3_renews_its_keys_in_place() {
    let extra = "rekey-time = 1\nrekey-method = ssl\nudp-port = 0\n";
    let mut bed = Bed::new(&["ecdsa"], extra);
    let (_, mut client, answer) = tunnel(&mut bed, SslVersion::TLS1_3);
    assert!(
        answer.contains("\r\nX-CSTP-Rekey-Time: 31536000\r\nX-CSTP-Rekey-Method: ssl\r\n"),
        "{answer}"
    );
    assert!(matches!(bed.heard(), FromGate::TunnelUp { .. }));
    assert!(client.has_unasked_bytes(), "a KeyUpdate comes by itself");
    client.send(3, b"alive?");
    assert_eq!(client.frame(), (4, b"alive?".to_vec()));
    client.send(0, b"under new keys");
    assert_eq!(bed.packet(), b"under new keys");
    bed.stop();
}

#[test]
fn a_client_with_dtls_is_told_to_renew_keys_in_place() {
    let mut bed = Bed::new(&["ecdsa"], "rekey-time = 1\nrekey-method = ssl\n");
    let (_, client, answer) = tunnel(&mut bed, SslVersion::TLS1_3);
    assert!(
        answer.contains("\r\nX-CSTP-Rekey-Time: 1\r\nX-CSTP-Rekey-Method: ssl\r\n"),
        "{answer}"
    );
    assert!(answer.contains("\r\nX-DTLS-Rekey-Time: 11\r\n"), "{answer}");
    // A method of its own would keep the client from making a new channel.
    assert!(!answer.contains("X-DTLS-Rekey-Method"), "{answer}");
    drop(client);
    bed.stop();
}

#[test]
fn tls_1_2_announces_a_new_tunnel() {
    let mut bed = Bed::new(&["ecdsa"], "rekey-time = 1\nrekey-method = ssl\n");
    let (_, client, answer) = tunnel(&mut bed, SslVersion::TLS1_2);
    assert!(
        answer.contains("\r\nX-CSTP-Rekey-Method: new-tunnel\r\n"),
        "{answer}"
    );
    drop(client);
    bed.stop();
}
