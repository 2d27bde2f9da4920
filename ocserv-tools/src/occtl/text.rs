//! Rows of the text outputs: tab, name, colon, value (cli.md §4).

use std::fmt::Write as _;

use super::format::printable;

/// Output that grows by rows; what is empty is not written.
#[derive(Debug, Default)]
pub struct Rows {
    out: String,
}

impl Rows {
    /// Nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// One value.
    pub fn row(&mut self, name: &str, value: &str) -> &mut Self {
        if !value.is_empty() {
            let _ = writeln!(self.out, "\t{name}: {}", printable(value));
        }
        self
    }

    /// A number.
    pub fn number(&mut self, name: &str, value: u64) -> &mut Self {
        self.row(name, &value.to_string())
    }

    /// Two values in a row, or the one that is there.
    pub fn pair(&mut self, first: (&str, &str), second: (&str, &str)) -> &mut Self {
        match (first.1.is_empty(), second.1.is_empty()) {
            (_, true) => self.row(first.0, first.1),
            (true, false) => self.row(second.0, second.1),
            (false, false) => {
                let (a, b) = (printable(first.1), printable(second.1));
                self.line(&format!("\t{}: {a}   {}: {b}", first.0, second.0))
            }
        }
    }

    /// Values below each other.
    pub fn list(&mut self, name: &str, values: &[String]) -> &mut Self {
        let Some((first, rest)) = values.split_first() else {
            return self;
        };
        self.row(name, first);
        for value in rest {
            self.line(&format!("\t\t{}", printable(value)));
        }
        self
    }

    /// A line as it is.
    pub fn line(&mut self, text: &str) -> &mut Self {
        self.out.push_str(text);
        self.out.push('\n');
        self
    }

    /// What was written.
    pub fn finish(&mut self) -> String {
        std::mem::take(&mut self.out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn empty_values_leave_no_trace() {
        let mut rows = Rows::new();
        rows.row("A", "")
            .pair(("B", "1"), ("C", ""))
            .pair(("B", ""), ("C", "2"));
        rows.pair(("B", "1"), ("C", "2")).pair(("B", ""), ("C", ""));
        rows.list("L", &[])
            .list("M", &["x".to_owned(), "y".to_owned()]);
        assert_eq!(
            rows.finish(),
            "\tB: 1\n\tC: 2\n\tB: 1   C: 2\n\tM: x\n\t\ty\n"
        );
    }

    #[test]
    fn control_characters_do_not_reach_the_terminal() {
        assert_eq!(
            Rows::new().row("A", "\x1b[2J\nB: x").finish(),
            "\tA: ?[2J?B: x\n"
        );
    }
}
