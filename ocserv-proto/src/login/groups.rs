//! Which group a client means (protocol.md 4.4).

use super::reply::url_decode;
use super::types::LoginSettings;

/// The group in the form that goes to secmod. A name that is not in the list goes on as well: the
/// password module refuses it if the user is not a member.
pub fn requested(settings: &LoginSettings, typed: Option<&str>) -> Option<String> {
    let typed = typed?;
    if settings.default_select_group.as_deref() == Some(typed) {
        return None;
    }
    Some(listed(settings, typed).unwrap_or(typed).to_owned())
}

/// The name of a listed group, given by name or by label. Names go first.
pub fn listed<'a>(settings: &'a LoginSettings, typed: &str) -> Option<&'a str> {
    let by_name = settings.groups.iter().find(|group| group.name == typed);
    let by_label = || settings.groups.iter().find(|group| group.text() == typed);
    by_name.or_else(by_label).map(|group| group.name.as_str())
}

/// The group that a path chooses (`select-group-by-url`).
pub fn from_path<'a>(settings: &'a LoginSettings, path: &str) -> Option<&'a str> {
    if !settings.select_group_by_url {
        return None;
    }
    let typed = url_decode(path.trim_matches('/').as_bytes());
    listed(settings, std::str::from_utf8(&typed).ok()?)
}
