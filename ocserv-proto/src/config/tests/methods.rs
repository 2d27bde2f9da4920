use std::time::Duration;

use super::{BASE, error, error_of, messages, without};
use crate::config::AuthMethod;
use crate::config::auth::{MethodError, parse_method};

fn method(text: &str) -> AuthMethod {
    parse_method(text)
        .unwrap_or_else(|error| panic!("{text}: {error}"))
        .method
}

#[test]
fn forms_and_defaults() {
    // config.md §3
    let plain = |passwd: Option<&str>, otp: Option<&str>| AuthMethod::Plain {
        passwd: passwd.map(Into::into),
        otp: otp.map(Into::into),
    };
    let radius = |groupconfig, nas: Option<&str>, group_separator| AuthMethod::Radius {
        config: "/r".into(),
        groupconfig,
        nas_identifier: nas.map(str::to_owned),
        group_separator,
    };
    let pam = |service: &str, gid_min| AuthMethod::Pam {
        service: service.to_owned(),
        gid_min,
    };
    for (text, expected) in [
        ("plain[passwd=/p]", plain(Some("/p"), None)),
        (
            "PLAIN [ passwd = /p , otp=/o ]",
            plain(Some("/p"), Some("/o")),
        ),
        ("plain[otp=/o]", plain(None, Some("/o"))),
        ("plain[/p]", plain(Some("/p"), None)),
        ("pam", pam("ocserv", 0)),
        ("pam[service=vpn,gid-min=1000]", pam("vpn", 1000)),
        ("radius[config=/r]", radius(false, None, ';')),
        ("radius[/r,groupconfig]", radius(true, None, ';')),
        (
            "radius[config=/r,groupconfig=yes,nas-identifier=n,group-separator=comma]",
            radius(true, Some("n"), ','),
        ),
        (
            "gssapi[keytab=/k,require-local-user-map=false,tgt-freshness-time=360,gid-min=5]",
            AuthMethod::Gssapi {
                keytab: Some("/k".into()),
                require_local_user_map: false,
                tgt_freshness_time: Some(Duration::from_secs(360)),
                gid_min: 5,
            },
        ),
        (
            "oidc[config=/o]",
            AuthMethod::Oidc {
                config: "/o".into(),
            },
        ),
        ("certificate", AuthMethod::Certificate),
    ] {
        assert_eq!(method(text), expected, "{text}");
    }
}

#[test]
fn bad_forms() {
    let bad = |text: &str| match parse_method(text) {
        Ok(parsed) => panic!("{text}: {:?}", parsed.method),
        Err(error) => error,
    };
    assert_eq!(bad("blah"), MethodError::Unknown);
    assert_eq!(
        bad("plain[foo=bar,passwd=/x]"),
        MethodError::Option("foo".to_owned())
    );
    assert_eq!(
        bad("plain[passwd=/x,otp=/y"),
        MethodError::Syntax("[passwd=/x,otp=/y".to_owned())
    );
    assert!(matches!(bad("plain"), MethodError::Value(_)));
    assert!(matches!(bad("radius"), MethodError::Value(_)));
    assert!(matches!(
        bad("certificate[optional]"),
        MethodError::Value(_) | MethodError::Option(_)
    ));
    assert!(matches!(
        bad("gssapi[tgt-freshness-time=0]"),
        MethodError::Value(_)
    ));
    assert!(matches!(
        bad("pam[a=1,b=2,c=3,d=4,e=5,f=6]"),
        MethodError::Syntax(_)
    ));
}

#[test]
fn measured_messages() {
    // config.md §8
    let auth = |line: &str| error_of(&without(&["auth"], line));
    for (text, first) in [
        (
            auth("auth = \"plain[foo=bar,passwd=/x]\""),
            "unknown option 'foo'",
        ),
        (
            auth("auth = \"blah\""),
            "error: vhost:default: unknown or unsupported auth method: blah",
        ),
        (
            auth(""),
            "error: the 'auth' configuration option was not specified!",
        ),
        (
            error("enable-auth = pam"),
            "error: vhost:default: you cannot mix multiple password authentication methods",
        ),
        (
            error("auth = pam"),
            "error: vhost:default: you cannot mix multiple authentication methods of pam type",
        ),
        (
            error("auth = certificate"),
            "error: a certificate is requested by the option 'cert-user-oid' is not set",
        ),
        (
            error("auth = certificate\ncert-user-oid = abc"),
            "error: the option 'cert-user-oid' has a unsupported value",
        ),
        (
            error(&"enable-auth = certificate\n".repeat(4)),
            "error: vhost:default: you cannot enable more than 4 authentication methods",
        ),
        (
            error("acct = foo"),
            "error: vhost:default: unknown or unsupported accounting method: foo",
        ),
    ] {
        assert_eq!(text.lines().next(), Some(first));
        assert!(text.contains("\n  t.conf"), "no place: {text}");
    }
    let said = messages("");
    let note = "note: vhost:default: setting 'plain' as primary authentication method";
    assert_eq!(
        said,
        [note, "note: setting 'file' as supplemental config option"]
    );
}

#[test]
fn a_login_way_that_is_not_built_stops_the_start() {
    let certificate = "cert-user-oid = 0.9.2342.19200300.100.1.1\n";
    for (lines, word) in [
        (without(&["auth"], "auth = pam"), "pam"),
        (without(&["auth"], "auth = radius[config=/r]"), "radius"),
        (without(&["auth"], "auth = oidc[config=/o]"), "oidc"),
        (without(&["auth"], "auth = plain[passwd=/p,otp=/o]"), "otp"),
        (format!("{BASE}enable-auth = gssapi"), "gssapi"),
        (
            format!("{BASE}{certificate}enable-auth = certificate"),
            "certificate",
        ),
        (
            format!("{BASE}{certificate}auth = certificate"),
            "certificate",
        ),
    ] {
        let text = error_of(&lines);
        assert!(text.contains("supported") && text.contains(word), "{text}");
    }
}

#[test]
fn radius_groups_exclude_directories() {
    let lines = "auth = radius[config=/r,groupconfig=true]\nconfig-per-user = /u";
    let text = error_of(&without(&["auth"], lines));
    let first =
        "error: specified config-per-user or config-per-group but supplemental config is 'radius'";
    assert_eq!(text.lines().next(), Some(first));
}
