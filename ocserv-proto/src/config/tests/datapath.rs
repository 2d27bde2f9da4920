//! Keys of the path inside the kernel.

use ocserv_common::kernel::MAX_RECORD;

use super::{config, error, warnings};
use crate::config::keys::{self, Scope};
use crate::config::{Config, XdpForward, XdpMode};

#[test]
fn defaults() {
    let c = config("");
    assert_eq!((c.xdp, c.xdp_forward), (XdpMode::Auto, XdpForward::Stack));
    assert!(c.xdp_interfaces.is_empty() && c.xdp_lan_interfaces.is_empty());
    assert_eq!(c.xdp_max_record, None);
    assert!(!c.xdp_sockets && !c.uses_sockets());
}

#[test]
fn values() {
    for (text, expected) in [
        ("auto", XdpMode::Auto),
        ("native", XdpMode::Native),
        ("\"Generic\"", XdpMode::Generic),
        ("tc", XdpMode::Tc),
        ("OFF", XdpMode::Off),
    ] {
        assert_eq!(config(&format!("xdp = {text}")).xdp, expected, "{text}");
    }
    let c = config(
        "xdp-interface = eth0\nxdp-interface = abcdefghijklmno\nxdp-interface = eth0\n\
         xdp-forward = Direct\nxdp-lan-interface = eth1.7\nxdp-lan-interface = br-lan\n\
         xdp-max-record = 43\nxdp-sockets = true",
    );
    assert_eq!(c.xdp_interfaces, ["eth0", "abcdefghijklmno"]);
    assert_eq!(c.xdp_forward, XdpForward::Direct);
    assert_eq!(c.xdp_lan_interfaces, ["eth1.7", "br-lan"]);
    assert_eq!(c.xdp_max_record, Some(43));
    assert!(c.xdp_sockets && c.uses_sockets());
    assert!(!config("xdp-forward = direct\nxdp-sockets = false").uses_sockets());
    let largest = format!("xdp-max-record = {MAX_RECORD}");
    assert_eq!(config(&largest).xdp_max_record, Some(MAX_RECORD));
    assert_eq!(warnings(&largest), [""; 0]);
}

#[test]
fn what_is_wrong_ends_the_start() {
    for (line, first, remedy) in [
        (
            "xdp = on",
            "error: unknown xdp mode 'on'",
            "use one of auto, native, generic, tc, off",
        ),
        (
            "xdp =",
            "error: unknown xdp mode ''",
            "use one of auto, native, generic, tc, off",
        ),
        (
            "xdp-forward = bridge",
            "error: unknown xdp-forward 'bridge'",
            "use one of stack, direct",
        ),
        (
            "xdp-max-record = 42",
            "error: 'xdp-max-record': '42' is not a size of records",
            "give 'auto' or a number from 43 to 1530",
        ),
        (
            "xdp-max-record = 512 bytes",
            "error: 'xdp-max-record': '512 bytes' is not a size of records",
            "give 'auto' or a number from 43 to 1530",
        ),
    ] {
        assert_eq!(error(line), format!("{first}\n  t.conf:9: {remedy}"));
    }
}

#[test]
fn interface_names_are_the_kernels() {
    for key in ["xdp-interface", "xdp-lan-interface"] {
        for name in [
            "",
            "abcdefghijklmnop",
            "a/b",
            "a b",
            "a\tb",
            "eth0:1",
            "..",
            "ü2345678901234x",
        ] {
            let expected = format!(
                "error: '{key}': '{name}' cannot be the name of a network device\n  \
                 t.conf:9: give a name of at most 15 bytes, e.g. 'eth0'"
            );
            assert_eq!(error(&format!("{key} = {name}")), expected);
        }
    }
}

#[test]
fn sizes_of_records_are_cut_and_told() {
    for text in ["1531", "99999999999999999999999"] {
        let line = format!("xdp-max-record = {text}");
        assert_eq!(config(&line).xdp_max_record, Some(1530), "{text}");
        let [warning] = &warnings(&line)[..] else {
            panic!("{text}");
        };
        let end = "is out of range, 1530 is used";
        assert!(warning.starts_with("warning: t.conf:9: 'xdp-max-record': "));
        assert!(warning.ends_with(end), "{warning}");
    }
    let auto = "xdp-max-record = auto";
    assert_eq!(config(auto).xdp_max_record, None);
    assert_eq!(warnings(auto), [""; 0]);
}

