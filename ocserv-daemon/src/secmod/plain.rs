//! The `plain` method: a password file, read at each try (cli.md §6.2).

use std::path::{Path, PathBuf};

use ocserv_proto::passwd;
use ocserv_proto::secret::Secret;
use ocserv_sys::crypt;
use sha_crypt::password_hash::Error as HashError;
use sha_crypt::{PasswordVerifier, ShaCrypt};
use zeroize::Zeroizing;

use super::method::{AuthMethod, Dialogue, Prompt, Verdict};

/// Tries of one login (protocol.md §4.5).
const MAX_TRIES: u32 = 3;
/// Longest password, bytes: what crypt(3) takes. The cost of a hash grows with it.
const MAX_PASSWORD_LEN: usize = 511;
/// Longest password file, bytes.
const MAX_FILE_LEN: u64 = 64 * 1024 * 1024;
/// Stands in for the hash of a user who does not exist, where the file has no other to imitate.
const DUMMY_HASH: &str = "$5$eUyIGZGirw5Jlzaq$.UI.z4H9Jpt.KSZeAlb4PTqq7sx.qTyCvHwY9nxje.1";

const ASK: &str = "Please enter your password.";
const ASK_AGAIN: &str = "Login failed.\nPlease enter your password.";

/// A password file.
pub struct Plain {
    file: PathBuf,
}

impl Plain {
    /// Users of `file`.
    pub fn new(file: PathBuf) -> Self {
        Self { file }
    }
}

impl AuthMethod for Plain {
    fn begin(&self, username: &str) -> Box<dyn Dialogue> {
        Box::new(PlainLogin {
            file: self.file.clone(),
            username: username.to_owned(),
            wrong: 0,
        })
    }

    fn group_names(&self) -> Vec<String> {
        read(&self.file)
            .map(|bytes| passwd::group_names(&bytes))
            .unwrap_or_default()
    }
}

struct PlainLogin {
    file: PathBuf,
    username: String,
    wrong: u32,
}

impl Dialogue for PlainLogin {
    fn first(&mut self) -> Prompt {
        Prompt {
            message: ASK.to_owned(),
            counter: 0,
        }
    }

    fn answer(&mut self, answer: &Secret) -> Verdict {
        let file = read(&self.file).unwrap_or_default();
        if let Some(groups) = check(&file, &self.username, answer) {
            return Verdict::Passed { groups };
        }
        self.wrong += 1;
        if self.wrong >= MAX_TRIES {
            return Verdict::Failed;
        }
        Verdict::Ask {
            prompt: Prompt {
                message: ASK_AGAIN.to_owned(),
                counter: 0,
            },
            wrong: true,
        }
    }
}

/// The groups of the user, if the password is right. Takes as long for a user who does not exist.
fn check(file: &[u8], username: &str, password: &Secret) -> Option<Vec<String>> {
    let entry = passwd::find(file, username);
    let stored = entry
        .as_ref()
        .map(|entry| entry.hash)
        .filter(|hash| !hash.is_empty());
    let imitated = || {
        passwd::entries(file)
            .map(|entry| entry.hash)
            .find(|hash| !hash.is_empty())
    };
    let hash = stored.or_else(imitated).unwrap_or(DUMMY_HASH);
    let right = verify(password.expose(), hash);
    let entry = entry?;
    let usable = stored.is_some() && !entry.locked;
    (right && usable).then(|| {
        entry
            .groups
            .iter()
            .map(|group| (*group).to_owned())
            .collect()
    })
}

/// Whether `password` has this crypt(3) hash. Constant time in the comparison.
fn verify(password: &[u8], hash: &str) -> bool {
    if password.is_empty() || password.len() > MAX_PASSWORD_LEN || password.contains(&0) {
        return false;
    }
    if hash.starts_with("$5$") || hash.starts_with("$6$") {
        match ShaCrypt::SHA256.verify_password(password, hash) {
            Ok(()) => return true,
            Err(HashError::PasswordInvalid) => return false,
            // An odd salt or number of rounds: libcrypt may know it.
            Err(_) => {}
        }
    }
    match crypt::crypt(password, hash) {
        Ok(made) => Secret::new(made.as_bytes().to_vec()) == Secret::new(hash.as_bytes().to_vec()),
        Err(error) => {
            tracing::warn!("plain-auth: cannot check a password: {error}");
            false
        }
    }
}

