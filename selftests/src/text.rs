// SPDX-License-Identifier: GPL-2.0-only
//! Text files of the kernel, which `fs::read_to_string` reads in twice as many calls: it asks for
//! the size, which is always 0, and begins with few bytes.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::Path;

/// More than most of these files have; a larger one is read in several pieces.
const CHUNK: usize = 8 << 10;

/// The whole of the file `path`.
///
/// # Errors
/// Those of opening and reading it, and `InvalidData` when it is not UTF-8.
pub fn read(path: impl AsRef<Path>) -> io::Result<String> {
    let mut file = File::open(path)?;
    // Not by position: files of debugfs are read from front to back only.
    whole(|buffer, _| file.read(buffer))
}

/// The whole of an open file, wherever its position is.
///
/// # Errors
/// As [`read`], and `ESPIPE` in debugfs.
pub fn read_open(file: &File) -> io::Result<String> {
    whole(|buffer, at| file.read_at(buffer, at))
}

fn whole(mut read: impl FnMut(&mut [u8], u64) -> io::Result<usize>) -> io::Result<String> {
    let mut bytes = Vec::new();
    let mut buffer = [0; CHUNK];
    loop {
        match read(&mut buffer, bytes.len() as u64)? {
            0 => break,
            length => bytes.extend_from_slice(&buffer[..length]),
        }
    }
    String::from_utf8(bytes).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_of_any_length_are_read_whole() {
        let path = std::env::temp_dir().join(format!("hugeprobe-text-{}", std::process::id()));
        for length in [0, 1, CHUNK, 2 * CHUNK + 1] {
            let text = "x".repeat(length);
            std::fs::write(&path, &text).unwrap();
            assert!(read(&path).unwrap() == text, "{length} bytes");
            let mut file = File::open(&path).unwrap();
            assert!(read_open(&file).unwrap() == text, "{length} bytes");
            file.read_to_end(&mut Vec::new()).unwrap();
            assert!(read_open(&file).unwrap() == text, "at its end");
        }
        std::fs::remove_file(&path).unwrap();
        assert_eq!(read(&path).unwrap_err().kind(), io::ErrorKind::NotFound);
        assert_eq!(read("/proc/self/comm").unwrap().lines().count(), 1);
    }
}
