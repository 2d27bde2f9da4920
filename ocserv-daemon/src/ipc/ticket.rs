//! The supervisor's word about a connection, which a gate can pass on but not change.

use std::net::SocketAddr;
use std::time::SystemTime;

use ocserv_proto::secret::Secret;
use ring::hmac;
use serde::Serialize;
use zeroize::Zeroizing;

use super::ids::{ConnId, ConnTicket, GateId};

/// What the HMAC covers. The label keeps it apart from anything else under the same key.
#[derive(Serialize)]
struct Signed {
    label: &'static str,
    conn: ConnId,
    gate: GateId,
    remote: SocketAddr,
    local: SocketAddr,
    accepted_at: SystemTime,
}

/// Puts the HMAC into `ticket`.
pub fn sign(ticket: &mut ConnTicket, key: &Secret) {
    ticket.mac = match encode(ticket) {
        Some(bytes) => Secret::new(hmac::sign(&hmac_key(key), &bytes).as_ref().to_vec()),
        None => Secret::default(),
    };
}

/// Whether `ticket` is as the supervisor made it. Constant time in the HMAC.
pub fn verify(ticket: &ConnTicket, key: &Secret) -> bool {
    encode(ticket)
        .is_some_and(|bytes| hmac::verify(&hmac_key(key), &bytes, ticket.mac.expose()).is_ok())
}

fn hmac_key(key: &Secret) -> hmac::Key {
    hmac::Key::new(hmac::HMAC_SHA256, key.expose())
}

/// `None` for a time before 1970, which cannot be encoded; no such ticket is good.
fn encode(ticket: &ConnTicket) -> Option<Zeroizing<Vec<u8>>> {
    let signed = Signed {
        label: "ocserv connection ticket",
        conn: ticket.conn,
        gate: ticket.gate,
        remote: ticket.remote,
        local: ticket.local,
        accepted_at: ticket.accepted_at,
    };
    postcard::to_stdvec(&signed).ok().map(Zeroizing::new)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn signed(key: &Secret) -> ConnTicket {
        let mut ticket = ConnTicket {
            conn: ConnId(5),
            gate: GateId(2),
            remote: "192.0.2.1:4000".parse().unwrap(),
            local: "[2001:db8::1]:443".parse().unwrap(),
            accepted_at: SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000),
            mac: Secret::default(),
        };
        sign(&mut ticket, key);
        ticket
    }

    #[test]
    fn any_change_breaks_the_ticket() {
        let key = Secret::new(vec![7; 32]);
        let good = signed(&key);
        assert!(verify(&good, &key));
        assert!(!verify(&good, &Secret::new(vec![8; 32])));
        let changes: [fn(&mut ConnTicket); 6] = [
            |t| t.conn = ConnId(6),
            |t| t.gate = GateId(3),
            |t| t.remote = "192.0.2.2:4000".parse().unwrap(),
            |t| t.local = "[2001:db8::2]:443".parse().unwrap(),
            |t| t.accepted_at += Duration::from_nanos(1),
            |t| t.mac = Secret::default(),
        ];
        for change in changes {
            let mut bad = good.clone();
            change(&mut bad);
            assert!(!verify(&bad, &key));
        }
    }

    #[test]
    fn a_time_before_1970_is_never_good() {
        let key = Secret::new(vec![7; 32]);
        let mut ticket = signed(&key);
        ticket.accepted_at = SystemTime::UNIX_EPOCH - Duration::from_secs(1);
        sign(&mut ticket, &key);
        assert!(!verify(&ticket, &key));
    }
}
