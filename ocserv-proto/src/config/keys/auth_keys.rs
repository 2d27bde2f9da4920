//! Keys of a vhost that concern methods, certificates and keys (scope V! for the most part).

use std::path::PathBuf;

use super::Scope::{Vhost as V, VhostFixed as VF};
use super::Status::{Ignored, Later, Works};
use super::{Key, Scope, Setter, Status, push, put};
use crate::config::auth::{AuthMethod, MethodError, parse_method};
use crate::config::draft::VhostDraft;
use crate::config::error::Message;
use crate::config::value::{Read, Value};
use crate::secret::Secret;

type Set = fn(&mut VhostDraft, &mut Value<'_>) -> Read<()>;

const fn key(name: &'static str, scope: Scope, status: Status, set: Set) -> Key {
    Key {
        name,
        scope,
        status,
        setter: Setter::Vhost(set),
    }
}

const CERTIFICATES: Status = Later("client certificates");

pub(super) static KEYS: &[Key] = &[
    key("auth", VF, Works, primary),
    key("enable-auth", VF, Works, alternative),
    key("acct", VF, Later("accounting"), accounting),
    key("server-cert", VF, Works, |d, v| {
        push(&mut d.config.server_cert, key_file(v))
    }),
    key("server-key", VF, Works, |d, v| {
        push(&mut d.config.server_key, key_file(v))
    }),
    key("key-pin", VF, Works, |d, v| {
        put(&mut d.config.key_pin, secret(v))
    }),
    key("pin-file", VF, Works, |d, v| {
        put(&mut d.config.pin_file, v.path())
    }),
    key("srk-pin", VF, Later("TPM keys"), |d, v| {
        put(&mut d.config.srk_pin, secret(v))
    }),
    key("srk-pin-file", VF, Later("TPM keys"), |d, v| {
        put(&mut d.config.srk_pin_file, v.path())
    }),
    key(
        "dh-params",
        VF,
        Ignored("finite-field groups are fixed by standards now"),
        |d, v| put(&mut d.config.dh_params, v.path()),
    ),
    key("ca-cert", VF, CERTIFICATES, |d, v| {
        put(&mut d.config.ca_cert, v.path())
    }),
    key("crl", V, CERTIFICATES, |d, v| {
        put(&mut d.config.crl, v.path())
    }),
    key("ocsp-response", V, Works, |d, v| {
        put(&mut d.config.ocsp_response, v.path())
    }),
    key("cert-user-oid", V, CERTIFICATES, |d, v| {
        put(&mut d.config.cert_user_oid, v.text())
    }),
    key("cert-group-oid", V, CERTIFICATES, |d, v| {
        put(&mut d.config.cert_group_oid, v.text())
    }),
];

pub(super) fn secret(v: &mut Value<'_>) -> Read<Option<Secret>> {
    Ok(v.text()?.map(Secret::from))
}

/// Key and certificate URLs of GnuTLS; they are never file names (config.md §5).
const URL_SCHEMES: [&str; 4] = ["pkcs11:", "tpmkey:", "tpm2:", "system:"];

fn key_file(v: &mut Value<'_>) -> Read<Option<PathBuf>> {
    let scheme = |scheme: &&str| {
        v.text
            .get(..scheme.len())
            .is_some_and(|start| start.eq_ignore_ascii_case(scheme))
    };
    if URL_SCHEMES.iter().any(scheme) {
        let message = format!("error: unsupported key URL in '{}'", v.key);
        return v.refuse(message, "use a PEM file");
    }
    v.path()
}

/// Most methods of a vhost (config.md §3).
const MAX_METHODS: usize = 4;

fn method(d: &VhostDraft, v: &mut Value<'_>, kind: &str) -> Read<AuthMethod> {
    let vhost = d.label();
    match parse_method(v.text) {
        Ok(parsed) => {
            if parsed.legacy {
                let name = parsed.method.name();
                let text = format!("{}: '{name}' is in its old form", v.place);
                v.messages.push(Message::note(text));
            }
            Ok(parsed.method)
        }
        Err(MethodError::Unknown) => {
            let message = format!(
                "error: {vhost}: unknown or unsupported {kind} method: {}",
                v.text
            );
            v.refuse(message, "use e.g. \"plain[passwd=/etc/ocserv/ocpasswd]\"")
        }
        Err(why @ (MethodError::Option(_) | MethodError::Syntax(_))) => v.refuse(
            why.to_string(),
            "write method[key=value,...] with the keys of that method",
        ),
        Err(MethodError::Value(why)) => v.refuse(
            format!("error: {vhost}: {why}"),
            format!("correct '{}'", v.key),
        ),
    }
}

fn room(d: &VhostDraft, v: &Value<'_>) -> Read<()> {
    if d.config.auth.len() + d.config.enable_auth.len() < MAX_METHODS {
        return Ok(());
    }
    let message = format!(
        "error: {}: you cannot enable more than {MAX_METHODS} authentication methods",
        d.label()
    );
    v.refuse(message, "remove a line")
}

fn primary(d: &mut VhostDraft, v: &mut Value<'_>) -> Read<()> {
    room(d, v)?;
    let method = method(d, v, "auth")?;
    let has_module = |m: &AuthMethod| !matches!(m, AuthMethod::Certificate);
    if has_module(&method) && d.config.auth.iter().any(has_module) {
        let message = format!(
            "error: {}: you cannot mix multiple authentication methods of {} type",
            d.label(),
            v.text
        );
        return v.refuse(message, "keep one; alternatives go to 'enable-auth'");
    }
    d.config.auth.push(method);
    Ok(())
}

fn alternative(d: &mut VhostDraft, v: &mut Value<'_>) -> Read<()> {
    room(d, v)?;
    let method = method(d, v, "auth")?;
    d.config.enable_auth.push(method);
    Ok(())
}

fn accounting(d: &mut VhostDraft, v: &mut Value<'_>) -> Read<()> {
    let method = method(d, v, "accounting")?;
    if !matches!(method, AuthMethod::Radius { .. } | AuthMethod::Pam { .. }) {
        let message = format!(
            "error: {}: unknown or unsupported accounting method: {}",
            d.label(),
            v.text
        );
        return v.refuse(message, "accounting is 'radius[config=FILE]' or 'pam'");
    }
    put(&mut d.config.acct, Ok(Some(method)))
}
