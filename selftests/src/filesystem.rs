// SPDX-License-Identifier: GPL-2.0-only
//! A file system of our own on a loop device: page cache that is backed by a disk, as opposed
//! to shmem. ext4, because its mkfs is on nearly every machine; the image lies in `/dev/shm`.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};

/// Bytes of the image: room for a few huge pages and for ext4's own tables.
const IMAGE: u64 = 64 << 20;

/// Why there is no file system.
#[derive(Debug, thiserror::Error)]
pub enum FilesystemError {
    /// A program is not installed.
    #[error("no {0} on this machine (Debian packages e2fsprogs and mount)")]
    NoProgram(&'static str),
    /// A program failed, for instance for lack of loop devices in the kernel.
    #[error("{0}: {1} (CONFIG_BLK_DEV_LOOP)")]
    Failed(&'static str, String),
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
    device: Option<PathBuf>,
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
        let mut made = Filesystem {
            place,
            image,
            device: None,
        };
        run(
            "mkfs.ext4",
            ["-q".as_ref(), "-F".as_ref(), made.image.as_os_str()],
        )?;
        // Not `mount -o loop`: it keeps the device open for writing meanwhile, which kernels
        // without CONFIG_BLK_DEV_WRITE_MOUNTED answer with EBUSY.
        let device = run(
            "losetup",
            ["-f".as_ref(), "--show".as_ref(), made.image.as_os_str()],
        )?;
        let device = made.device.insert(device.trim().into());
        mount(
            Some(device),
            &made.place,
            Some("ext4"),
            MsFlags::empty(),
            None::<&str>,
        )
        .map_err(|errno| FilesystemError::Mount(device.clone(), errno))?;
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
        if let Some(device) = &self.device {
            // Fails when it was never mounted.
            let _ = umount2(&self.place, MntFlags::MNT_DETACH);
            if let Err(error) = run("losetup", ["-d".as_ref(), device.as_os_str()]) {
                eprintln!("{error}");
            }
        }
        let _ = fs::remove_dir(&self.place);
        let _ = fs::remove_file(&self.image);
    }
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
