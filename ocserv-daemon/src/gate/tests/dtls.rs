//! DTLS through the whole role.

use std::io::{self, Read, Write};

use ocserv_common::replay::ReplayWindow;
use ocserv_proto::dtls::DtlsChannel;
use openssl::ssl::{
    ExtensionContext, Ssl, SslContextBuilder, SslMethod, SslOptions, SslStream, SslVersion,
};

use super::bed::{APP_ID, Bed, SLOT, flow};
use super::sessions::tunnel;
use crate::ipc::gate::{FromGate, ToGate};
use crate::ipc::packet::Frame;

/// The network as the client sees it.
struct Wire<'a> {
    bed: &'a Bed,
    /// The last datagram of the client.
    written: Vec<u8>,
}

impl Read for Wire<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let datagram = self.bed.datagram();
        buffer[..datagram.len()].copy_from_slice(&datagram);
        Ok(datagram.len())
    }
}

impl Write for Wire<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let (peer, local) = flow();
        self.bed.send_frame(&Frame::Datagram {
            slot: SLOT,
            peer,
            local,
            bytes,
        });
        self.written = bytes.to_vec();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn client(bed: &Bed, psk: [u8; 32]) -> SslStream<Wire<'_>> {
    let mut context = SslContextBuilder::new(SslMethod::dtls_client()).unwrap();
    context
        .set_min_proto_version(Some(SslVersion::DTLS1_2))
        .unwrap();
    context.set_options(SslOptions::NO_QUERY_MTU | SslOptions::NO_TICKET);
    context.set_cipher_list("PSK-AES256-GCM-SHA384").unwrap();
    context.set_psk_client_callback(move |_, _, identity, key| {
        identity[..4].copy_from_slice(b"psk\0");
        key[..32].copy_from_slice(&psk);
        Ok(32)
    });
    context
        .add_custom_ext(
            48018,
            ExtensionContext::CLIENT_HELLO,
            |_, _, _| Ok(Some([&[32_u8][..], &APP_ID].concat())),
            |_, _, _, _| Ok(()),
        )
        .unwrap();
    let mut ssl = Ssl::new(&context.build()).unwrap();
    ssl.set_mtu(1200).unwrap();
    SslStream::new(
        ssl,
        Wire {
            bed,
            written: Vec::new(),
        },
    )
    .unwrap()
}

#[test]
fn the_keys_of_a_handshake_open_the_clients_records() {
    let mut bed = Bed::new(&["ecdsa"], "");
    let (conn, tls, _) = tunnel(&mut bed, SslVersion::TLS1_3);
    assert!(matches!(bed.heard(), FromGate::TunnelUp { .. }));
    let mut dtls = client(&bed, tls.psk());
    // Up to the client's Finished; the answer to it waits for the dataplane.
    let keys = std::thread::scope(|scope| {
        let supervisor = scope.spawn(|| match bed.heard() {
            FromGate::InstallKeys {
                conn: asked,
                keys,
                peer,
                local,
                cipher,
            } => {
                assert_eq!((asked, (peer, local)), (conn, flow()));
                assert_eq!(cipher, "(DTLS1.2)-(PSK)-(AES-256-GCM)");
                bed.tell(&ToGate::KeysInstalled { conn }, &[]);
                keys
            }
            other => panic!("{other:?}"),
        });
        dtls.connect().unwrap();
        supervisor.join().unwrap()
    });
    dtls.ssl_write(b"\0packet").unwrap();
    let mut record = std::mem::take(&mut dtls.get_mut().written);
    let window = ReplayWindow::new();
    window.reset(keys.next_receive);
    let channel = DtlsChannel::new(&keys).unwrap();
    assert_eq!(
        channel.open(&mut record, &window).unwrap().plaintext,
        b"\0packet"
    );
    drop((dtls, tls));
    bed.stop();
}