#[test]
fn devices_of_the_lan_need_direct() {
    let lan = "xdp-lan-interface = eth1";
    let warning = "warning: t.conf:9: 'xdp-lan-interface': has a meaning only with \
                   'xdp-forward = direct'";
    assert_eq!(warnings(lan), [warning]);
    assert_eq!(warnings(&format!("{lan}\nxdp-forward = stack")), [warning]);
    assert_eq!(warnings(&format!("{lan}\nxdp-forward = direct")), [""; 0]);
}

#[test]
fn keys_without_effect_are_told() {
    let off = |key: &str, line: u32| {
        format!("warning: t.conf:{line}: '{key}': has no meaning with 'xdp = off'")
    };
    let interface = off("xdp-interface", 10);
    assert_eq!(warnings("xdp = off\nxdp-interface = eth0"), [interface]);
    let forward = off("xdp-forward", 10);
    let text = "xdp = off\nxdp-forward = direct\nxdp-lan-interface = eth1";
    assert_eq!(warnings(text), [forward]);
    let nowhere = "warning: t.conf:9: 'xdp-forward': forwards by no device: name those of the LAN \
                   with 'xdp-lan-interface'";
    assert_eq!(warnings("xdp-forward = direct"), [nowhere]);
}

#[test]
fn sockets_need_direct_and_take_all_lengths() {
    let sockets = "xdp-sockets = true";
    let warning =
        "warning: t.conf:9: 'xdp-sockets': has a meaning only with 'xdp-forward = direct'";
    for text in [sockets, "xdp-sockets = true\nxdp-forward = stack"] {
        assert_eq!(warnings(text), [warning]);
        assert!(!config(text).uses_sockets());
    }
    let direct = "xdp-sockets = true\nxdp-forward = direct\nxdp-lan-interface = eth1";
    assert_eq!(warnings(direct), [""; 0]);
    assert!(!config(&format!("{direct}\nxdp = off")).uses_sockets());
    assert_eq!(warnings("xdp-sockets = false"), [""; 0]);
    let lengths = "warning: t.conf:12: 'xdp-max-record': has no meaning with 'xdp-sockets = true', \
                   which takes records of every length";
    assert_eq!(
        warnings(&format!("{direct}\nxdp-max-record = 600")),
        [lengths]
    );
    assert_eq!(
        warnings(&format!("{direct}\nxdp-max-record = auto")),
        [""; 0]
    );
}

#[test]
fn tc_knows_no_direct_way() {
    let both = "xdp = tc\nxdp-forward = direct";
    let first = "error: 'xdp = tc' has no 'xdp-forward = direct'";
    let remedy = "use 'xdp = native' or 'xdp = generic', or 'xdp-forward = stack'";
    assert_eq!(error(both), format!("{first}\n  t.conf:9: {remedy}"));
    assert_eq!(warnings("xdp = tc\nxdp-forward = stack"), [""; 0]);
}

#[test]
fn they_are_global_and_fixed_at_start() {
    let names = [
        "xdp",
        "xdp-interface",
        "xdp-forward",
        "xdp-lan-interface",
        "xdp-max-record",
        "xdp-sockets",
    ];
    for name in names {
        let key = keys::find(name).unwrap();
        assert_eq!(key.scope, Scope::GlobalFixed, "{name}");
        let text = error(&format!("[vhost:a.example]\n{name} = auto"));
        let first = format!("error: '{name}' cannot be set inside a virtual host section");
        assert_eq!(text.lines().next(), Some(&*first));
    }
    let old = config("");
    let mut new = config(
        "xdp = off\nxdp-interface = eth0\nxdp-forward = direct\nxdp-lan-interface = eth1\n\
         xdp-max-record = 600\nxdp-sockets = true",
    );
    assert_eq!(Config::changed_fixed_keys(&old, &new), names);
    new.keep_fixed_keys(&old);
    assert_eq!(new, old);
}
