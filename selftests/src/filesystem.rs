// SPDX-License-Identifier: GPL-2.0-only
//! A file system of our own on a loop device: page cache that is backed by a disk, as opposed
//! to shmem. ext4, because its mkfs is on nearly every machine; the image lies in `/dev/shm`.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::unistd::{Whence, lseek};

use crate::{loopdev, outcome};

/// Bytes of the image: room for a few huge pages and for ext4's own tables.
const IMAGE: u64 = 64 << 20;

/// An image with a new file system, which tests of one guest copy: mkfs starts from the guest's
/// root, which takes longer than many a test.
const PATTERN: &str = "/dev/shm/hugeprobe-ext4.img";

/// Why there is no file system.
#[derive(Debug, thiserror::Error)]
pub enum FilesystemError {
    /// A program is not installed.
    #[error("no {0} on this machine (Debian package e2fsprogs)")]
    NoProgram(&'static str),
    /// A program failed.
    #[error("{0}: {1}")]
    Failed(&'static str, String),
    /// The kernel has no loop device for the image.
    #[error("no loop device: {0} (CONFIG_BLK_DEV_LOOP)")]
    Loop(io::Error),
    /// The kernel does not mount it.
    #[error("failed to mount {0}: {1} (CONFIG_EXT4_FS)")]
    Mount(PathBuf, Errno),
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
        let made = Filesystem {
            place: format!("/dev/shm/hugeprobe-{id}").into(),
            image: format!("/dev/shm/hugeprobe-{id}.img").into(),
        };
        fs::create_dir_all(&made.place)?;
        make_image(&made.image)?;
        let image = File::options().read(true).write(true).open(&made.image)?;
        let device = loopdev::attach(&image).map_err(FilesystemError::Loop)?;
        mount(
            Some(device.path()),
            &made.place,
            Some("ext4"),
            MsFlags::empty(),
            None::<&str>,
        )
        .map_err(|errno| FilesystemError::Mount(device.path().to_owned(), errno))?;
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
        fs::write(
            format!("/sys/dev/block/{major}:{minor}/queue/read_ahead_kb"),
            "0",
        )
    }
}

impl Drop for Filesystem {
    fn drop(&mut self) {
        // Fails when it was never mounted. The loop device goes with its last user.
        let _ = umount2(&self.place, MntFlags::MNT_DETACH);
        let _ = fs::remove_dir(&self.place);
        let _ = fs::remove_file(&self.image);
    }
}

/// Makes an image with an empty ext4, by copying the pattern where a guest has one.
fn make_image(path: &Path) -> Result<(), FilesystemError> {
    let pattern = Path::new(PATTERN);
    if !outcome::is_guest() {
        return make_filesystem(path);
    }
    if !pattern.exists() {
        make_filesystem(path)?;
        return Ok(copy_data(path, pattern)?);
    }
    Ok(copy_data(pattern, path)?)
}

fn make_filesystem(path: &Path) -> Result<(), FilesystemError> {
    File::create(path)?.set_len(IMAGE)?;
    let words = ["-q".as_ref(), "-F".as_ref(), path.as_os_str()];
    run("mkfs.ext4", words).map(drop)
}

/// Copies a file without its holes, of which an image mostly consists.
fn copy_data(from: &Path, to: &Path) -> io::Result<()> {
    let from = File::open(from)?;
    let to = File::create(to)?;
    let len = from.metadata()?.len();
    to.set_len(len)?;
    let mut buffer = vec![0; 1 << 20];
    let mut at = 0;
    // ENXIO: nothing but a hole is left.
    while let Ok(data) = seek(&from, at, Whence::SeekData) {
        let end = seek(&from, data, Whence::SeekHole)?;
        at = data;
        while at < end {
            let room = buffer.len().min((end - at) as usize);
            let count = from.read_at(&mut buffer[..room], at)?;
            to.write_all_at(&buffer[..count], at)?;
            at += count as u64;
        }
    }
    Ok(())
}

fn seek(file: &File, at: u64, whence: Whence) -> nix::Result<u64> {
    lseek(file, at.cast_signed(), whence).map(i64::cast_unsigned)
}

/// Runs one of the programs from where distributions put it, as a guest may have no `PATH`;
/// returns what it prints.
fn run<'a>(
    name: &'static str,
    args: impl IntoIterator<Item = &'a OsStr>,
) -> Result<String, FilesystemError> {
    let folders = ["/usr/sbin", "/sbin", "/usr/bin", "/bin"];
    let program = folders
        .map(|folder| Path::new(folder).join(name))
        .into_iter()
        .find(|path| path.exists());
    let output = Command::new(program.ok_or(FilesystemError::NoProgram(name))?)
        .args(args)
        .output()?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_string();
    match output.status.success() {
        true => Ok(text(&output.stdout)),
        false => Err(FilesystemError::Failed(name, text(&output.stderr))),
    }
}
