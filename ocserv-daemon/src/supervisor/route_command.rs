//! `route-add-cmd` and `route-del-cmd` (config.md): their text is run by a root shell, so routes
//! and device enter it only as what they were parsed to.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr};

use thiserror::Error;

/// Why a command was not built.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum RouteCommandError {
    /// Not `address/prefix` or `address/mask`.
    #[error("'{0}' is not a route")]
    Route(String),
    /// Not a name that the kernel gives to a device.
    #[error("'{0}' is not a device name")]
    Device(String),
}

/// A network behind a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route {
    network: IpAddr,
    prefix: u8,
}

impl Route {
    /// Reads `a.b.c.d/prefix`, `a.b.c.d/m.m.m.m` with a contiguous mask, or `v6/prefix`.
    ///
    /// # Errors
    /// For anything else, `default` included: a default route is nobody's iroute.
    pub fn parse(text: &str) -> Result<Self, RouteCommandError> {
        let refused = || RouteCommandError::Route(text.chars().take(64).collect());
        let (network, length) = text.split_once('/').ok_or_else(refused)?;
        let network: IpAddr = network.parse().map_err(|_| refused())?;
        let prefix = match (network, length.parse::<Ipv4Addr>()) {
            (IpAddr::V4(_), Ok(mask)) => prefix_of(mask).ok_or_else(refused)?,
            _ if length.bytes().all(|byte| byte.is_ascii_digit()) => {
                length.parse().map_err(|_| refused())?
            }
            _ => return Err(refused()),
        };
        let longest = if network.is_ipv4() { 32 } else { 128 };
        if prefix > longest {
            return Err(refused());
        }
        Ok(Self { network, prefix })
    }

    /// Network address and prefix length.
    pub fn parts(&self) -> (IpAddr, u8) {
        (self.network, self.prefix)
    }

    /// `address/prefix`.
    fn cidr(&self) -> String {
        format!("{}/{}", self.network, self.prefix)
    }
}

impl fmt::Display for Route {
    /// IPv4 with dotted mask, IPv6 with prefix length.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.network {
            IpAddr::V4(network) => {
                let shift = 32_u32.saturating_sub(u32::from(self.prefix));
                let mask = u32::MAX.checked_shl(shift).unwrap_or(0);
                write!(f, "{network}/{}", Ipv4Addr::from_bits(mask))
            }
            IpAddr::V6(_) => f.write_str(&self.cidr()),
        }
    }
}

fn prefix_of(mask: Ipv4Addr) -> Option<u8> {
    let bits = mask.to_bits();
    let ones = bits.leading_ones();
    (ones == bits.count_ones()).then_some(u8::try_from(ones).ok()?)
}

/// The command line: `%{R}` and `%R` become the route (IPv4 with dotted mask), `%{RI}` the route
/// with prefix length, `%{D}` and `%D` the device. Everything else stays as the administrator wrote
/// it.
///
/// # Errors
/// If `device` has other characters than letters, digits, `_`, `.` and `-`, or a wrong length.
pub fn expand(template: &str, route: &Route, device: &str) -> Result<String, RouteCommandError> {
    let is_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-');
    if device.is_empty() || device.len() > 15 || !device.chars().all(is_name) {
        return Err(RouteCommandError::Device(device.chars().take(64).collect()));
    }
    let (dotted, cidr) = (route.to_string(), route.cidr());
    let values = [
        ("%{RI}", &*cidr),
        ("%{R}", &*dotted),
        ("%{D}", device),
        ("%R", &*dotted),
        ("%D", device),
    ];
    let mut line = String::with_capacity(template.len() + 64);
    let mut rest = template;
    while let Some(start) = rest.find('%') {
        let (before, from) = rest.split_at(start);
        line.push_str(before);
        let known = values
            .iter()
            .find_map(|(key, value)| Some((from.strip_prefix(key)?, value)));
        match known {
            Some((after, value)) => {
                line.push_str(value);
                rest = after;
            }
            None => {
                line.push('%');
                rest = from.get(1..).unwrap_or_default();
            }
        }
    }
    line.push_str(rest);
    Ok(line)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn placeholders_are_replaced() {
        let route = Route::parse("10.99.0.0/16").unwrap();
        let line = expand("ip r add %{RI} dev %{D} # %R %D %{R} 100%", &route, "vpns0").unwrap();
        let expected = "ip r add 10.99.0.0/16 dev vpns0 # 10.99.0.0/255.255.0.0 vpns0 10.99.0.0/255.255.0.0 100%";
        assert_eq!(line, expected);
        let route = Route::parse("fd00:1::/48").unwrap();
        assert_eq!(
            expand("%{R} %{RI} %X", &route, "tun-1.x").unwrap(),
            "fd00:1::/48 fd00:1::/48 %X"
        );
        let route = Route::parse("10.0.0.0/255.128.0.0").unwrap();
        assert_eq!(expand("%{RI}", &route, "t").unwrap(), "10.0.0.0/9");
    }

    #[test]
    fn what_is_no_route_or_device_is_refused() {
        for text in [
            "default",
            "10.0.0.0",
            "10.0.0.0/",
            "10.0.0.0/33",
            "10.0.0.0/+8",
            "10.0.0.0/255.0.255.0",
            "10.0.0.0/8; reboot",
            "10.0.0.0/8 ",
            "$(x)/8",
            "fd00::/129",
            "fd00::/255.0.0.0",
            "fe80::1%eth0/64",
        ] {
            assert!(Route::parse(text).is_err(), "{text}");
        }
        let route = Route::parse("10.0.0.0/8").unwrap();
        for device in ["", "a b", "x;reboot", "0123456789abcdef", "a/b"] {
            assert!(expand("%{D}", &route, device).is_err(), "{device}");
        }
    }

    proptest! {
        #[test]
        fn a_parsed_route_is_safe_in_a_shell(text in "[0-9a-f.:/;$%` ]{0,40}") {
            if let Ok(route) = Route::parse(&text) {
                let line = expand("%{R}%{RI}", &route, "vpns0").unwrap();
                prop_assert!(line.chars().all(|c| c.is_ascii_hexdigit() || ".:/".contains(c)));
            }
        }
    }
}
