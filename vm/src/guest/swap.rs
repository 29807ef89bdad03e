// SPDX-License-Identifier: GPL-2.0-only
//! Swap on a compressed RAM disk, without `mkswap` and `swapon`, which a
//! guest whose root is some host's need not have.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::sys;

const PAGE: u64 = 4096;

/// Makes the zram device `mib` MiB large and swaps to it.
///
/// # Errors
/// Says what the kernel lacks.
pub fn enable(mib: u64) -> Result<(), String> {
    let device = Path::new("/dev/zram0");
    if !device.exists() {
        return Err("no /dev/zram0 for swap; the kernel needs CONFIG_ZRAM".into());
    }
    let size = mib << 20;
    fs::write("/sys/block/zram0/disksize", size.to_string())
        .map_err(|error| format!("cannot set the size of zram0: {error}"))?;
    File::options()
        .write(true)
        .open(device)
        .and_then(|file| file.write_all_at(&header(size / PAGE), 0))
        .map_err(|error| format!("cannot write a swap header to zram0: {error}"))?;
    sys::swapon(device).map_err(|error| format!("cannot swap to zram0: {error}"))
}

/// The first page of a swap area of `pages` pages: version, last page and
/// number of bad pages at offset 1024, the signature in the last ten bytes
/// (`union swap_header` in `include/linux/swap.h`).
fn header(pages: u64) -> Vec<u8> {
    let last_page = u32::try_from(pages - 1).unwrap_or(u32::MAX);
    let mut page = vec![0; PAGE as usize];
    page[1024..1028].copy_from_slice(&1u32.to_ne_bytes());
    page[1028..1032].copy_from_slice(&last_page.to_ne_bytes());
    page[PAGE as usize - 10..].copy_from_slice(b"SWAPSPACE2");
    page
}

#[cfg(test)]
mod tests {
    use super::header;

    #[test]
    fn header_has_version_size_and_signature() {
        let page = header(256);
        assert_eq!(page.len(), 4096);
        assert_eq!(page[1024..1036], [1, 0, 0, 0, 255, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(&page[4086..], b"SWAPSPACE2");
    }
}
