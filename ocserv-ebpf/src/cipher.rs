//! The steps of the AEAD as global functions: the verifier walks each once a program, and each has its
//! own part of the stack.

use ocserv_common::aead::{self, Sheet};

/// Seals what is on the sheet.
#[inline(always)]
pub fn seal(sheet: &mut Sheet) -> bool {
    let crypted = aead_key(sheet) != 0 && aead_crypt(sheet) != 0;
    sheet.clear_behind();
    let sealed = crypted && aead_authenticate(sheet) != 0;
    sheet.forget_keys();
    sealed
}

/// Opens what is on the sheet, which has this tag. `false`: it does not fit.
#[inline(always)]
pub fn open(sheet: &mut Sheet, tag: &[u64; 2]) -> bool {
    let opened = aead_key(sheet) != 0
        && aead_authenticate(sheet) != 0
        && aead::equal(&sheet.tag, tag)
        && aead_crypt(sheet) != 0;
    sheet.forget_keys();
    opened
}

/// What a pointer of a global function stands for: the verifier assumes that it may be null.
#[inline(always)]
fn sheet<'a>(sheet: *mut Sheet) -> Option<&'a mut Sheet> {
    // SAFETY: null, or the caller's sheet: the verifier checks each call.
    unsafe { sheet.as_mut() }
}

#[inline(never)]
#[unsafe(no_mangle)]
extern "C" fn aead_key(pointer: *mut Sheet) -> u32 {
    let Some(sheet) = sheet(pointer) else {
        return 0;
    };
    aead::one_time_key(sheet);
    1
}

#[inline(never)]
#[unsafe(no_mangle)]
extern "C" fn aead_crypt(pointer: *mut Sheet) -> u32 {
    sheet(pointer).is_some_and(aead::crypt).into()
}

#[inline(never)]
#[unsafe(no_mangle)]
extern "C" fn aead_authenticate(pointer: *mut Sheet) -> u32 {
    sheet(pointer).is_some_and(aead::authenticate).into()
}
