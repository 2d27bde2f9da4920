//! Keys of the path inside the kernel. They are our own; ocserv has none of them.

use ocserv_common::kernel;

use super::Scope::GlobalFixed as GF;
use super::Status::Works;
use super::{Key, Setter, put};
use crate::config::types::{Config, XdpForward, XdpMode};
use crate::config::value::{Read, Value, leading_number};

type Set = fn(&mut Config, &mut Value<'_>) -> Read<()>;

const fn key(name: &'static str, set: Set) -> Key {
    Key {
        name,
        scope: GF,
        status: Works,
        setter: Setter::Global(set),
    }
}

pub(super) static KEYS: &[Key] = &[
    key("xdp", |c, v| put(&mut c.xdp, mode(v))),
    key("xdp-interface", |c, v| interface(&mut c.xdp_interfaces, v)),
    key("xdp-forward", |c, v| put(&mut c.xdp_forward, forward(v))),
    key("xdp-lan-interface", |c, v| {
        interface(&mut c.xdp_lan_interfaces, v)
    }),
    key("xdp-max-record", |c, v| {
        put(&mut c.xdp_max_record, max_record(v))
    }),
    key("xdp-sockets", |c, v| put(&mut c.xdp_sockets, v.boolean())),
];

/// Longest name of a network device, bytes (`IFNAMSIZ` less its final zero).
const MAX_INTERFACE: usize = 15;

/// Smallest `xdp-max-record`, bytes. No shorter record holds an IP packet.
const MIN_RECORD: u32 = 43;

fn mode(v: &mut Value<'_>) -> Read<XdpMode> {
    let mode = match v.text.to_ascii_lowercase().as_str() {
        "auto" => XdpMode::Auto,
        "native" => XdpMode::Native,
        "generic" => XdpMode::Generic,
        "tc" => XdpMode::Tc,
        "off" => XdpMode::Off,
        _ => {
            let message = format!("error: unknown xdp mode '{}'", v.text);
            return v.refuse(message, "use one of auto, native, generic, tc, off");
        }
    };
    v.off = mode == XdpMode::Off;
    Ok(mode)
}

fn forward(v: &mut Value<'_>) -> Read<XdpForward> {
    match v.text.to_ascii_lowercase().as_str() {
        "stack" => Ok(XdpForward::Stack),
        "direct" => Ok(XdpForward::Direct),
        _ => {
            let message = format!("error: unknown xdp-forward '{}'", v.text);
            v.refuse(message, "use one of stack, direct")
        }
    }
}

/// Adds a device once. Names that the kernel gives to no device are refused, so that a slip of the
/// pen does not look like a device that is only missing.
fn interface(list: &mut Vec<String>, v: &mut Value<'_>) -> Read<()> {
    let bad = |c: char| c.is_whitespace() || matches!(c, '/' | ':');
    let is_name = (1..=MAX_INTERFACE).contains(&v.text.len())
        && !v.text.contains(bad)
        && !matches!(v.text, "." | "..");
    if !is_name {
        let message = format!(
            "error: '{}': '{}' cannot be the name of a network device",
            v.key, v.text
        );
        return v.refuse(message, "give a name of at most 15 bytes, e.g. 'eth0'");
    }
    if !list.iter().any(|name| name == v.text) {
        list.push(v.text.to_owned());
    }
    Ok(())
}

fn max_record(v: &mut Value<'_>) -> Read<Option<u32>> {
    if v.text.eq_ignore_ascii_case("auto") {
        return Ok(None);
    }
    let (number, rest) = leading_number(v.text);
    if !rest.is_empty() || v.text.is_empty() || number < i64::from(MIN_RECORD) {
        let message = format!("error: '{}': '{}' is not a size of records", v.key, v.text);
        let remedy = format!(
            "give 'auto' or a number from {MIN_RECORD} to {}",
            kernel::MAX_RECORD
        );
        return v.refuse(message, remedy);
    }
    let limit = kernel::MAX_RECORD;
    match u32::try_from(number) {
        Ok(number) if number <= limit => Ok(Some(number)),
        _ => {
            v.warn(format!("{number} is out of range, {limit} is used"));
            Ok(Some(limit))
        }
    }
}
