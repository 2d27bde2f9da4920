//! XML from clients, within bounds, and escaping for XML to clients.

use roxmltree::{Document, ParsingOptions};
use thiserror::Error;
use zeroize::Zeroizing;

/// Start tags in a client's document; real ones have about twenty. It also bounds the nesting.
const MAX_ELEMENTS: usize = 256;
/// Equals signs: a bound on attributes, which the parser compares with each other.
const MAX_ATTRIBUTES: usize = 1024;
/// Nodes of any kind.
const MAX_NODES: u32 = 1024;

/// Why a client's document is refused.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum XmlError {
    /// More elements (so maybe deeper nesting) or attributes than any client sends.
    #[error("XML document has too many elements or attributes")]
    TooComplex,
    /// Not UTF-8.
    #[error("XML document is not UTF-8")]
    Encoding,
    /// Not well-formed, or with a DTD.
    #[error("bad XML document: {0}")]
    Malformed(#[from] roxmltree::Error),
}

/// Begin of the XML declaration in a body, by which an XML body is told from a form.
pub fn find_declaration(body: &[u8]) -> Option<usize> {
    body.windows(5).position(|window| window == b"<?xml")
}

/// Readies a body for [`parse`]. `&nbsp;`, which XML does not know without a DTD, becomes a space.
pub fn prepare(body: &[u8]) -> Result<Zeroizing<String>, XmlError> {
    let text = std::str::from_utf8(body).map_err(|_| XmlError::Encoding)?;
    let count = |wanted: u8| body.iter().filter(|byte| **byte == wanted).count();
    let starts = body
        .windows(2)
        .filter(|pair| matches!(pair, [b'<', next] if !matches!(next, b'/' | b'!' | b'?')))
        .count();
    if starts > MAX_ELEMENTS || count(b'=') > MAX_ATTRIBUTES {
        return Err(XmlError::TooComplex);
    }
    Ok(Zeroizing::new(text.replace("&nbsp;", " ")))
}

/// Parses what [`prepare`] returned.
pub fn parse(text: &str) -> Result<Document<'_>, XmlError> {
    let options = ParsingOptions {
        allow_dtd: false,
        nodes_limit: MAX_NODES,
        ..ParsingOptions::default()
    };
    Ok(Document::parse_with_options(text, options)?)
}

/// Escapes text for element content and for attributes in double quotes. Control characters that
/// XML forbids become spaces.
pub fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\n' | '\t' => escaped.push(c),
            '\u{fffe}' | '\u{ffff}' => escaped.push(' '),
            c if c.is_control() => escaped.push(' '),
            c => escaped.push(c),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn check(text: &str) -> Result<(), XmlError> {
        let prepared = prepare(text.as_bytes())?;
        parse(&prepared).map(|_| ())
    }

    #[test]
    fn xml_with_dtd() {
        let bomb = "<?xml version=\"1.0\"?><!DOCTYPE a [<!ENTITY b \"bbb\">]><a>&b;</a>";
        assert_eq!(
            check(bomb),
            Err(XmlError::Malformed(roxmltree::Error::DtdDetected))
        );
        assert!(check("<!DOCTYPE a SYSTEM \"file:///etc/passwd\"><a/>").is_err());
    }

    #[test]
    fn xml_deep_nesting() {
        let nested = |depth: usize| "<a>".repeat(depth) + &"</a>".repeat(depth);
        assert_eq!(check(&nested(30_000)), Err(XmlError::TooComplex));
        assert_eq!(check(&nested(MAX_ELEMENTS)), Ok(()));
        let unclosed = "<a>".repeat(80_000);
        assert_eq!(check(&unclosed), Err(XmlError::TooComplex));
    }

    #[test]
    fn many_attributes() {
        let attributes: String = (0..MAX_ATTRIBUTES + 1)
            .map(|n| format!(" a{n}=''"))
            .collect();
        assert_eq!(
            check(&format!("<a{attributes}/>")),
            Err(XmlError::TooComplex)
        );
    }

    #[test]
    fn entities() {
        let prepared = prepare(b"<a>&lt;&gt;&quot;&amp;&apos;&nbsp;&#65;&#x42;</a>").unwrap();
        let document = parse(&prepared).unwrap();
        assert_eq!(document.root_element().text(), Some("<>\"&' AB"));
        assert!(check("<a>&unknown;</a>").is_err());
        assert!(check("<a>&#0;</a>").is_err());
    }

    #[test]
    fn escaped_text_comes_back() {
        assert_eq!(
            escape("a<b>&\"c\"\u{1}\nd"),
            "a&lt;b&gt;&amp;&quot;c&quot; \nd"
        );
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_do_not_panic(body in proptest::collection::vec(any::<u8>(), 0..512)) {
            find_declaration(&body);
            if let Ok(prepared) = prepare(&body) {
                let _ = parse(&prepared);
            }
        }

        #[test]
        fn markup_like_bytes_do_not_panic(body in "(<|>|/|!|\\?xml|a|b=|\"|&|;|#|x|\\[CDATA\\[|--| ){0,80}") {
            if let Ok(prepared) = prepare(body.as_bytes()) {
                let _ = parse(&prepared);
            }
        }

        #[test]
        fn any_text_survives_escaping(text in "[^\\p{C}]{0,64}") {
            let document = format!("<a b=\"{0}\">{0}</a>", escape(&text));
            let document = parse(&document).unwrap();
            prop_assert_eq!(document.root_element().text().unwrap_or_default(), &text);
            prop_assert_eq!(document.root_element().attribute("b"), Some(text.as_str()));
        }
    }
}
