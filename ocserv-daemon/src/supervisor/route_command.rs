//! `route-add-cmd` and `route-del-cmd` (config.md): their text is run by a root shell, so routes
//! and device enter it only as what they were parsed to.

use ocserv_proto::config::Route;
use thiserror::Error;

/// Why a command was not built.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum RouteCommandError {
    /// Not a name that the kernel gives to a device.
    #[error("'{0}' is not a device name")]
    Device(String),
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

    fn route(net: &str, prefix: u8) -> Route {
        Route {
            net: net.parse().unwrap(),
            prefix,
        }
    }

    #[test]
    fn placeholders_are_replaced() {
        let iroute = route("10.99.0.0", 16);
        let line = expand(
            "ip r add %{RI} dev %{D} # %R %D %{R} 100%",
            &iroute,
            "vpns0",
        )
        .unwrap();
        let expected = "ip r add 10.99.0.0/16 dev vpns0 \
                        # 10.99.0.0/255.255.0.0 vpns0 10.99.0.0/255.255.0.0 100%";
        assert_eq!(line, expected);
        let line = expand("%{R} %{RI} %X", &route("fd00:1::", 48), "tun-1.x").unwrap();
        assert_eq!(line, "fd00:1::/48 fd00:1::/48 %X");
    }

    #[test]
    fn what_is_no_device_is_refused() {
        for device in ["", "a b", "x;reboot", "0123456789abcdef", "a/b"] {
            assert!(
                expand("%{D}", &route("10.0.0.0", 8), device).is_err(),
                "{device}"
            );
        }
    }
}
