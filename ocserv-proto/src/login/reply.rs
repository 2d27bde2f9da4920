//! What a client typed: the body of a POST, XML or form (protocol.md 4.4, 4.11).

use thiserror::Error;
use zeroize::Zeroizing;

use crate::secret::Secret;
use crate::xml::{self, XmlError};

/// Longest user name and group, bytes. Longer ones are refused, never cut.
const MAX_NAME_BYTES: usize = 255;
/// Longest password, bytes.
const MAX_PASSWORD_BYTES: usize = 1024;

/// Why a body cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ReplyError {
    /// No usable XML.
    #[error(transparent)]
    Xml(#[from] XmlError),
    /// A form value is not UTF-8.
    #[error("form value is not UTF-8")]
    Encoding,
    /// A user name, group or password is too long or has characters that none may have.
    #[error("unacceptable {0}")]
    Unacceptable(&'static str),
}

/// The fields of a body. Absent and empty names are the same; an empty password may be an answer.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Reply {
    /// User name.
    pub username: Option<String>,
    /// Password, or answer to another prompt.
    pub password: Option<Secret>,
    /// Group, by name or label.
    pub group: Option<String>,
}

impl Reply {
    /// Reads a body: XML if `<?xml` is anywhere in it, else a form.
    pub fn parse(body: &[u8]) -> Result<Self, ReplyError> {
        let reply = match xml::find_declaration(body) {
            Some(start) => from_xml(body.get(start..).unwrap_or_default())?,
            None => from_form(body)?,
        };
        check_name(reply.username.as_deref(), "user name")?;
        check_name(reply.group.as_deref(), "group")?;
        let password = reply
            .password
            .as_ref()
            .map(Secret::expose)
            .unwrap_or_default();
        if password.len() > MAX_PASSWORD_BYTES || password.contains(&0) {
            return Err(ReplyError::Unacceptable("password"));
        }
        Ok(reply)
    }
}

fn check_name(name: Option<&str>, what: &'static str) -> Result<(), ReplyError> {
    let name = name.unwrap_or_default();
    if name.len() > MAX_NAME_BYTES || name.chars().any(char::is_control) {
        return Err(ReplyError::Unacceptable(what));
    }
    Ok(())
}

fn from_xml(body: &[u8]) -> Result<Reply, ReplyError> {
    let prepared = xml::prepare(body)?;
    let document = xml::parse(&prepared)?;
    let find = |matches: fn(&str) -> bool| {
        document
            .descendants()
            .find(|node| node.is_element() && matches(&node.tag_name().name().to_ascii_lowercase()))
            .map(|node| node.text().unwrap_or_default().to_owned())
    };
    Ok(Reply {
        username: find(|name| name == "username").filter(|value| !value.is_empty()),
        password: find(|name| name.starts_with("password") || name.ends_with("_password"))
            .map(Secret::from),
        group: find(|name| name == "group-select").filter(|value| !value.is_empty()),
    })
}

fn from_form(body: &[u8]) -> Result<Reply, ReplyError> {
    let mut reply = Reply::default();
    for pair in body.split(|byte| *byte == b'&') {
        let mut halves = pair.splitn(2, |byte| *byte == b'=');
        let key = url_decode(halves.next().unwrap_or_default());
        let value = url_decode(halves.next().unwrap_or_default());
        if key.as_slice() == b"username" {
            set_name(&mut reply.username, &value)?;
        } else if key.as_slice() == b"group_list" {
            set_name(&mut reply.group, &value)?;
        } else if reply.password.is_none() && contains(&key, b"password") {
            reply.password = Some(Secret::new(value.to_vec()));
        }
    }
    Ok(reply)
}

/// The first value of a field counts.
fn set_name(field: &mut Option<String>, value: &[u8]) -> Result<(), ReplyError> {
    let text = std::str::from_utf8(value).map_err(|_| ReplyError::Encoding)?;
    if field.is_none() && !text.is_empty() {
        *field = Some(text.to_owned());
    }
    Ok(())
}

fn contains(text: &[u8], part: &[u8]) -> bool {
    text.windows(part.len()).any(|window| window == part)
}

/// Decodes `+` and `%XX`; a `%` without two hex digits stays as it is.
pub(super) fn url_decode(text: &[u8]) -> Zeroizing<Vec<u8>> {
    let mut decoded = Zeroizing::new(Vec::with_capacity(text.len()));
    let mut rest = text;
    loop {
        rest = match rest {
            [] => return decoded,
            [b'%', high, low, tail @ ..] if hex(*high).is_some() && hex(*low).is_some() => {
                let byte = hex(*high).unwrap_or_default() << 4 | hex(*low).unwrap_or_default();
                decoded.push(byte);
                tail
            }
            [b'+', tail @ ..] => {
                decoded.push(b' ');
                tail
            }
            [byte, tail @ ..] => {
                decoded.push(*byte);
                tail
            }
        };
    }
}

