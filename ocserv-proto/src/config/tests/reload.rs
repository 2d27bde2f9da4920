use super::config;
use crate::config::Config;

#[test]
fn fixed_keys_are_named_and_kept() {
    // config.md 2.6
    let old = config("run-as-user = a\n[vhost:x.example]\nkeepalive = 1");
    let mut new = config(
        "run-as-user = b\ntcp-port = 444\nkeepalive = 3\nmax-clients = 9\nkey-pin = 1\n\
         [vhost:X.example]\nauth = plain[passwd=/other]\n[vhost:new.example]\nkeepalive = 2",
    );
    let expected = ["tcp-port", "run-as-user", "key-pin", "auth"];
    assert_eq!(Config::changed_fixed_keys(&old, &new), expected);
    assert_eq!(new.keep_fixed_keys(&old), expected);
    assert_eq!((new.tcp_port, new.run_as_user.as_deref()), (443, Some("a")));
    assert_eq!(
        (
            new.max_clients,
            new.vhosts[0].user.keepalive.map(|d| d.as_secs())
        ),
        (9, Some(3))
    );
    assert_eq!(new.vhosts[1].auth, old.vhosts[1].auth);
    assert_eq!(new.vhosts.len(), 3);
    assert_eq!(Config::changed_fixed_keys(&old, &new), [""; 0]);
}

/// The dataplane has it from its start.
#[test]
fn the_search_for_the_mtu_begins_and_ends_at_a_restart() {
    let (old, mut new) = (config(""), config("try-mtu-discovery = true"));
    assert_eq!(new.keep_fixed_keys(&old), ["try-mtu-discovery"]);
    assert_eq!(new, old);
}
