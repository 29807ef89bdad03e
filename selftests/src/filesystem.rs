// SPDX-License-Identifier: GPL-2.0-only
//! A file system of our own on a loop device: page cache that is backed by a disk, as opposed
//! to shmem. ext4, because its mkfs is on nearly every machine; the image lies in `/dev/shm`.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Bytes of the image: room for a few huge pages and for ext4's own tables.
const IMAGE: u64 = 64 << 20;

/// Why there is no file system.
#[derive(Debug, thiserror::Error)]
pub enum FilesystemError {
    /// A program is not installed.
    #[error("no {0} on this machine (packages e2fsprogs and mount)")]
    NoProgram(&'static str),
    /// A program failed, for instance for lack of ext4 or loop devices in the kernel.
    #[error("{0}: {1} (CONFIG_EXT4_FS, CONFIG_BLK_DEV_LOOP)")]
    Failed(&'static str, String),
    /// The image could not be made.
    #[error("failed to make an image in /dev/shm: {0}")]
    Image(#[from] io::Error),
}

/// A mounted file system; unmounted and deleted at the end.
#[derive(Debug)]
pub struct Filesystem {
    place: PathBuf,
    image: PathBuf,
}

impl Filesystem {
    /// An empty ext4, whose block device reads nothing ahead: only what was asked for is in
    /// the page cache.
    ///
    /// # Errors
    /// [`FilesystemError`]: a test skips with it.
    pub fn ext4() -> Result<Self, FilesystemError> {
        let id = std::process::id();
        let image = PathBuf::from(format!("/dev/shm/hugeprobe-{id}.img"));
        let place = PathBuf::from(format!("/dev/shm/hugeprobe-{id}"));
        File::create(&image)?.set_len(IMAGE)?;
        fs::create_dir_all(&place)?;
        let made = Filesystem { place, image };
        run("mkfs.ext4", [OsStr::new("-q"), OsStr::new("-F"), made.image.as_os_str()])?;
        run("mount", [OsStr::new("-oloop"), made.image.as_os_str(), made.place.as_os_str()])?;
        made.stop_reading_ahead()?;
        Ok(made)
    }

    /// Where it is mounted.
    pub fn path(&self) -> &Path {
        &self.place
    }

    fn stop_reading_ahead(&self) -> io::Result<()> {
        let device = std::os::unix::fs::MetadataExt::dev(&fs::metadata(&self.place)?);
        let (major, minor) = (libc::major(device), libc::minor(device));
        fs::write(format!("/sys/dev/block/{major}:{minor}/queue/read_ahead_kb"), "0")
    }
}

impl Drop for Filesystem {
    fn drop(&mut self) {
        if let Err(error) = run("umount", [self.place.as_os_str()]) {
            eprintln!("{error}");
        }
        let _ = fs::remove_dir(&self.place);
        let _ = fs::remove_file(&self.image);
    }
}

/// Runs one of the programs from where distributions put it; a guest may have no `PATH`.
fn run<'a>(name: &'static str, args: impl IntoIterator<Item = &'a OsStr>) -> Result<(), FilesystemError> {
    let folders = ["/usr/sbin", "/sbin", "/usr/bin", "/bin"];
    let program = folders.map(|folder| Path::new(folder).join(name)).into_iter().find(|path| path.exists());
    let output = Command::new(program.ok_or(FilesystemError::NoProgram(name))?).args(args).output()?;
    match output.status.success() {
        true => Ok(()),
        false => Err(FilesystemError::Failed(name, String::from_utf8_lossy(&output.stderr).trim().to_string())),
    }
}
