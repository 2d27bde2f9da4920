//! crypt(3) for hashes that no Rust crate of ours knows (`$1$`, `$2b$`, `$y$`, DES).
//!
//! The library is opened at run time, so that building needs no development package and a machine
//! without it only loses these hashes. Secmod alone calls this.

use std::ffi::{CStr, CString, c_char, c_void};
use std::io;
use std::sync::OnceLock;

use zeroize::{Zeroize, Zeroizing};

/// Why a hash could not be made.
#[derive(Debug, thiserror::Error)]
pub enum CryptError {
    /// `libcrypt.so.1` or `libcrypt.so.2` is not on this machine.
    #[error("libcrypt is not installed: only $5$ and $6$ hashes can be checked")]
    NoLibrary,
    /// A NUL in password or setting.
    #[error("a password or hash holds a NUL byte")]
    Nul,
    /// The library does not know the setting, or refuses it.
    #[error("the hash form is not known to libcrypt")]
    Setting,
    /// No memory.
    #[error("crypt_r: {0}")]
    Io(#[from] io::Error),
}

type CryptR = unsafe extern "C" fn(*const c_char, *const c_char, *mut c_void) -> *mut c_char;

/// Enough for every `struct crypt_data`: libxcrypt's has 32768 bytes, glibc's 131232.
const DATA_WORDS: usize = 256 * 1024 / size_of::<u64>();
/// Longest hash text that the library writes (`CRYPT_OUTPUT_SIZE`).
const MAX_HASH: usize = 384;

/// Hashes `password` the way `setting` (a whole stored hash will do) says. To check a password
/// compare the result with the stored hash in constant time.
///
/// # Errors
/// [`CryptError`]; an unknown setting never yields a hash.
pub fn crypt(password: &[u8], setting: &str) -> Result<Zeroizing<String>, CryptError> {
    let crypt_r = function().ok_or(CryptError::NoLibrary)?;
    let password = CString::new(password).map_err(|_| CryptError::Nul)?;
    let setting = CString::new(setting).map_err(|_| CryptError::Nul)?;
    let mut data = Zeroizing::new(vec![0u64; DATA_WORDS]);
    // SAFETY: both strings end with NUL and live through the call; the work area is zeroed, aligned
    // and larger than any crypt_data; crypt_r keeps no pointer afterwards.
    let hash = unsafe {
        crypt_r(
            password.as_ptr(),
            setting.as_ptr(),
            data.as_mut_ptr().cast::<c_void>(),
        )
    };
    password.into_bytes().zeroize();
    if hash.is_null() {
        return Err(CryptError::Setting);
    }
    // SAFETY: not null, so it is a NUL-terminated string inside `data` or a constant.
    let hash = unsafe { CStr::from_ptr(hash) }.to_bytes();
    // A failure token begins with '*'.
    if hash.starts_with(b"*") || hash.len() > MAX_HASH {
        return Err(CryptError::Setting);
    }
    let text = std::str::from_utf8(hash).map_err(|_| CryptError::Setting)?;
    Ok(Zeroizing::new(text.to_owned()))
}

/// Whether the library is there.
pub fn available() -> bool {
    function().is_some()
}

fn function() -> Option<CryptR> {
    static FUNCTION: OnceLock<Option<CryptR>> = OnceLock::new();
    *FUNCTION.get_or_init(|| load(c"libcrypt.so.1").or_else(|| load(c"libcrypt.so.2")))
}

fn load(library: &CStr) -> Option<CryptR> {
    // SAFETY: the name is NUL-terminated; the constructors of libcrypt do nothing of note. The
    // handle is never closed, so that the function stays.
    let handle = unsafe { libc::dlopen(library.as_ptr(), libc::RTLD_NOW | libc::RTLD_LOCAL) };
    if handle.is_null() {
        return None;
    }
    // SAFETY: the handle is valid, the name NUL-terminated.
    let symbol = unsafe { libc::dlsym(handle, c"crypt_r".as_ptr()) };
    if symbol.is_null() {
        return None;
    }
    // SAFETY: crypt_r of both library versions has this signature (crypt(3)).
    Some(unsafe { std::mem::transmute::<*mut c_void, CryptR>(symbol) })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Made by `openssl passwd -1`.
    const MD5: &str = "$1$abcdefgh$G//4keteveJp0qb8z2DxG/";
    /// From the bcrypt test vectors: the password is `U*U`.
    const BCRYPT: &str = "$2a$05$CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW";
    /// Made by libxcrypt 4.4.33.
    const YESCRYPT: &str = "$y$j75$abcdefghijk.$Z//it0bU5RPfPO42gHrM64PCSJhTMQ.h8JvxR9lPSH6";

    #[test]
    fn stored_hashes_are_checked() {
        for (password, stored) in [("password", MD5), ("U*U", BCRYPT), ("secret", YESCRYPT)] {
            assert_eq!(crypt(password.as_bytes(), stored).unwrap().as_str(), stored);
            assert_ne!(crypt(b"another", stored).unwrap().as_str(), stored);
        }
    }

    #[test]
    fn unknown_forms_and_nul_give_no_hash() {
        assert!(matches!(crypt(b"x", "$zz$foo"), Err(CryptError::Setting)));
        assert!(matches!(crypt(b"x", "*"), Err(CryptError::Setting)));
        assert!(matches!(crypt(b"a\0b", MD5), Err(CryptError::Nul)));
    }
}
