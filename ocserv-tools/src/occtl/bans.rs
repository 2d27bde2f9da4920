//! `show ip bans` and `show ip ban points` (cli.md §4.6).

use std::fmt::Write as _;

use ocserv_proto::control::BanInfo;

use super::format::Clock;
use super::json::{self, Object};

/// Banned addresses and when their bans end; nothing without any.
pub fn ban_table(bans: &[BanInfo], clock: &Clock) -> String {
    let mut out = String::new();
    if !bans.is_empty() {
        let _ = writeln!(out, "{:>14} {:>14} {:>30}", "IP", "score", "expires");
    }
    for ban in bans {
        let (ip, expires) = (ban.ip.to_string(), ban.expires.unwrap_or(clock.now));
        let (date, since) = (clock.date(expires), clock.since(expires));
        let _ = writeln!(out, "{ip:>14} {:>14} {date:>30} ({since})", ban.score);
    }
    out
}

/// Addresses with points; nothing without any.
pub fn point_table(bans: &[BanInfo]) -> String {
    let mut out = String::new();
    if !bans.is_empty() {
        let _ = writeln!(out, "{:>14} {:>14}", "IP", "score");
    }
    for ban in bans {
        let _ = writeln!(out, "{:>14} {:>14}", ban.ip.to_string(), ban.score);
    }
    out
}

/// Bans as JSON; `Since` is the end of the ban, as in the reference.
pub fn ban_json(bans: &[BanInfo], clock: &Clock) -> String {
    let objects: Vec<Object> = bans
        .iter()
        .map(|ban| {
            let expires = ban.expires.unwrap_or(clock.now);
            let mut object = Object::new();
            object.text("IP", &ban.ip.to_string());
            object
                .text("Since", &clock.date(expires))
                .text("_Since", &clock.since(expires));
            object.number("Score", ban.score.into());
            object
        })
        .collect();
    json::array(&objects)
}

/// Points as JSON.
pub fn point_json(bans: &[BanInfo]) -> String {
    let objects: Vec<Object> = bans
        .iter()
        .map(|ban| {
            let mut object = Object::new();
            object
                .text("IP", &ban.ip.to_string())
                .number("Score", ban.score.into());
            object
        })
        .collect();
    json::array(&objects)
}

#[cfg(test)]
mod tests {
    use super::super::format::tests::clock;
    use super::*;

    fn ban() -> BanInfo {
        let expires = Some(clock().now + 10);
        BanInfo {
            ip: "198.51.100.1".parse().unwrap(),
            score: 130,
            expires,
        }
    }

    #[test]
    fn tables_are_those_of_the_reference() {
        // Output of the reference, version 1.1.6.
        let expected = concat!(
            "            IP          score                        expires\n",
            "  198.51.100.1            130               2026-11-23 16:29 (   ?   )\n",
        );
        assert_eq!(ban_table(&[ban()], &clock()), expected);
        let expected = concat!(
            "            IP          score\n",
            "  198.51.100.1            130\n",
        );
        assert_eq!(point_table(&[ban()]), expected);
        assert_eq!(ban_table(&[], &clock()) + &point_table(&[]), "");
    }

    #[test]
    fn json_is_that_of_the_reference() {
        // Output of the reference, version 1.1.6.
        let expected = concat!(
            "[\n",
            "  {\n",
            "    \"IP\":  \"198.51.100.1\",\n",
            "    \"Since\":  \"2026-11-23 16:29\",\n",
            "    \"_Since\":  \"   ?   \",\n",
            "    \"Score\":  130\n",
            "  }\n",
            "]\n",
        );
        assert_eq!(ban_json(&[ban()], &clock()), expected);
        let expected = "[\n  {\n    \"IP\":  \"198.51.100.1\",\n    \"Score\":  130\n  }\n]\n";
        assert_eq!(point_json(&[ban()]), expected);
        assert_eq!(ban_json(&[], &clock()), "[\n]\n");
    }
}
