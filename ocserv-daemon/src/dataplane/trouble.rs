//! Ends that do not take what is sent: told when it begins and when it is over, not for each packet.

use std::io;

/// So many looks without a failure in between are needed before the next one is told: an end that is
/// full again and again is one trouble.
const QUIET_LOOKS: u32 = 10;

/// What an end did with what it was given.
#[derive(Debug, Default)]
pub struct Trouble {
    /// Not taken since the last look.
    failed: u64,
    /// Taken since the last look.
    sent: u64,
    error: Option<i32>,
    /// Looks without a failure since the last one; `None`: there is nothing to get over.
    quiet: Option<u32>,
}

/// Something worth a line in the log.
#[derive(Debug, PartialEq, Eq)]
pub enum News {
    /// So many were not taken since the last look, and why the last one was not.
    Began(u64, String),
    /// All is taken again.
    Over,
}

impl Trouble {
    /// So many were taken and not taken.
    pub fn note(&mut self, sent: usize, failed: usize, error: Option<i32>) {
        self.sent += sent as u64;
        self.failed += failed as u64;
        self.error = error.or(self.error);
    }

    /// Looks at what was noted; to be called each second or so.
    pub fn look(&mut self) -> Option<News> {
        let (failed, sent) = (self.failed, self.sent);
        (self.failed, self.sent) = (0, 0);
        if failed > 0 {
            let is_new = self.quiet.replace(0).is_none();
            return is_new.then(|| News::Began(failed, self.reason()));
        }
        if sent == 0 {
            return None;
        }
        let quiet = self.quiet? + 1;
        self.quiet = (quiet < QUIET_LOOKS).then_some(quiet);
        self.quiet.is_none().then_some(News::Over)
    }

    fn reason(&self) -> String {
        self.error.map_or_else(String::new, |code| {
            io::Error::from_raw_os_error(code).to_string()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EIO: i32 = nix::errno::Errno::EIO as i32;

    /// News of looks, each after so many were taken and not taken.
    fn looks(trouble: &mut Trouble, rounds: &[(usize, usize)]) -> Vec<&'static str> {
        let look = |(sent, failed): &(usize, usize)| {
            trouble.note(*sent, *failed, (*failed > 0).then_some(EIO));
            match trouble.look() {
                Some(News::Began(..)) => "began",
                Some(News::Over) => "over",
                None => "",
            }
        };
        rounds.iter().map(look).collect()
    }

    #[test]
    fn a_trouble_is_told_once() {
        let mut trouble = Trouble::default();
        trouble.note(0, 7, Some(EIO));
        let began = trouble.look();
        let Some(News::Began(7, reason)) = began else {
            panic!("{began:?}");
        };
        assert!(reason.contains("Input/output error"), "{reason}");
        assert_eq!(looks(&mut trouble, &[(0, 9), (5, 1), (0, 0)]), ["", "", ""]);
    }

    #[test]
    fn it_is_over_when_all_was_taken_for_a_while() {
        let mut trouble = Trouble::default();
        assert_eq!(looks(&mut trouble, &[(1, 1)]), ["began"]);
        assert_eq!(looks(&mut trouble, &[(1, 0); 9]), [""; 9]);
        // One of many that are full again.
        assert_eq!(looks(&mut trouble, &[(1, 1)]), [""]);
        assert_eq!(looks(&mut trouble, &[(1, 0); 9]), [""; 9]);
        // Silence says nothing.
        assert_eq!(looks(&mut trouble, &[(0, 0); 20]), [""; 20]);
        assert_eq!(looks(&mut trouble, &[(1, 0), (1, 1)]), ["over", "began"]);
    }

    #[test]
    fn where_nothing_fails_nothing_is_told() {
        let mut trouble = Trouble::default();
        assert_eq!(looks(&mut trouble, &[(9, 0), (0, 0), (9, 0)]), ["", "", ""]);
    }
}
