//! The password file of the `plain` method, `username:group1,group2:hash` (cli.md §6.2).
//!
//! Readers see well-formed lines only. Writers change the lines of one user and keep every other
//! byte of the file, comments and broken lines included.

use std::fmt;

use thiserror::Error;

/// Shorter lines carry no entry.
const MIN_LINE_LEN: usize = 5;
/// Groups of one user beyond this number are ignored.
const MAX_GROUPS: usize = 512;
/// Stands before the hash of a locked user.
const LOCK_MARK: char = '!';
/// Written where a user has no group.
const NO_GROUP: &str = "*";

/// A name or list that cannot be written into the file.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum PasswdError {
    /// Empty, or with a `:`, a control character, or a `#` in front.
    #[error("the user name has characters that a password file cannot hold")]
    Username,
    /// With a `:` or a control character.
    #[error("the group list has characters that a password file cannot hold")]
    Groups,
    /// With a `:` or a control character.
    #[error("the password hash has characters that a password file cannot hold")]
    Hash,
}

/// One user.
#[derive(Clone, PartialEq, Eq)]
pub struct Entry<'a> {
    /// Name of the user.
    pub username: &'a str,
    /// Groups; the first one is the default.
    pub groups: Vec<&'a str>,
    /// crypt(3) hash without the lock mark; may be empty.
    pub hash: &'a str,
    /// A `!` stands before the hash: no password is right.
    pub locked: bool,
}

impl fmt::Debug for Entry<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Entry")
            .field("username", &self.username)
            .field("groups", &self.groups)
            .field("locked", &self.locked)
            .finish_non_exhaustive()
    }
}

impl<'a> Entry<'a> {
    fn parse(line: &'a [u8]) -> Option<Self> {
        if line.len() < MIN_LINE_LEN {
            return None;
        }
        let line = std::str::from_utf8(line).ok()?.trim_ascii_end();
        let mut fields = line.splitn(3, ':');
        let (username, groups, hash) = (fields.next()?, fields.next()?, fields.next()?);
        if check_username(username).is_err() {
            return None;
        }
        let (locked, hash) = match hash.strip_prefix(LOCK_MARK) {
            Some(hash) => (true, hash),
            None => (false, hash),
        };
        Some(Self {
            username,
            groups: parse_groups(groups),
            hash,
            locked,
        })
    }
}

/// The well-formed entries of `file`, in order.
pub fn entries(file: &[u8]) -> impl Iterator<Item = Entry<'_>> {
    file.split(|byte| *byte == b'\n').filter_map(Entry::parse)
}

/// The entry of `username`: the first one wins.
pub fn find<'a>(file: &'a [u8], username: &str) -> Option<Entry<'a>> {
    entries(file).find(|entry| entry.username == username)
}

/// Every group name in `file`, each once, in order of appearance (`auto-select-group`).
pub fn group_names(file: &[u8]) -> Vec<String> {
    let mut seen = std::collections::HashSet::new();
    entries(file)
        .flat_map(|entry| entry.groups)
        .filter(|group| seen.insert(*group))
        .map(str::to_owned)
        .collect()
}

/// `file` with the line of `username` replaced (further lines of that name removed), or appended.
/// `groups` is a comma list; `None` writes `*`.
pub fn set(
    file: &[u8],
    username: &str,
    groups: Option<&str>,
    hash: &str,
) -> Result<Vec<u8>, PasswdError> {
    check_username(username)?;
    let groups = groups.unwrap_or(NO_GROUP);
    if !is_field(groups) {
        return Err(PasswdError::Groups);
    }
    if !is_field(hash) {
        return Err(PasswdError::Hash);
    }
    let line = format!("{username}:{groups}:{hash}\n");
    let mut written = false;
    let mut out = edit(file, username, |_, out| {
        if !std::mem::replace(&mut written, true) {
            out.extend_from_slice(line.as_bytes());
        }
    });
    if !written {
        if out.last().is_some_and(|byte| *byte != b'\n') {
            out.push(b'\n');
        }
        out.extend_from_slice(line.as_bytes());
    }
    Ok(out)
}

