// SPDX-License-Identifier: GPL-2.0-only
//! Loop devices: files as block devices (`drivers/block/loop.c`).

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::path::{Path, PathBuf};

use nix::errno::Errno;

/// Finds a device that is free, or makes one.
const LOOP_CTL_GET_FREE: libc::c_ulong = 0x4c82;
/// Makes a file the memory of a device. Since 5.8.
const LOOP_CONFIGURE: libc::c_ulong = 0x4c0a;
/// The device is free again when its last user has closed or unmounted it.
const LO_FLAGS_AUTOCLEAR: u32 = 4;
/// How often somebody else may take the device that was free.
const TRIES: usize = 10;

/// `struct loop_config` with the `struct loop_info64` in it, field by field as far as we set any.
#[repr(C)]
struct Config {
    fd: u32,
    block_size: u32,
    /// `lo_device` to `lo_encrypt_key_size`, apart from the two before the flags.
    numbers: [u64; 5],
    number: u32,
    encrypt: [u32; 2],
    flags: u32,
    names_and_key: [u8; 64 + 64 + 32],
    init: [u64; 2],
    reserved: [u64; 8],
}

/// An attached device; whoever mounts it keeps it, so this may go then.
#[derive(Debug)]
pub struct LoopDevice {
    path: PathBuf,
    _file: File,
}

impl LoopDevice {
    /// Its file.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// Makes `image` a block device that vanishes with its last user.
///
/// # Errors
/// `ENOENT` without loop devices in the kernel, else what the driver says.
pub fn attach(image: &File) -> io::Result<LoopDevice> {
    let control = open(Path::new("/dev/loop-control"))?;
    let mut config = Config {
        fd: image.as_raw_fd().cast_unsigned(),
        block_size: 0,
        numbers: [0; 5],
        number: 0,
        encrypt: [0; 2],
        flags: LO_FLAGS_AUTOCLEAR,
        names_and_key: [0; 160],
        init: [0; 2],
        reserved: [0; 8],
    };
    let mut last = Errno::EBUSY;
    for _ in 0..TRIES {
        let number = ioctl(control.as_raw_fd(), LOOP_CTL_GET_FREE, std::ptr::null_mut())?;
        let path = PathBuf::from(format!("/dev/loop{number}"));
        let file = open(&path)?;
        match ioctl(file.as_raw_fd(), LOOP_CONFIGURE, &raw mut config) {
            // Kernels without CONFIG_BLK_DEV_WRITE_MOUNTED mount nothing that is open for writing.
            Ok(_) => return File::open(&path).map(|file| LoopDevice { path, _file: file }),
            Err(Errno::EBUSY) => last = Errno::EBUSY,
            Err(errno) => return Err(errno.into()),
        }
    }
    Err(last.into())
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).open(path)
}

fn ioctl(fd: RawFd, request: libc::c_ulong, config: *mut Config) -> nix::Result<i32> {
    // SAFETY: LOOP_CONFIGURE reads one `struct loop_config`, which `Config` is; the other request
    // takes no argument.
    Errno::result(unsafe { libc::ioctl(fd, request, config) })
}

#[cfg(test)]
mod tests {
    use super::Config;

    #[test]
    fn layout_is_that_of_the_kernel() {
        assert_eq!(size_of::<Config>(), 304);
        assert_eq!(std::mem::offset_of!(Config, number), 48);
        assert_eq!(std::mem::offset_of!(Config, flags), 60);
    }
}
