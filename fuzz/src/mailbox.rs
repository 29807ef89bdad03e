// SPDX-License-Identifier: GPL-2.0-only
//! The page shared with the host: the program about to run is in it before it
//! runs, so it is known even if the kernel takes the machine with it. Layout:
//! see docs/fuzzing.md.

use std::fs::{self, OpenOptions};
use std::path::{Path, PathBuf};
use std::sync::atomic::{Ordering, fence};

/// Bytes that are mapped; what backs them must be at least as large.
const BYTES: usize = 64 << 10;
const MAGIC: [u8; 4] = *b"HPF1";
const LENGTH: usize = 4;
const NUMBER: usize = 8;
const TEXT: usize = 16;
/// Vendor and device of QEMU's ivshmem, as sysfs writes them.
const DEVICE: (&str, &str) = ("0x1af4", "0x1110");

/// A mapped page.
pub struct Mailbox {
    base: *mut u8,
    number: u64,
}

impl Mailbox {
    /// The page of this guest: the file that `HUGEPROBE_MAILBOX` names, as
    /// `PATH` or `PATH@OFFSET`, or the
    /// memory of an ivshmem device. None if there is neither, since fuzzing
    /// without a host is useful too.
    pub fn find() -> Option<Self> {
        match std::env::var("HUGEPROBE_MAILBOX") {
            Ok(place) => {
                let (path, offset) = parse(&place)?;
                Self::open(path, offset)
            }
            Err(_) => Self::open(&device()?, 0),
        }
    }

    /// Maps the file or PCI resource at `path`, from `offset`.
    pub fn open(path: &Path, offset: i64) -> Option<Self> {
        let file = OpenOptions::new().read(true).write(true).open(path).ok()?;
        // SAFETY: a new mapping.
        let base = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                BYTES,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                std::os::fd::AsRawFd::as_raw_fd(&file),
                offset,
            )
        };
        if base == libc::MAP_FAILED {
            eprintln!(
                "failed to map {}: {}",
                path.display(),
                std::io::Error::last_os_error()
            );
            return None;
        }
        Some(Self {
            base: base.cast(),
            number: 0,
        })
    }

    /// Announces a program; it runs after this returns.
    pub fn begin(&mut self, program: &str) {
        let bytes = &program.as_bytes()[..program.len().min(BYTES - TEXT)];
        self.number += 1;
        self.put(LENGTH, &0u32.to_le_bytes());
        fence(Ordering::SeqCst);
        self.put(TEXT, bytes);
        self.put(NUMBER, &self.number.to_le_bytes());
        self.put(0, &MAGIC);
        fence(Ordering::SeqCst);
        self.put(LENGTH, &(bytes.len() as u32).to_le_bytes());
    }

    /// Writes byte by byte, volatile, because a device may back the mapping.
    fn put(&mut self, offset: usize, bytes: &[u8]) {
        for (i, byte) in bytes.iter().enumerate() {
            // SAFETY: the callers stay below BYTES.
            unsafe { self.base.add(offset + i).write_volatile(*byte) };
        }
    }
}

/// `PATH` or `PATH@OFFSET`, the offset hexadecimal with `0x` before it.
fn parse(place: &str) -> Option<(&Path, i64)> {
    let Some((path, offset)) = place.rsplit_once("@0x") else {
        return Some((Path::new(place), 0));
    };
    let offset = i64::from_str_radix(offset, 16).ok()?;
    Some((Path::new(path), offset))
}

/// The memory of the first ivshmem device.
fn device() -> Option<PathBuf> {
    let devices = fs::read_dir("/sys/bus/pci/devices").ok()?;
    let is = |path: PathBuf, wanted: &str| {
        fs::read_to_string(path).is_ok_and(|found| found.trim() == wanted)
    };
    let mut paths = devices.flatten().map(|entry| entry.path());
    let found = paths
        .find(|path| is(path.join("vendor"), DEVICE.0) && is(path.join("device"), DEVICE.1))?;
    Some(found.join("resource2"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_program_stands_in_the_page_with_its_number() {
        let file = selftests::mapping::memfd("mailbox", BYTES).unwrap();
        let path = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&file));
        let mut mailbox = Mailbox::open(Path::new(&path), 0).unwrap();
        mailbox.begin("p0 fork child=p1\n");
        mailbox.begin("p0 verify\n");
        let mut seen = [0; 26];
        std::os::unix::fs::FileExt::read_exact_at(&file, &mut seen, 0).unwrap();
        assert_eq!(&seen[..8], b"HPF1\x0a\0\0\0");
        assert_eq!(seen[8], 2);
        assert_eq!(&seen[16..], b"p0 verify\n");
    }

    #[test]
    fn a_place_is_a_path_with_or_without_an_offset() {
        assert_eq!(parse("/a@b"), Some((Path::new("/a@b"), 0)));
        let memory = parse("/dev/mem@0x200000000");
        assert_eq!(memory, Some((Path::new("/dev/mem"), 0x2_0000_0000)));
        assert_eq!(parse("/dev/mem@0xlow"), None);
    }
}
