// SPDX-License-Identifier: GPL-2.0-only
//! String functions for a static fuzzer.
//!
//! libFuzzer puts itself before the comparison functions of libc and finds the
//! originals with `dlsym(RTLD_NEXT)`. A static program has no next object, so
//! the fuzz targets define `dlsym` and give it these.

use std::ffi::{CStr, c_char, c_int, c_void};

/// The address of the function of that name, null for any other.
///
/// # Safety
/// `name` is a C string.
pub unsafe fn find(name: *const c_char) -> *mut c_void {
    // SAFETY: by the contract. The bytes are compared one by one, because slice
    // comparison ends in the very functions that are looked for.
    let name = unsafe { CStr::from_ptr(name) }.to_bytes();
    let is =
        |wanted: &[u8]| name.len() == wanted.len() && name.iter().zip(wanted).all(|(a, b)| a == b);
    let table: [(&[u8], *mut c_void); 9] = [
        (b"bcmp", memcmp as *mut c_void),
        (b"memcmp", memcmp as *mut c_void),
        (b"strcmp", strcmp as *mut c_void),
        (b"strncmp", strncmp as *mut c_void),
        (b"strcasecmp", strcasecmp as *mut c_void),
        (b"strncasecmp", strncasecmp as *mut c_void),
        (b"strstr", strstr as *mut c_void),
        (b"strcasestr", strcasestr as *mut c_void),
        (b"memmem", memmem as *mut c_void),
    ];
    table
        .iter()
        .find(|(wanted, _)| is(wanted))
        .map_or(std::ptr::null_mut(), |(_, function)| *function)
}

/// Difference of the first bytes that differ; at most `limit` are looked at,
/// and none behind a zero if `strings`.
fn compare(a: *const u8, b: *const u8, limit: usize, strings: bool, fold: bool) -> c_int {
    for i in 0..limit {
        // SAFETY: the callers are C functions whose contract this is: `limit`
        // bytes, or up to the zero, are readable.
        let (mut x, mut y) = unsafe { (a.add(i).read(), b.add(i).read()) };
        if fold {
            (x, y) = (x.to_ascii_lowercase(), y.to_ascii_lowercase());
        }
        if x != y {
            return c_int::from(x) - c_int::from(y);
        }
        if strings && x == 0 {
            return 0;
        }
    }
    0
}

fn length(s: *const u8) -> usize {
    // SAFETY: as in `compare`, for a string.
    (0..)
        .find(|i| unsafe { s.add(*i).read() } == 0)
        .unwrap_or(0)
}

fn search(hay: *const u8, hay_len: usize, needle: *const u8, len: usize, fold: bool) -> *const u8 {
    let starts = (hay_len + 1).saturating_sub(len);
    let found = (0..starts).find(|i| compare(hay.wrapping_add(*i), needle, len, false, fold) == 0);
    found.map_or(std::ptr::null(), |i| hay.wrapping_add(i))
}

extern "C" fn memcmp(a: *const u8, b: *const u8, count: usize) -> c_int {
    compare(a, b, count, false, false)
}

extern "C" fn strcmp(a: *const u8, b: *const u8) -> c_int {
    compare(a, b, usize::MAX, true, false)
}

extern "C" fn strncmp(a: *const u8, b: *const u8, count: usize) -> c_int {
    compare(a, b, count, true, false)
}

extern "C" fn strcasecmp(a: *const u8, b: *const u8) -> c_int {
    compare(a, b, usize::MAX, true, true)
}

extern "C" fn strncasecmp(a: *const u8, b: *const u8, count: usize) -> c_int {
    compare(a, b, count, true, true)
}

extern "C" fn strstr(hay: *const u8, needle: *const u8) -> *const u8 {
    search(hay, length(hay), needle, length(needle), false)
}

extern "C" fn strcasestr(hay: *const u8, needle: *const u8) -> *const u8 {
    search(hay, length(hay), needle, length(needle), true)
}

extern "C" fn memmem(hay: *const u8, hay_len: usize, needle: *const u8, len: usize) -> *const u8 {
    search(hay, hay_len, needle, len, false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comparisons_agree_with_the_c_standard() {
        let (a, b) = (c"Maple".as_ptr().cast(), c"mapLF".as_ptr().cast());
        assert!(strcmp(a, b) < 0 && strcasecmp(a, b) < 0);
        assert_eq!(strncasecmp(a, b, 4), 0);
        assert_eq!(strncmp(a, a, 99), 0);
        assert_eq!(memcmp(a, b, 0), 0);
        assert_eq!(strstr(a, c"pl".as_ptr().cast()), a.wrapping_add(2));
        assert!(strstr(a, c"PL".as_ptr().cast()).is_null());
        assert_eq!(strcasestr(a, c"PL".as_ptr().cast()), a.wrapping_add(2));
        assert!(memmem(a, 2, b, 3).is_null());
    }

    #[test]
    fn all_that_libfuzzer_looks_for_is_found() {
        // SAFETY: C strings.
        unsafe {
            for name in [
                c"bcmp",
                c"memcmp",
                c"strcmp",
                c"strncmp",
                c"strcasecmp",
                c"strncasecmp",
                c"strstr",
                c"strcasestr",
                c"memmem",
            ] {
                assert!(!find(name.as_ptr()).is_null());
            }
            assert!(find(c"open".as_ptr()).is_null());
        }
    }
}
