//! JSON in the reference's layout (cli.md §4): two blanks after the colon, a tab before lists.

use std::fmt::Write as _;

/// Members of an object, in order.
#[derive(Debug, Default)]
pub struct Object {
    members: Vec<String>,
}

impl Object {
    /// Without members.
    pub fn new() -> Self {
        Self::default()
    }

    /// A text; an empty one is left out.
    pub fn text(&mut self, key: &str, value: &str) -> &mut Self {
        if !value.is_empty() {
            self.members
                .push(format!("    {}:  {}", quoted(key), quoted(value)));
        }
        self
    }

    /// A number without quotes.
    pub fn number(&mut self, key: &str, value: u64) -> &mut Self {
        self.members.push(format!("    {}:  {value}", quoted(key)));
        self
    }

    /// A list of texts; an empty one is written.
    pub fn list(&mut self, key: &str, values: &[String]) -> &mut Self {
        let values: Vec<String> = values.iter().map(|value| quoted(value)).collect();
        self.members
            .push(format!("    {}:\t[{}]", quoted(key), values.join(", ")));
        self
    }

    /// A list of objects, in one line; an empty one is written.
    pub fn objects(&mut self, key: &str, values: &[Object]) -> &mut Self {
        let values: Vec<String> = values.iter().map(Self::inline).collect();
        self.members
            .push(format!("    {}:\t[{}]", quoted(key), values.join(", ")));
        self
    }

    /// An object, in one line; an empty one is written.
    pub fn object(&mut self, key: &str, value: &Object) -> &mut Self {
        self.members
            .push(format!("    {}:\t{}", quoted(key), value.inline()));
        self
    }

    fn inline(&self) -> String {
        let members: Vec<&str> = self.members.iter().map(|member| member.trim()).collect();
        format!("{{{}}}", members.join(", "))
    }

    /// The object, with a line break at its end.
    pub fn finish(&self) -> String {
        format!("  {{\n{}\n  }}\n", self.members.join(",\n"))
    }
}

/// An array of objects.
pub fn array(objects: &[Object]) -> String {
    let objects: Vec<String> = objects
        .iter()
        .map(|object| object.finish().trim_end().to_owned())
        .collect();
    match objects.is_empty() {
        true => "[\n]\n".to_owned(),
        false => format!("[\n  {}\n]\n", objects.join(",\n\n").trim_start()),
    }
}

fn quoted(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            c if c.is_control() => {
                let _ = write!(out, "\\u{:04x}", u32::from(c));
            }
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arrays_have_the_measured_layout() {
        assert_eq!(array(&[]), "[\n]\n");
        let mut first = Object::new();
        first
            .number("ID", 7)
            .text("Username", "test")
            .text("Groupname", "");
        let mut second = Object::new();
        second
            .list("DNS", &["a".to_owned(), "b".to_owned()])
            .list("NBNS", &[]);
        let expected = concat!(
            "[\n  {\n    \"ID\":  7,\n    \"Username\":  \"test\"\n  },\n\n",
            "  {\n    \"DNS\":\t[\"a\", \"b\"],\n    \"NBNS\":\t[]\n  }\n]\n"
        );
        assert_eq!(array(&[first, second]), expected);
    }

    #[test]
    fn hostile_texts_stay_one_string() {
        let text = "a\"\\\n\u{1b}\u{9b}é";
        assert_eq!(quoted(text), "\"a\\\"\\\\\\u000a\\u001b\\u009bé\"");
        assert_eq!(serde_json::from_str::<String>(&quoted(text)).unwrap(), text);
    }
}