fn read(path: &Path) -> Option<Zeroizing<Vec<u8>>> {
    let length = std::fs::metadata(path).map(|metadata| metadata.len());
    match length.and_then(|length| {
        if length > MAX_FILE_LEN {
            return Err(std::io::Error::other("the file is too long"));
        }
        std::fs::read(path)
    }) {
        Ok(bytes) => Some(Zeroizing::new(bytes)),
        Err(error) => {
            tracing::error!("plain-auth: cannot read '{}': {error}", path.display());
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `password` under `openssl passwd -5`, `-6` and `-1`.
    const FILE: &str = "\
five:g1,g2:$5$saltsaltsaltsalt$WsFBeg1qQ90JL3VkUTuM7xVV/5njhLngIVm6ftSnBR2
six:*:$6$saltsaltsaltsalt$bcXJ8qxwY5sQ4v8MTl.0B1jeZ0z0JlA9jjmbUoCJZ.1wYXiLTU.q2ILyrDJLm890lyfuF7sWAeli0yjOyFPkf0
one:*:$1$saltsalt$qjXMvbEw8oaL.CzflDtaK/
shut:g1:!$5$saltsaltsaltsalt$WsFBeg1qQ90JL3VkUTuM7xVV/5njhLngIVm6ftSnBR2
open:g1:
";

    fn try_login(username: &str, password: &str) -> Option<Vec<String>> {
        check(
            FILE.as_bytes(),
            username,
            &Secret::from(password.to_owned()),
        )
    }

    #[test]
    fn every_hash_of_the_file_is_checked() {
        assert_eq!(try_login("five", "password").unwrap(), ["g1", "g2"]);
        assert!(try_login("six", "password").unwrap().is_empty());
        assert!(try_login("one", "password").unwrap().is_empty());
        for user in ["five", "six", "one"] {
            assert_eq!(try_login(user, "Password"), None);
            assert_eq!(try_login(user, ""), None);
        }
    }

    #[test]
    fn hashes_with_rounds_are_checked() {
        // Made by `openssl passwd -5` and `-6`.
        let sha256 = "$5$rounds=10000$saltstring$BXKRfHOWGOryjAm0GVQk8VRJRERBkg4gV1V0f0ddop.";
        let sha512 = "$6$rounds=1400$anotherlongsalt$jjf9poG5TFCiZFUupSV7K/QnQ3sxpgHHRdZo25EkyC25PB1jHaS503E6Zv5U6cuB8nWcPIQa1ftVKKxLtS/Kb/";
        for hash in [sha256, sha512] {
            assert!(verify(b"password", hash));
            assert!(!verify(b"passwore", hash));
        }
    }

    #[test]
    fn locked_empty_and_unknown_users_fail_with_any_password() {
        for user in ["shut", "open", "nobody", "", "five:g1"] {
            for password in ["password", "", "!"] {
                assert_eq!(try_login(user, password), None, "{user} {password}");
            }
        }
        assert_eq!(
            check(b"", "five", &Secret::from("password".to_owned())),
            None
        );
    }

    #[test]
    fn passwords_that_crypt_would_cut_are_refused() {
        assert_eq!(try_login("five", "password\0x"), None);
        assert_eq!(try_login("five", &"p".repeat(MAX_PASSWORD_LEN + 1)), None);
    }

    #[test]
    fn three_tries_with_the_texts_of_the_reference() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("passwd");
        std::fs::write(&path, FILE).unwrap();
        let wrong = Secret::from("wrong".to_owned());
        for user in ["five", "nobody"] {
            let mut login = Plain::new(path.clone()).begin(user);
            assert_eq!(login.first().message, "Please enter your password.");
            for _ in 0..2 {
                let Verdict::Ask {
                    prompt,
                    wrong: true,
                } = login.answer(&wrong)
                else {
                    panic!("{user}")
                };
                assert_eq!(prompt.message, "Login failed.\nPlease enter your password.");
            }
            assert_eq!(login.answer(&wrong), Verdict::Failed);
        }
        let mut login = Plain::new(path).begin("five");
        login.answer(&wrong);
        let passed = login.answer(&Secret::from("password".to_owned()));
        assert_eq!(
            passed,
            Verdict::Passed {
                groups: vec!["g1".to_owned(), "g2".to_owned()]
            }
        );
    }

    #[test]
    fn the_file_is_read_at_each_try() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("passwd");
        let method = Plain::new(path.clone());
        let password = Secret::from("password".to_owned());
        assert!(matches!(
            method.begin("five").answer(&password),
            Verdict::Ask { wrong: true, .. }
        ));
        std::fs::write(&path, FILE).unwrap();
        assert!(matches!(
            method.begin("five").answer(&password),
            Verdict::Passed { .. }
        ));
        assert_eq!(method.group_names(), ["g1", "g2"]);
    }
}
