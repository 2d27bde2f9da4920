//! Secmod dies and another takes its place: who was about to need it waits.

use std::time::Duration;

use openssl::ssl::SslVersion;

use super::bed::{Bed, DEADLY_PASSWORD};
use super::client::Client;

/// Time to run into the dead secmod. When it is too short for that, nothing is shown, but nothing
/// fails.
const WITHOUT_SECMOD: Duration = Duration::from_millis(300);

#[test]
fn a_handshake_waits_for_the_next_secmod() {
    let mut bed = Bed::new(&["ecdsa"], "");
    bed.kill_secmod();
    let (_, tcp) = bed.connect();
    let client = std::thread::spawn(|| Client::new(tcp, SslVersion::TLS1_3).log_in());
    std::thread::sleep(WITHOUT_SECMOD);
    bed.start_secmod();
    client.join().unwrap();
    bed.stop();
}

#[test]
fn a_login_waits_for_the_next_secmod() {
    let mut bed = Bed::new(&["ecdsa"], "");
    let (_, tcp) = bed.connect();
    let mut client = Client::new(tcp, SslVersion::TLS1_3);
    client.request("GET / HTTP/1.1\r\nHost: x\r\n\r\n");
    bed.kill_secmod();
    let client = std::thread::spawn(move || client.log_in());
    std::thread::sleep(WITHOUT_SECMOD);
    bed.start_secmod();
    client.join().unwrap();
    bed.stop();
}

#[test]
fn after_a_lost_question_the_form_comes_again() {
    let mut bed = Bed::new(&["ecdsa"], "");
    let (_, tcp) = bed.connect();
    let mut client = Client::new(tcp, SslVersion::TLS1_3);
    let answer = client.post_form(&format!("username=alice&password={DEADLY_PASSWORD}"));
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    assert!(answer.contains("<form "), "{answer}");
    bed.start_secmod();
    client.log_in();
    bed.stop();
}
