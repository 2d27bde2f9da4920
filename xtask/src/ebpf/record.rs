//! The text beside the committed object: what made it.

use std::fmt;

/// What an object was made with.
#[derive(Debug, PartialEq, Eq)]
pub struct Record {
    /// Compiler and linker, each with its LLVM.
    pub versions: [String; 2],
    /// Of the object, in hexadecimal.
    pub sha256: String,
    /// Of the compiler, with what differs from machine to machine as `<words>`.
    pub flags: String,
}

impl Record {
    /// Reads what [`Record::fmt`] wrote.
    pub fn parse(text: &str) -> Option<Self> {
        let mut lines = text.lines();
        let mut value = |key: &str| {
            let (found, value) = lines.next()?.split_once(": ")?;
            (found == key).then(|| value.to_owned())
        };
        Some(Self {
            versions: [value("compiler")?, value("linker")?],
            sha256: value("sha256")?,
            flags: value("rustflags")?,
        })
    }
}

impl fmt::Display for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [compiler, linker] = &self.versions;
        writeln!(f, "compiler: {compiler}")?;
        writeln!(f, "linker: {linker}")?;
        writeln!(f, "sha256: {}", self.sha256)?;
        writeln!(f, "rustflags: {}", self.flags)
    }
}

#[cfg(test)]
mod tests {
    use super::Record;

    const TEXT: &str = "compiler: rustc 1.96.0 (ac68faa20 2026-05-25), LLVM 22.1.8\n\
        linker: bpf-linker 0.13.0, LLVM 22.1.8\nsha256: 00ff\nrustflags: -Ctarget-cpu=v3 --cfg=a=\"b: c\"\n";

    #[test]
    fn a_record_is_read_as_it_was_written() {
        let record = Record::parse(TEXT).expect("a record");
        assert_eq!(record.versions[1], "bpf-linker 0.13.0, LLVM 22.1.8");
        assert_eq!(record.sha256, "00ff");
        assert_eq!(record.flags, "-Ctarget-cpu=v3 --cfg=a=\"b: c\"");
        assert_eq!(record.to_string(), TEXT);
    }

    #[test]
    fn another_text_is_no_record() {
        for text in ["", "compiler: a\n", &TEXT.replace("sha256", "sha1")] {
            assert_eq!(Record::parse(text), None, "{text:?}");
        }
    }
}
