//! Builder of `ocserv.conf`.

use std::fmt::Write as _;

use crate::bed::{Bed, PORT};

/// A configuration file in the making: ordered keys, then verbatim sections.
#[derive(Clone, Debug)]
pub struct Config {
    lines: Vec<(String, String)>,
    sections: String,
}

impl Config {
    /// What most tests want: password login, TLS and DTLS on [`PORT`], both address families,
    /// routes to the lan, isolation on, bans off. Records meet XDP, as behind most network cards.
    pub fn new(bed: &Bed) -> Self {
        let directory = bed.directory().display();
        let mut config = Self {
            lines: Vec::new(),
            sections: String::new(),
        };
        let port = PORT.to_string();
        let paths = [
            ("auth", format!("\"plain[passwd={directory}/passwd]\"")),
            ("server-cert", format!("{directory}/server.pem")),
            ("server-key", format!("{directory}/server.key")),
            ("socket-file", format!("{directory}/ocserv.sock")),
            ("occtl-socket-file", format!("{directory}/occtl.sock")),
        ];
        for (key, value) in &paths {
            config = config.add(key, value);
        }
        for (key, value) in [
            ("tcp-port", port.as_str()),
            ("udp-port", &port),
            ("run-as-user", "nobody"),
            ("run-as-group", "nogroup"),
            ("use-occtl", "true"),
            ("use-utmp", "false"),
            ("isolate-workers", "true"),
            ("max-clients", "64"),
            ("max-same-clients", "0"),
            ("max-ban-score", "0"),
            ("auth-timeout", "30"),
            ("cookie-timeout", "60"),
            ("dpd", "60"),
            (
                "tls-priorities",
                "\"NORMAL:%SERVER_PRECEDENCE:-VERS-TLS1.0:-VERS-TLS1.1\"",
            ),
            ("device", "vpns"),
            ("ipv4-network", "10.30.0.0/24"),
            ("ipv6-network", "fd30::/64"),
            ("dns", "10.20.0.2"),
            ("route", "10.20.0.0/24"),
            ("route", "fd20::/64"),
        ] {
            config = config.add(key, value);
        }
        if bed.program().is_reference {
            return config;
        }
        config.add("xdp", "native")
    }

    /// Appends a line, for repeatable keys.
    pub fn add(mut self, key: &str, value: &str) -> Self {
        self.lines.push((key.to_owned(), value.to_owned()));
        self
    }

    /// Replaces all lines of a key by one.
    pub fn set(self, key: &str, value: &str) -> Self {
        self.without(key).add(key, value)
    }

    /// Removes all lines of a key.
    pub fn without(mut self, key: &str) -> Self {
        self.lines.retain(|(name, _)| name != key);
        self
    }

    /// Appends a section, e.g. `[vhost:name]`, with its lines.
    pub fn section(mut self, header: &str, lines: &[(&str, &str)]) -> Self {
        // Writing to a String does not fail.
        let _ = writeln!(self.sections, "[{header}]");
        for (key, value) in lines {
            let _ = writeln!(self.sections, "{key} = {value}");
        }
        self
    }

    /// The file's text.
    pub fn render(&self) -> String {
        let mut text = String::new();
        for (key, value) in &self.lines {
            let _ = writeln!(text, "{key} = {value}");
        }
        text + &self.sections
    }
}
