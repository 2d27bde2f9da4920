//! The password file.

use ocserv_proto::passwd;

use crate::input::text;

/// The first line names user, groups and hash of a change (`name TAB groups TAB hash`), the rest is
/// the file. Whatever the change, the bytes of other lines stay as they are.
pub fn passwd(data: &[u8]) {
    let mut parts = data.splitn(2, |byte| *byte == b'\n');
    let words = text(parts.next().unwrap_or_default());
    let file = parts.next().unwrap_or_default();
    let mut words = words.split('\t');
    let name = words.next().unwrap_or_default();
    let groups = words.next();
    let hash = words.next().unwrap_or("$5$salt$hash");
    check_reading(file, name);
    check_set(file, name, groups, hash);
    check_delete(file, name);
    check_lock(file, name);
}

fn check_reading(file: &[u8], name: &str) {
    for entry in passwd::entries(file) {
        assert_eq!(passwd::check_username(entry.username), Ok(()));
        assert!(
            !entry
                .groups
                .iter()
                .any(|group| group.contains([',', ':', '\n']))
        );
        assert!(entry.groups.iter().all(|group| group.len() > 1));
        assert!(!entry.hash.contains('\n'));
    }
    let found = passwd::find(file, name);
    let first = passwd::entries(file).find(|entry| entry.username == name);
    assert_eq!(found, first);
    let mut names = passwd::group_names(file);
    let listed = names.len();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), listed);
}

fn check_set(file: &[u8], name: &str, groups: Option<&str>, hash: &str) {
    let Ok(out) = passwd::set(file, name, groups, hash) else {
        return;
    };
    assert_others_stay(file, &out, name);
    let line = format!("{name}:{}:{hash}\n", groups.unwrap_or("*"));
    assert_eq!(
        out.windows(line.len())
            .filter(|window| *window == line.as_bytes())
            .count()
            .min(1),
        1
    );
    if let Some(entry) = passwd::find(&out, name) {
        let hash = hash.trim_ascii_end();
        assert_eq!(
            (entry.locked, entry.hash),
            (
                hash.starts_with('!'),
                hash.strip_prefix('!').unwrap_or(hash)
            )
        );
        assert_eq!(
            passwd::entries(&out)
                .filter(|entry| entry.username == name)
                .count(),
            1
        );
    } else {
        // Lines shorter than five bytes carry no entry.
        assert!(line.len() <= 5, "{line:?}");
    }
    let again = passwd::set(&out, name, groups, hash);
    assert_eq!(again.as_ref(), Ok(&out), "setting it twice changes nothing");
}

fn check_delete(file: &[u8], name: &str) {
    let out = passwd::delete(file, name);
    assert_others_stay(file, &out, name);
    assert_eq!(passwd::find(&out, name), None);
    assert_eq!(passwd::delete(&out, name), out);
}

fn check_lock(file: &[u8], name: &str) {
    let locked = passwd::lock(file, name);
    assert_others_stay(file, &locked, name);
    assert!(passwd::find(&locked, name).is_none_or(|entry| entry.locked));
    assert_eq!(passwd::lock(&locked, name), locked);
    let unlocked = passwd::unlock(&locked, name);
    assert_others_stay(file, &unlocked, name);
    // One mark is taken off, so two stay a lock.
    if !locked.windows(2).any(|marks| marks == b"!!") {
        assert_eq!(passwd::lock(&unlocked, name), locked);
    }
}

/// Lines that do not begin with `name:` are the same, byte for byte.
fn assert_others_stay(before: &[u8], after: &[u8], name: &str) {
    let prefix = format!("{name}:");
    let others = |file: &[u8]| -> Vec<Vec<u8>> {
        file.split(|byte| *byte == b'\n')
            .filter(|line| !line.is_empty() && !line.starts_with(prefix.as_bytes()))
            .map(<[u8]>::to_vec)
            .collect()
    };
    assert_eq!(others(before), others(after));
}
