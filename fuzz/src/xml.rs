//! XML from clients, and text in XML to clients.

use ocserv_proto::xml;

use crate::input::text;

/// A document within its bounds; and any text survives escaping, in content and in attributes.
pub fn xml(data: &[u8]) {
    if let Some(start) = xml::find_declaration(data) {
        assert!(data[start..].starts_with(b"<?xml"));
        assert!(!data[..start].windows(5).any(|window| window == b"<?xml"));
    }
    check_document(data);
    check_escape(&text(data));
}

fn check_document(data: &[u8]) {
    let Ok(prepared) = xml::prepare(data) else {
        return;
    };
    assert!(prepared.len() <= data.len());
    let Ok(document) = xml::parse(&prepared) else {
        return;
    };
    let mut depth = 0;
    for node in document.descendants() {
        depth = depth.max(node.ancestors().count());
    }
    assert!(depth <= 260, "{depth} levels");
    assert!(document.descendants().count() <= 1024);
    let text: usize = document
        .descendants()
        .filter_map(|node| node.text())
        .map(str::len)
        .sum();
    // An element's text is counted again with its text node.
    assert!(text <= 2 * prepared.len(), "nothing expands");
}

fn check_escape(text: &str) {
    let escaped = xml::escape(text);
    let body = format!("<a b=\"{escaped}\">{escaped}</a>");
    let document = xml::parse(&body).expect("escaped text is well-formed");
    let root = document.root_element();
    assert_eq!(root.children().filter(|node| node.is_element()).count(), 0);
    let plain: String = text.chars().map(plain).collect();
    assert_eq!(root.text().unwrap_or_default(), plain);
    let on_one_line = plain.replace(['\n', '\t'], " ");
    assert_eq!(root.attribute("b"), Some(on_one_line.as_str()));
}

/// What is left of a character.
fn plain(c: char) -> char {
    match c {
        '\n' | '\t' => c,
        '\u{fffe}' | '\u{ffff}' => ' ',
        c if c.is_control() => ' ',
        c => c,
    }
}