/// `file` without the lines of `username`.
pub fn delete(file: &[u8], username: &str) -> Vec<u8> {
    edit(file, username, |_, _| {})
}

/// `file` with `!` before the hash of `username`, once.
pub fn lock(file: &[u8], username: &str) -> Vec<u8> {
    edit(file, username, |line, out| {
        let Some((head, hash)) = split_at_hash(line) else {
            return out.extend_from_slice(line);
        };
        out.extend_from_slice(head);
        if hash.first() != Some(&(LOCK_MARK as u8)) {
            out.push(LOCK_MARK as u8);
        }
        out.extend_from_slice(hash);
    })
}

/// `file` without the `!` before the hash of `username`.
pub fn unlock(file: &[u8], username: &str) -> Vec<u8> {
    edit(file, username, |line, out| {
        let Some((head, hash)) = split_at_hash(line) else {
            return out.extend_from_slice(line);
        };
        out.extend_from_slice(head);
        out.extend_from_slice(hash.strip_prefix(&[LOCK_MARK as u8]).unwrap_or(hash));
    })
}

/// Copies `file`, giving the lines of `username` (with their line end) to `change`.
fn edit(file: &[u8], username: &str, mut change: impl FnMut(&[u8], &mut Vec<u8>)) -> Vec<u8> {
    let mut out = Vec::with_capacity(file.len());
    for line in file.split_inclusive(|byte| *byte == b'\n') {
        let content = line.strip_suffix(b"\n").unwrap_or(line);
        if split_at_hash(content).is_some()
            && content.split(|byte| *byte == b':').next() == Some(username.as_bytes())
        {
            change(line, &mut out);
        } else {
            out.extend_from_slice(line);
        }
    }
    out
}

/// Splits a line behind its second `:`.
fn split_at_hash(line: &[u8]) -> Option<(&[u8], &[u8])> {
    let second = line
        .iter()
        .enumerate()
        .filter(|(_, byte)| **byte == b':')
        .nth(1)?
        .0;
    line.split_at_checked(second + 1)
}

fn parse_groups(list: &str) -> Vec<&str> {
    list.split(',')
        .map(str::trim_ascii)
        // `*` and other single characters mean "no group".
        .filter(|name| name.len() > 1)
        .take(MAX_GROUPS)
        .collect()
}

/// Checks that a line can carry this name.
pub fn check_username(username: &str) -> Result<(), PasswdError> {
    // A commented-out line must not become a user named `#...`.
    if username.is_empty() || username.starts_with('#') || !is_field(username) {
        return Err(PasswdError::Username);
    }
    Ok(())
}

