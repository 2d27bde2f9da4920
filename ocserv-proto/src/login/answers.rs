//! The answers of the dialogue, byte for byte as clients know them (protocol.md 4.3).

use std::fmt::Write;

use zeroize::Zeroizing;

use super::types::{LoginSettings, Profile};
use crate::cookies;
use crate::http::Answer;
use crate::secret::Secret;
use crate::urls::StaticPage;
use crate::xml::escape;

const XML_TYPE: &str = "text/xml; charset=utf-8";
const DECLARATION: &str = "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n";
const CLEARED: &str = "=; expires=Thu, 01 Jan 1970 22:00:00 GMT; path=/; Secure; HttpOnly";

/// How to speak to this client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dialect {
    /// HTTP/1.x of the request.
    pub minor_version: u8,
    /// The client knows no `config-auth` wrapper (protocol.md 4.10).
    pub unwrapped: bool,
}

/// An answer's bytes; may hold a cookie.
pub type Bytes = Zeroizing<Vec<u8>>;

/// The form that asks for everything, with the chosen group first in the list.
pub fn login_form(
    dialect: Dialect,
    settings: &LoginSettings,
    chosen: Option<&str>,
    only_chosen: bool,
) -> Bytes {
    let banner = element("banner", settings.pre_login_banner.as_deref());
    let groups = group_list(settings, chosen, only_chosen);
    let inner = format!(
        "{banner}<message>Please enter your username and password.</message>\n\
         <form method=\"post\" action=\"/auth\">\n\
         <input type=\"text\" name=\"username\" label=\"Username:\" />\n\
         <input type=\"password\" name=\"password\" label=\"Password:\" />\n\
         {groups}</form>"
    );
    let cookie = format!("{}{CLEARED}", cookies::WEBVPNCONTEXT);
    form(dialect, settings, &cookie, "main", &inner)
}

/// The form that asks for a password or for the next factor.
pub fn password_form(
    dialect: Dialect,
    settings: &LoginSettings,
    sid: &Secret,
    message: &str,
    counter: u32,
) -> Bytes {
    let (name, label) = match counter {
        0 => ("password", "Password:".to_owned()),
        n => ("secondary_password", format!("Password{n}:")),
    };
    let inner = format!(
        "<message>{}</message>\n<form method=\"post\" action=\"/auth\">\n\
         <input type=\"password\" name=\"{name}\" label=\"{label}\" />\n</form>",
        escape(message)
    );
    let sid = cookies::encode(sid);
    let cookie = Zeroizing::new(format!(
        "{}={}; Max-Age={}; Secure; HttpOnly",
        cookies::WEBVPNCONTEXT,
        sid.as_str(),
        settings.cookie_timeout_secs
    ));
    form(
        dialect,
        settings,
        &cookie,
        if dialect.unwrapped { "passwd" } else { "main" },
        &inner,
    )
}

/// The end of a login: cookies for the tunnel and for AnyConnect.
pub fn success(dialect: Dialect, settings: &LoginSettings, cookie: &Secret) -> Bytes {
    let banner = element("banner", settings.banner.as_deref());
    let auth = format!("<auth id=\"success\">\n<title>SSL VPN Service</title>{banner}</auth>");
    let body = if dialect.unwrapped {
        format!("{DECLARATION}{auth}\n")
    } else {
        let end = match &settings.profile {
            Some(profile) => format!("\n{}</config-auth>", profile_manifest(profile)),
            None => "</config-auth>\n".to_owned(),
        };
        format!(
            "{DECLARATION}<config-auth client=\"vpn\" type=\"complete\">\n\
             <version who=\"sg\">0.1(1)</version>\n{auth}{end}"
        )
    };
    let sid = cookies::encode(cookie);
    let session = |name: &str| Zeroizing::new(format!("{name}={}; Secure; HttpOnly", sid.as_str()));
    Answer::new(dialect.minor_version, "200 OK")
        .header("Connection", "Keep-Alive")
        .header("Content-Type", XML_TYPE)
        .header("Content-Length", &body.len().to_string())
        .header("X-Transcend-Version", "1")
        .header("Set-Cookie", &session(cookies::WEBVPNCONTEXT))
        .header("Set-Cookie", &session(cookies::WEBVPN))
        .header("Set-Cookie", &format!("webvpnc{CLEARED}"))
        .lines(&settings.included_http_headers)
        .header("Set-Cookie", &anyconnect_cookie(settings))
        .body(body.as_bytes())
}

/// A fixed page, or the profile.
pub fn page(dialect: Dialect, settings: &LoginSettings, content_type: &str, body: &[u8]) -> Bytes {
    Answer::new(dialect.minor_version, "200 OK")
        .header("Connection", "Keep-Alive")
        .header("Content-Type", content_type)
        .header("X-Transcend-Version", "1")
        .header("Content-Length", &body.len().to_string())
        .lines(&settings.included_http_headers)
        .body(body)
}