fn hex(digit: u8) -> Option<u8> {
    char::from(digit)
        .to_digit(16)
        .and_then(|value| u8::try_from(value).ok())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn reply(username: Option<&str>, password: Option<&str>, group: Option<&str>) -> Reply {
        Reply {
            username: username.map(str::to_owned),
            password: password.map(|text| Secret::from(text.to_owned())),
            group: group.map(str::to_owned),
        }
    }

    fn xml(inner: &str) -> String {
        format!("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<config-auth>{inner}</config-auth>")
    }

    #[test]
    fn bodies_of_stock_openconnect() {
        let parse = |body: &[u8]| Reply::parse(body).unwrap();
        macro_rules! seed {
            ($name:literal) => {
                include_bytes!(concat!(
                    "../../../fuzz/corpus/login/openconnect-9.01-",
                    $name
                ))
            };
        }
        assert_eq!(parse(seed!("init")), reply(None, None, None));
        assert_eq!(parse(seed!("group-select")), reply(None, None, Some("g2")));
        assert_eq!(
            parse(seed!("username")),
            reply(Some("alice"), None, Some("g2"))
        );
        assert_eq!(parse(seed!("password")), reply(None, Some("secret1"), None));
        assert_eq!(
            parse(seed!("form-username")),
            reply(Some("alice"), None, Some("g1"))
        );
        assert_eq!(
            parse(seed!("form-password")),
            reply(None, Some("secret1"), None)
        );
    }

    #[test]
    fn xml_lookup_is_tolerant() {
        let parse = |inner: &str| Reply::parse(xml(inner).as_bytes()).unwrap();
        assert_eq!(
            parse("<UserName>u</UserName>"),
            reply(Some("u"), None, None)
        );
        assert_eq!(
            parse("<secondary_password>1</secondary_password>").password,
            Some(Secret::from("1".to_owned()))
        );
        assert_eq!(
            parse("<password2>1</password2>").password.map(|p| p.len()),
            Some(1)
        );
        assert_eq!(parse("<passwd>1</passwd>"), reply(None, None, None));
        assert_eq!(parse("<username/><password/>"), reply(None, Some(""), None));
        assert_eq!(
            parse("<auth><username>a&amp;b</username><password>&lt;&#x41;</password></auth>"),
            reply(Some("a&b"), Some("<A"), None)
        );
    }

    #[test]
    fn what_precedes_the_declaration_is_skipped() {
        let body = format!("\r\n {}", xml("<username>u</username>"));
        assert_eq!(
            Reply::parse(body.as_bytes()),
            Ok(reply(Some("u"), None, None))
        );
    }

    #[test]
    fn form_values_are_decoded() {
        let body = b"group%5flist=My+group&username=a%40b%2&second_password=%2B%25&password=x";
        assert_eq!(
            Reply::parse(body),
            Ok(reply(Some("a@b%2"), Some("+%"), Some("My group")))
        );
        assert_eq!(Reply::parse(b""), Ok(Reply::default()));
        assert_eq!(Reply::parse(b"username=%ff"), Err(ReplyError::Encoding));
    }

    #[test]
    fn user_names_with_nul_and_control_characters() {
        for name in ["a%00b", "%00", "a%0ab", "a%7f", "a%c2%85"] {
            let body = format!("username={name}&password=x");
            let wanted = Err(ReplyError::Unacceptable("user name"));
            assert_eq!(Reply::parse(body.as_bytes()), wanted, "{name}");
        }
        let body = xml("<username>a&#10;b</username>");
        assert_eq!(
            Reply::parse(body.as_bytes()),
            Err(ReplyError::Unacceptable("user name"))
        );
        assert!(Reply::parse(xml("<username>a\0b</username>").as_bytes()).is_err());
        assert_eq!(
            Reply::parse(b"username=a&password=p%00q"),
            Err(ReplyError::Unacceptable("password"))
        );
    }

    #[test]
    fn long_values_are_refused_not_cut() {
        let parse = |key: &str, length: usize| {
            Reply::parse(format!("{key}={}", "x".repeat(length)).as_bytes())
        };
        assert!(parse("username", 255).is_ok() && parse("username", 256).is_err());
        assert!(parse("group_list", 255).is_ok() && parse("group_list", 256).is_err());
        assert!(parse("password", 1024).is_ok() && parse("password", 1025).is_err());
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_do_not_panic(body in proptest::collection::vec(any::<u8>(), 0..512)) {
            let _ = Reply::parse(&body);
        }

        #[test]
        fn arbitrary_xml_values_come_through(name in "[^\\p{C}]{1,60}", word in "[^\\p{C}]{0,200}") {
            let (user, pass) = (xml::escape(&name), xml::escape(&word));
            let body = super::tests::xml(
                &format!("<username>{user}</username><password>{pass}</password>"));
            // `&nbsp;` typed by a user comes escaped, so it is no entity.
            prop_assert_eq!(Reply::parse(body.as_bytes()), Ok(reply(Some(&name), Some(&word), None)));
        }

        #[test]
        fn form_like_bytes_do_not_panic(body in "(username|password|group_list|=|&|%|[0-9a-f]|\\+){0,60}") {
            let _ = Reply::parse(body.as_bytes());
        }
    }
}