fn is_field(text: &str) -> bool {
    !text.chars().any(|c| c == ':' || c.is_control())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const HASH: &str = "$5$NfxEdWFxy/euRJ.z$78s2pKT/CFm1kphiReY6uRh1EHRSgZ9R1oe20NGm958";

    #[test]
    fn the_measured_line_is_read() {
        let file = format!("test:g1,g2:{HASH}\n");
        let entry = find(file.as_bytes(), "test").unwrap();
        assert_eq!(entry.groups, ["g1", "g2"]);
        assert_eq!(entry.hash, HASH);
        assert!(!entry.locked);
        assert!(!format!("{entry:?}").contains("78s2pKT"));
    }

    #[test]
    fn groups_lose_their_blanks_and_one_character_names() {
        let entry = |list: &str| -> Vec<String> {
            let file = format!("user:{list}:x");
            let found = find(file.as_bytes(), "user").unwrap();
            found.groups.into_iter().map(str::to_owned).collect()
        };
        let none: Vec<String> = Vec::new();
        assert_eq!(entry("tost ,  group1"), ["tost", "group1"]);
        assert_eq!(entry("*"), none);
        assert_eq!(entry("x"), none);
        assert_eq!(entry(""), none);
        assert_eq!(entry(&vec!["gg"; 600].join(",")).len(), 512);
    }

    #[test]
    fn lines_that_are_no_entries_are_skipped() {
        let file = b"# user:g:x\nu::x\nnocolons\none:colon\n\xff\xfe:gr:hash\nuser:gg:!abc\r\n";
        let found: Vec<_> = entries(file).collect();
        assert_eq!(found.len(), 1, "only the last line");
        assert_eq!(
            (found[0].username, found[0].hash, found[0].locked),
            ("user", "abc", true)
        );
        assert_eq!(find(file, "# user"), None);
    }

    #[test]
    fn the_first_line_of_a_name_wins() {
        assert_eq!(
            find(b"user:*:first\nuser:*:second\n", "user").unwrap().hash,
            "first"
        );
    }

    #[test]
    fn group_names_are_listed_once() {
        let file = b"a:g2,g1:x1\nb:g1:x2\nc:*:x3\nd:g3,g2:x4\n";
        assert_eq!(group_names(file), ["g2", "g1", "g3"]);
    }

    const FILE: &[u8] = b"# staff\n\nann:g1:h1\n\xff broken\nbob:*:h2\r\nann:*:old\nzoe:*:h3";

    #[test]
    fn set_replaces_in_place_and_drops_shadowed_lines() {
        assert_eq!(
            set(FILE, "ann", Some("g9"), "new").unwrap(),
            b"# staff\n\nann:g9:new\n\xff broken\nbob:*:h2\r\nzoe:*:h3"
        );
    }

    #[test]
    fn set_appends_a_new_user() {
        let out = set(FILE, "eve", None, "new").unwrap();
        assert_eq!(out, [FILE, b"\neve:*:new\n"].concat());
        assert_eq!(set(b"", "eve", None, "new").unwrap(), b"eve:*:new\n");
    }

    #[test]
    fn delete_removes_every_line_of_the_user() {
        assert_eq!(
            delete(FILE, "ann"),
            b"# staff\n\n\xff broken\nbob:*:h2\r\nzoe:*:h3",
            "a shadowed line must not come to life"
        );
        assert_eq!(delete(FILE, "nobody"), FILE);
    }

    #[test]
    fn lock_and_unlock_are_inverse_and_idempotent() {
        let locked = lock(FILE, "bob");
        assert_eq!(
            locked,
            b"# staff\n\nann:g1:h1\n\xff broken\nbob:*:!h2\r\nann:*:old\nzoe:*:h3"
        );
        assert_eq!(lock(&locked, "bob"), locked);
        assert_eq!(unlock(&locked, "bob"), FILE);
        assert_eq!(unlock(FILE, "bob"), FILE);
    }

    #[test]
    fn a_line_too_short_for_an_entry_belongs_to_its_user_too() {
        let once = set(b"", "a", Some(""), "").unwrap();
        assert_eq!(set(&once, "a", Some(""), "").unwrap(), once);
        assert_eq!(lock(&unlock(b"a:b:!\n", "a"), "a"), b"a:b:!\n");
        assert_eq!(delete(b"a:b:\n", "a"), b"");
    }

    #[test]
    fn names_that_would_break_a_line_are_refused() {
        for name in ["", "a:b", "a\nb", "#a", "a\0"] {
            assert_eq!(
                set(b"", name, None, "h"),
                Err(PasswdError::Username),
                "{name:?}"
            );
        }
        assert_eq!(set(b"", "u", Some("g\n"), "h"), Err(PasswdError::Groups));
        assert_eq!(set(b"", "u", None, "h:x"), Err(PasswdError::Hash));
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_panic(file: Vec<u8>) {
            for entry in entries(&file) {
                prop_assert!(entry.groups.len() <= MAX_GROUPS);
            }
        }

        #[test]
        fn a_user_that_was_set_is_found(file: Vec<u8>, name in "[a-z]{3,9}") {
            let out = set(&file, &name, Some("staff"), "$5$x").unwrap();
            let entry = find(&out, &name).unwrap();
            prop_assert_eq!(entry.hash, "$5$x");
            let gone = delete(&out, &name);
            prop_assert_eq!(find(&gone, &name), None);
        }
    }
}
