//! utmp and wtmp records of VPN sessions (`use-utmp`; behaviour.md 13.7).

use std::ffi::{CStr, c_char};
use std::io;
use std::net::IpAddr;
use std::time::{SystemTime, UNIX_EPOCH};

const WTMP: &CStr = c"/var/log/wtmp";

/// A session as `who` and `last` show it.
#[derive(Clone, Debug)]
pub struct LoginRecord<'a> {
    /// Name of the tun device; with one shared device, with the slot appended by the caller.
    pub line: &'a str,
    /// User name; cut to 32 bytes.
    pub user: &'a str,
    /// The client's address.
    pub host: IpAddr,
    /// Process that stands for the session.
    pub pid: i32,
}

/// Writes the records of a session's begin.
///
/// # Errors
/// `pututxline(3)`. Missing files are no error: such a system keeps no records.
pub fn record_login(record: &LoginRecord<'_>, now: SystemTime) -> io::Result<()> {
    write(record, libc::USER_PROCESS, now)
}

/// Writes the records of a session's end.
///
/// # Errors
/// As [`record_login`].
pub fn record_logout(record: &LoginRecord<'_>, now: SystemTime) -> io::Result<()> {
    write(record, libc::DEAD_PROCESS, now)
}

fn write(record: &LoginRecord<'_>, kind: i16, now: SystemTime) -> io::Result<()> {
    let entry = entry(record, kind, now);
    // SAFETY: no arguments; the supervisor calls these functions from one thread.
    unsafe { libc::setutxent() };
    // SAFETY: `entry` is a whole utmpx that lives through the call.
    let written = unsafe { libc::pututxline(&raw const entry) };
    let result = if written.is_null() {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    };
    // SAFETY: as for setutxent.
    unsafe { libc::endutxent() };
    // SAFETY: the path is NUL-terminated, `entry` lives through the call.
    unsafe { updwtmpx(WTMP.as_ptr(), &raw const entry) };
    result
}

unsafe extern "C" {
    fn updwtmpx(file: *const c_char, entry: *const libc::utmpx);
}

fn entry(record: &LoginRecord<'_>, kind: i16, now: SystemTime) -> libc::utmpx {
    // SAFETY: utmpx is plain integers and arrays of them; zero is a value of each.
    let mut entry: libc::utmpx = unsafe { std::mem::zeroed() };
    entry.ut_type = kind;
    entry.ut_pid = record.pid;
    copy(record.line, &mut entry.ut_line);
    // The last four bytes tell the lines of one device apart.
    let id = record
        .line
        .get(record.line.len().saturating_sub(4)..)
        .unwrap_or(record.line);
    copy(id, &mut entry.ut_id);
    if kind == libc::USER_PROCESS {
        copy(record.user, &mut entry.ut_user);
        copy(&record.host.to_string(), &mut entry.ut_host);
        entry.ut_addr_v6 = address_words(record.host);
    }
    let since_epoch = now.duration_since(UNIX_EPOCH).unwrap_or_default();
    // 32 bits by the format, on every architecture.
    entry.ut_tv.tv_sec = since_epoch.as_secs() as i32;
    entry.ut_tv.tv_usec = since_epoch.subsec_micros() as i32;
    entry
}

/// Copies as much of `text` as fits.
fn copy(text: &str, field: &mut [c_char]) {
    for (to, from) in field.iter_mut().zip(text.bytes()) {
        *to = from as c_char;
    }
}

fn address_words(address: IpAddr) -> [i32; 4] {
    match address {
        IpAddr::V4(v4) => [i32::from_ne_bytes(v4.octets()), 0, 0, 0],
        IpAddr::V6(v6) => {
            let mut words = [0; 4];
            for (word, bytes) in words.iter_mut().zip(v6.octets().as_chunks::<4>().0) {
                *word = i32::from_ne_bytes(*bytes);
            }
            words
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn text(field: &[c_char]) -> String {
        field
            .iter()
            .take_while(|c| **c != 0)
            .map(|c| char::from(*c as u8))
            .collect()
    }

    #[test]
    fn a_record_carries_line_user_and_host() {
        let record = LoginRecord {
            line: "vpns0.17",
            user: "a-name-that-is-longer-than-thirty-two-bytes",
            host: "2001:db8::1".parse().unwrap(),
            pid: 42,
        };
        let entry = entry(
            &record,
            libc::USER_PROCESS,
            UNIX_EPOCH + Duration::from_secs(1000),
        );
        assert_eq!(text(&entry.ut_line), "vpns0.17");
        assert_eq!(text(&entry.ut_id), "0.17");
        assert_eq!(text(&entry.ut_user), "a-name-that-is-longer-than-thirt");
        assert_eq!(text(&entry.ut_host), "2001:db8::1");
        assert_eq!(entry.ut_addr_v6[0].to_ne_bytes(), [0x20, 0x01, 0x0d, 0xb8]);
        assert_eq!(entry.ut_tv.tv_sec, 1000);
        assert_eq!(entry.ut_pid, 42);
    }

    #[test]
    fn the_end_of_a_session_names_only_the_line() {
        let host = "192.0.2.1".parse().unwrap();
        let record = LoginRecord {
            line: "vpns0",
            user: "u",
            host,
            pid: 1,
        };
        let entry = entry(&record, libc::DEAD_PROCESS, UNIX_EPOCH);
        assert_eq!(text(&entry.ut_line), "vpns0");
        assert_eq!(text(&entry.ut_user), "");
        assert_eq!(text(&entry.ut_host), "");
    }
}
