// SPDX-License-Identifier: GPL-2.0-only
//! The cache: where sources, builds and tools are kept between runs.
//!
//! Rules that make it safe to share: a finished thing appears by one rename;
//! what is unfinished has a name of its own and is resumed or replaced; who
//! writes holds a lock file, which the kernel drops when the process dies.

use std::fs::File;
use std::path::{Path, PathBuf};

use fs_err as fs;
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use sha2::{Digest, Sha256};

use super::error::KernelError;
use super::progress::Ui;

/// The cache folder and what is where in it.
#[derive(Clone, Debug)]
pub struct Cache {
    root: PathBuf,
}

/// A lock on one thing in the cache; dropping it unlocks.
#[derive(Debug)]
pub struct Lock(#[expect(dead_code, reason = "held for its drop")] Flock<File>);

impl Cache {
    /// The cache of this user: `HUGEPROBE_CACHE`, or `hugeprobe` below
    /// `XDG_CACHE_HOME` or `~/.cache`.
    ///
    /// # Errors
    /// When the folder cannot be made.
    pub fn open() -> Result<Self, KernelError> {
        let named = |name: &str| {
            std::env::var_os(name)
                .filter(|v| !v.is_empty())
                .map(PathBuf::from)
        };
        let root = named("HUGEPROBE_CACHE")
            .or_else(|| named("XDG_CACHE_HOME").map(|dir| dir.join("hugeprobe")))
            .or_else(|| named("HOME").map(|dir| dir.join(".cache/hugeprobe")))
            .unwrap_or_else(|| PathBuf::from("/var/tmp/hugeprobe"));
        Self::at(&root)
    }

    /// A cache in a folder of the caller's choice.
    ///
    /// # Errors
    /// When the folder cannot be made.
    pub fn at(root: &Path) -> Result<Self, KernelError> {
        fs::create_dir_all(root)?;
        Ok(Self {
            root: fs::canonicalize(root)?,
        })
    }

    /// A folder of the cache; made if it is not there.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn dir(&self, name: &str) -> Result<PathBuf, KernelError> {
        let dir = self.root.join(name);
        fs::create_dir_all(&dir)?;
        Ok(dir)
    }

    /// The top of the cache.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Waits until nobody else works on `name`, and keeps others out.
    ///
    /// # Errors
    /// When the lock file cannot be made.
    pub fn lock(&self, name: &str, ui: &Ui) -> Result<Lock, KernelError> {
        let path = self.dir("locks")?.join(name);
        let file = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path)?;
        let file = match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => return Ok(Lock(lock)),
            Err((file, Errno::EWOULDBLOCK)) => file,
            Err((_, errno)) => return Err(KernelError::Io(errno.into())),
        };
        ui.step(&format!(
            "waiting for another hugeprobe that works on {name}"
        ));
        Flock::lock(file, FlockArg::LockExclusive)
            .map(Lock)
            .map_err(|(_, errno)| KernelError::Io(errno.into()))
    }
}

/// A short name for the content of `parts`: 12 hexadecimal digits.
pub fn digest(parts: &[&str]) -> String {
    let mut hash = Sha256::new();
    for part in parts {
        // The length keeps ("ab", "c") apart from ("a", "bc").
        hash.update(part.len().to_le_bytes());
        hash.update(part.as_bytes());
    }
    hash.finalize()
        .iter()
        .take(6)
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

/// Writes a file so that it is whole or not there.
///
/// # Errors
/// When it cannot be written; [`KernelError::DiskFull`] when that is why.
pub fn write_whole(path: &Path, content: &[u8]) -> Result<(), KernelError> {
    let temporary = path.with_extension(format!("tmp{}", std::process::id()));
    fs::write(&temporary, content).map_err(|error| disk_full_or(error, path))?;
    Ok(fs::rename(&temporary, path)?)
}

/// Where a folder is made before it is renamed to `finished`.
pub fn unfinished(finished: &Path) -> PathBuf {
    // Not with_extension(): versions are full of dots.
    let mut name = finished.as_os_str().to_owned();
    name.push(".unpacking");
    PathBuf::from(name)
}

/// Recognises a full disk, which deserves advice of its own.
pub fn disk_full_or(error: std::io::Error, path: &Path) -> KernelError {
    if error.kind() == std::io::ErrorKind::StorageFull {
        return KernelError::DiskFull {
            path: path.to_owned(),
        };
    }
    KernelError::Io(error)
}

/// Whether a program's output says that the disk is full.
pub fn says_disk_full(output: &str) -> bool {
    output.contains("No space left on device") || output.contains("enough free space")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digest_depends_on_where_parts_end() {
        assert_ne!(digest(&["ab", "c"]), digest(&["a", "bc"]));
        assert_eq!(digest(&["ab", "c"]), digest(&["ab", "c"]));
        assert_eq!(digest(&["x"]).len(), 12);
    }

    #[test]
    fn second_lock_waits_for_the_first() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::at(dir.path()).unwrap();
        let ui = Ui::silent();
        let first = cache.lock("build", &ui).unwrap();
        let (sender, receiver) = std::sync::mpsc::channel();
        let other = cache.clone();
        let waiter = std::thread::spawn(move || {
            let _second = other.lock("build", &Ui::silent()).unwrap();
            sender.send(()).unwrap();
        });
        let early = receiver.recv_timeout(std::time::Duration::from_millis(200));
        assert!(early.is_err(), "two holders at once");
        drop(first);
        receiver
            .recv_timeout(std::time::Duration::from_secs(10))
            .unwrap();
        waiter.join().unwrap();
    }

    #[test]
    fn whole_write_leaves_no_temporary_file() {
        let dir = tempfile::tempdir().unwrap();
        write_whole(&dir.path().join("a.txt"), b"new").unwrap();
        let names: Vec<_> = fs::read_dir(dir.path())
            .unwrap()
            .map(|e| e.unwrap().file_name())
            .collect();
        assert_eq!(names, ["a.txt"]);
    }

    #[test]
    fn unfinished_folders_of_two_versions_differ() {
        let of = |version: &str| unfinished(Path::new(&format!("/c/linux_{version}")));
        assert_ne!(of("7.2.13-1"), of("7.2.9-1"));
        assert_eq!(of("7.2.13-1"), Path::new("/c/linux_7.2.13-1.unpacking"));
    }

    #[test]
    fn full_disk_is_recognised() {
        let error = std::io::Error::from_raw_os_error(Errno::ENOSPC as i32);
        assert!(matches!(
            disk_full_or(error, Path::new("/x")),
            KernelError::DiskFull { .. }
        ));
        assert!(says_disk_full(
            "ld: final link failed: No space left on device"
        ));
    }
}
