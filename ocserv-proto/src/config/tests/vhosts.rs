use super::{config, error, messages, warnings, with};

#[test]
fn settings_so_far_are_inherited() {
    // config.md 2.2, 2.4
    let c = config(
        "keepalive = 11\nroute = 10.0.0.0/8\n[vhost:a.example]\nroute = 11.0.0.0/8\ndpd = 5\n\
         [vhost:b.example]\nbanner = hi\n[vhost:a.example]\nmtu = 1300\n",
    );
    let names: Vec<&str> = c.vhosts.iter().map(|v| v.name.as_str()).collect();
    assert_eq!(names, ["default", "a.example", "b.example"]);
    let [default, a, b] = &c.vhosts[..] else {
        panic!()
    };
    assert_eq!(a.user.keepalive, default.user.keepalive);
    assert_eq!(a.user.route.len(), 2);
    assert_eq!((a.user.mtu, b.user.mtu), (1300, 0));
    assert_eq!(default.user.route.len(), 1);
    assert_ne!(a.user.dpd, b.user.dpd);
    assert_eq!(b.banner.as_deref(), Some("hi"));
    assert_eq!(default.banner, None);
}

#[test]
fn fixed_settings_come_from_the_default_vhost_unless_given() {
    // config.md 2.2: not appended to, but replaced
    let c = config(
        "key-pin = 1\n[vhost:a.example]\nkeepalive = 1\n[vhost:b.example]\n\
         auth = plain[passwd=/b]\nserver-cert = /b.crt\nserver-key = /b.key\n",
    );
    let [default, a, b] = &c.vhosts[..] else {
        panic!()
    };
    assert_eq!(
        (&a.auth, &a.server_cert, &a.key_pin),
        (&default.auth, &default.server_cert, &default.key_pin)
    );
    assert_eq!(b.auth.len(), 1);
    assert_eq!(b.server_cert.len(), 1);
    assert_ne!(b.auth, default.auth);
    let half = error("[vhost:a.example]\nserver-cert = /b.crt");
    assert!(
        half.contains("error: vhost:a.example: the specified number of keys doesn't match"),
        "{half}"
    );
}

#[test]
fn names() {
    // config.md 2.1, §8 last lines
    let said = messages("[vhost:EXAMPLE.com]\nmtu = 1300\n[vhost: example.COM]\nmtu = 1301");
    assert!(said.contains(&"note: adding virtual host: EXAMPLE.com".to_owned()));
    assert_eq!(with("[vhost:A.b]\n[vhost:a.B]").config.vhosts.len(), 2);
    let said = messages("[vhost: b\u{fc}cher.example ]\nmtu = 1300");
    let mapped =
        "virtual host name ' b\u{fc}cher.example ' was canonicalized to 'xn--bcher-kva.example'";
    assert!(said.contains(&format!("note: {mapped}")), "{said:?}");
    assert!(error("[vhost:]\n").starts_with("error: virtual host name is illegal ''"));
    assert_eq!(
        warnings("[VHOST:x]"),
        ["warning: skipping unknown section 'VHOST:x'"]
    );
}

#[test]
fn global_keys_do_not_belong_in_a_section() {
    // config.md 2.5
    let text = error("[vhost:a.example]\ntcp-port = 444");
    let first = text.lines().next();
    assert_eq!(
        first,
        Some("error: 'tcp-port' cannot be set inside a virtual host section")
    );
    assert!(text.contains("t.conf:10: "), "{text}");
    assert_eq!(
        config("[vhost:a.example]\npid-file = /x").pid_file,
        Some("/x".into())
    );
}

#[test]
fn group_settings_of_a_radius_server_are_not_inherited() {
    // config.md 2.2. RADIUS is not built, so the drafts are compared.
    use crate::config::AuthMethod;
    use crate::config::auth::parse_method;
    use crate::config::draft::VhostDraft;
    let mut default = VhostDraft::first();
    let text = "radius[config=/r,groupconfig=true]";
    default.config.auth.push(parse_method(text).unwrap().method);
    let mut vhost = default.inherit("a.example".to_owned());
    vhost.complete_from(&default.config);
    assert!(matches!(
        vhost.config.auth[..],
        [AuthMethod::Radius {
            groupconfig: false,
            ..
        }]
    ));
}
