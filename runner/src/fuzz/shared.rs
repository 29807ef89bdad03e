// SPDX-License-Identifier: GPL-2.0-only
//! The page that a fuzzer shares with the host: the program that is about to
//! run, so that it is known even when the kernel takes the machine with it.

use std::io;
use std::path::Path;

/// First bytes of a page that a fuzzer has written to.
const MAGIC: &[u8; 4] = b"HPF1";
/// Bytes before the text.
const HEADER: usize = 16;

/// The program that was last about to run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LastProgram {
    /// Grows with each program.
    pub number: u64,
    /// Its text.
    pub text: String,
}

/// Reads the shared memory's file; `None` when no program was written, or one
/// was being written when the machine died.
pub fn read(path: &Path) -> io::Result<Option<LastProgram>> {
    Ok(parse(&fs_err::read(path)?))
}

fn parse(page: &[u8]) -> Option<LastProgram> {
    let header = page.get(..HEADER)?;
    if &header[..4] != MAGIC {
        return None;
    }
    let length = u32::from_le_bytes(header[4..8].try_into().ok()?);
    let number = u64::from_le_bytes(header[8..16].try_into().ok()?);
    let end = HEADER.checked_add(usize::try_from(length).ok()?)?;
    let text = page.get(HEADER..end)?;
    (!text.is_empty()).then(|| LastProgram {
        number,
        text: String::from_utf8_lossy(text).into_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(length: u32, text: &str) -> Vec<u8> {
        let mut page = MAGIC.to_vec();
        page.extend(length.to_le_bytes());
        page.extend(9_u64.to_le_bytes());
        page.extend(text.as_bytes());
        page.resize(4096, 0);
        page
    }

    #[test]
    fn program_is_read_up_to_its_length() {
        let last = parse(&page(9, "p0 verifyjunk")).unwrap();
        assert_eq!((last.number, last.text.as_str()), (9, "p0 verify"));
    }

    #[test]
    fn unwritten_half_written_and_damaged_pages_hold_no_program() {
        assert_eq!(parse(&[0; 4096]), None);
        assert_eq!(parse(&page(0, "p0 verify")), None);
        assert_eq!(parse(&page(u32::MAX, "p0 verify")), None);
        assert_eq!(parse(b"HPF1"), None);
    }
}
