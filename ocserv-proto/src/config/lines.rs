//! Line syntax: sections, settings, comments and continuations (config.md §1).

/// Longest line, bytes; the rest is dropped (config.md 1.5).
pub(super) const MAX_LINE: usize = 2047;

/// What a line says.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Line<'a> {
    /// `[name]`.
    Section(&'a [u8]),
    /// `key = value`, or a continuation of the key above. White space around both is stripped.
    Setting { key: &'a [u8], value: &'a [u8] },
    /// Neither of them, and not blank or a comment.
    Malformed,
}

/// Iterator over the lines that say something, with their numbers from 1.
pub(super) struct Lines<'a> {
    rest: &'a [u8],
    number: usize,
    /// The key that an indented line continues; `None` at the start of a section.
    previous: Option<&'a [u8]>,
    /// Lines of which a part was dropped.
    pub(super) too_long: Vec<usize>,
}

impl<'a> Lines<'a> {
    pub(super) fn new(text: &'a [u8]) -> Self {
        let rest = text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text);
        Self {
            rest,
            number: 0,
            previous: None,
            too_long: Vec::new(),
        }
    }

    fn next_raw(&mut self) -> Option<&'a [u8]> {
        if self.rest.is_empty() {
            return None;
        }
        self.number += 1;
        let (line, rest) = match self.rest.iter().position(|&b| b == b'\n') {
            Some(end) => (&self.rest[..end], &self.rest[end + 1..]),
            None => (self.rest, &[][..]),
        };
        self.rest = rest;
        if line.len() > MAX_LINE {
            self.too_long.push(self.number);
        }
        Some(&line[..line.len().min(MAX_LINE)])
    }

    fn classify(&mut self, line: &'a [u8]) -> Option<Line<'a>> {
        let indented = line.first().is_some_and(|&b| is_space(b));
        let line = trim(line);
        if matches!(line.first(), None | Some(b'#' | b';')) {
            return None;
        }
        if let (true, Some(key)) = (indented, self.previous) {
            return Some(Line::Setting {
                key,
                value: trim(without_comment(line)),
            });
        }
        if let Some(section) = line.strip_prefix(b"[") {
            let end = section.iter().position(|&b| b == b']');
            return Some(match end {
                Some(end) => {
                    self.previous = None;
                    Line::Section(&section[..end])
                }
                None => Line::Malformed,
            });
        }
        // A comment that begins before the first '=' or ':' leaves a line without either.
        let separator = without_comment(line)
            .iter()
            .position(|&b| b == b'=' || b == b':');
        let Some(separator) = separator else {
            return Some(Line::Malformed);
        };
        let key = trim(&line[..separator]);
        self.previous = Some(key);
        Some(Line::Setting {
            key,
            value: trim(without_comment(&line[separator + 1..])),
        })
    }
}

impl<'a> Iterator for Lines<'a> {
    type Item = (usize, Line<'a>);

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let raw = self.next_raw()?;
            if let Some(line) = self.classify(raw) {
                return Some((self.number, line));
            }
        }
    }
}

/// White space of C's `isspace`.
fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t'..=b'\r')
}

fn trim(mut bytes: &[u8]) -> &[u8] {
    while let [first, rest @ ..] = bytes
        && is_space(*first)
    {
        bytes = rest;
    }
    while let [rest @ .., last] = bytes
        && is_space(*last)
    {
        bytes = rest;
    }
    bytes
}

/// Cuts an inline comment: `#` after white space, quotes notwithstanding (config.md 1.3).
fn without_comment(bytes: &[u8]) -> &[u8] {
    let start = bytes
        .windows(2)
        .position(|pair| is_space(pair[0]) && pair[1] == b'#');
    start.map_or(bytes, |start| &bytes[..start])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Vec<(usize, String)> {
        let show = |b: &[u8]| String::from_utf8_lossy(b).into_owned();
        Lines::new(text.as_bytes())
            .map(|(number, line)| {
                let text = match line {
                    Line::Section(name) => format!("[{}]", show(name)),
                    Line::Setting { key, value } => format!("{}={}", show(key), show(value)),
                    Line::Malformed => "malformed".to_owned(),
                };
                (number, text)
            })
            .collect()
    }

    fn one(text: &str) -> String {
        let lines = read(text);
        assert_eq!(lines.len(), 1, "{text:?}: {lines:?}");
        lines[0].1.clone()
    }

    #[test]
    fn first_of_equals_and_colon_separates() {
        // config.md 1.2
        assert_eq!(one("a = b:c"), "a=b:c");
        assert_eq!(one("a : b=c"), "a=b=c");
        assert_eq!(one("a ="), "a=");
        assert_eq!(one("neither"), "malformed");
        assert_eq!(one("[open"), "malformed");
        assert_eq!(one("[vhost:x] rest"), "[vhost:x]");
    }

    #[test]
    fn comments() {
        // config.md 1.3
        assert_eq!(read("# a = b\n ; a = b\n\n   \n"), []);
        assert_eq!(one("route = 10.0.0.0/8 # lan"), "route=10.0.0.0/8");
        assert_eq!(one("k = pkcs11:a;type=private"), "k=pkcs11:a;type=private");
        assert_eq!(one("k = a#b"), "k=a#b");
        assert_eq!(one("k = \"a #b\""), "k=\"a");
        assert_eq!(one("k =#b"), "k=#b");
        assert_eq!(one("k = #b"), "k=");
        assert_eq!(one("k #= b"), "malformed");
    }

    #[test]
    fn indented_lines_continue_the_key_above() {
        // config.md 1.4
        let text = "max-clients = 16\n  keepalive = 55\n[vhost:x]\n route = a\n\tb\n # no\n\n c";
        let expected = [
            (1, "max-clients=16"),
            (2, "max-clients=keepalive = 55"),
            (3, "[vhost:x]"),
            (4, "route=a"),
            (5, "route=b"),
            (8, "route=c"),
        ];
        let expected: Vec<_> = expected
            .iter()
            .map(|(n, s)| (*n, (*s).to_owned()))
            .collect();
        assert_eq!(read(text), expected);
    }

    #[test]
    fn mark_line_ends_and_length() {
        // config.md 1.5
        assert_eq!(one("\u{feff}a = b\r\n"), "a=b");
        let long = format!("a = {}\nb = c", "x".repeat(5000));
        let mut lines = Lines::new(long.as_bytes());
        let Some((1, Line::Setting { value, .. })) = lines.next() else {
            panic!()
        };
        assert_eq!(value.len(), MAX_LINE - 4);
        assert_eq!(
            lines.next(),
            Some((
                2,
                Line::Setting {
                    key: b"b",
                    value: b"c"
                }
            ))
        );
        assert_eq!(lines.too_long, [1]);
    }
}