/// A [`StaticPage`].
pub fn static_page(dialect: Dialect, settings: &LoginSettings, page_: &StaticPage) -> Bytes {
    page(dialect, settings, page_.content_type, page_.body.as_bytes())
}

/// `404`; the connection closes after it.
pub fn not_found(dialect: Dialect) -> Bytes {
    Answer::new(dialect.minor_version, "404 Not found")
        .header("Content-length", "50")
        .header("Connection", "close")
        .body(b"<html><body><h1>404 Not Found</h1></body></html>\r\n")
}

/// The end of a failed login.
pub fn denied(dialect: Dialect, reason: &str) -> Bytes {
    error(dialect, &format!("401 {reason}"))
}

/// An error with an empty body.
pub fn error(dialect: Dialect, status: &str) -> Bytes {
    Answer::new(dialect.minor_version, status)
        .header("Content-Length", "0")
        .body(b"")
}

/// An error that concerns the cookie: a status line alone (protocol.md 5.2).
pub fn bare_error(dialect: Dialect, status: &str) -> Bytes {
    Answer::new(dialect.minor_version, status).body(b"")
}

fn form(dialect: Dialect, settings: &LoginSettings, cookie: &str, id: &str, inner: &str) -> Bytes {
    let auth = format!("<auth id=\"{id}\">\n{inner}</auth>\n");
    let body = if dialect.unwrapped {
        format!("{DECLARATION}{auth}")
    } else {
        format!(
            "{DECLARATION}<config-auth client=\"vpn\" type=\"auth-request\">\n\
             <version who=\"sg\">0.1(1)</version>\n{auth}</config-auth>"
        )
    };
    Answer::new(dialect.minor_version, "200 OK")
        .header("Set-Cookie", cookie)
        .header("Content-Type", XML_TYPE)
        .header("Content-Length", &body.len().to_string())
        .header("X-Transcend-Version", "1")
        .lines(&settings.included_http_headers)
        .body(body.as_bytes())
}

/// Chosen group, default entry, the others in file order: clients preselect the first.
fn group_list(settings: &LoginSettings, chosen: Option<&str>, only_chosen: bool) -> String {
    if settings.groups.is_empty() {
        return String::new();
    }
    let mut options = String::new();
    let mut add = |value: Option<&str>, text: &str| {
        // Writing to a string does not fail.
        let _ = match value {
            Some(value) => {
                writeln!(
                    options,
                    "<option value=\"{}\">{}</option>",
                    escape(value),
                    escape(text)
                )
            }
            None => writeln!(options, "<option>{}</option>", escape(text)),
        };
    };
    let is_chosen = |name: &str| chosen == Some(name);
    for group in settings
        .groups
        .iter()
        .filter(|group| is_chosen(&group.name))
    {
        add(Some(&group.name), group.text());
    }
    if !only_chosen {
        if let Some(label) = &settings.default_select_group {
            add(None, label);
        }
        for group in settings
            .groups
            .iter()
            .filter(|group| !is_chosen(&group.name))
        {
            add(Some(&group.name), group.text());
        }
    }
    format!("<select name=\"group_list\" label=\"Group:\">\n{options}</select>\n")
}

fn element(name: &str, text: Option<&str>) -> String {
    text.map(|text| format!("<{name}>{}</{name}>", escape(text)))
        .unwrap_or_default()
}

/// `webvpnc`, by which AnyConnect learns the certificate's and the profile's hashes.
fn anyconnect_cookie(settings: &LoginSettings) -> String {
    let mut value = format!("webvpnc=bu:/&p:t&iu:1/&sh:{}", settings.cert_sha1_hex);
    if let Some(profile) = &settings.profile {
        let file = cookie_safe(&profile.file_name);
        // Writing to a string does not fail.
        let _ = write!(
            value,
            "&lu:/+CSCOT+/translation-table?textdomain%3DAnyConnect%26type%3Dmanifest\
             &fu:profiles%2F{file}&fh:{}",
            profile.sha1_hex
        );
    }
    value + "; path=/; Secure; HttpOnly"
}

/// A file name must not end the cookie or begin another of its fields.
fn cookie_safe(file_name: &str) -> String {
    let mut safe = String::with_capacity(file_name.len());
    for byte in file_name.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~/".contains(&byte) {
            safe.push(char::from(byte));
        } else {
            // Writing to a string does not fail.
            let _ = write!(safe, "%{byte:02X}");
        }
    }
    safe
}

fn profile_manifest(profile: &Profile) -> String {
    format!(
        "<config client=\"vpn\" type=\"private\"><vpn-profile-manifest><vpn rev=\"1.0\">\
         <file type=\"profile\" service-type=\"user\"><uri>/profiles/{}</uri>\
         <hash type=\"sha1\">{}</hash></file></vpn></vpn-profile-manifest>\n</config>",
        escape(&profile.file_name),
        escape(&profile.sha1_hex)
    )
}
