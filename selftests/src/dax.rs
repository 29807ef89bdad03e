// SPDX-License-Identifier: GPL-2.0-only
//! Device-dax with 1 GiB alignment, from memory that was soft-reserved at boot:
//! the one file whose pages a mainline kernel maps by PUD entries with folios
//! behind them.
//!
//! Boot with `memmap=1G%START-1+0xefffffff` (RAM becomes soft-reserved, START a
//! multiple of 1 GiB) and `dax_hmem.region_idle=1`, which leaves the region
//! unclaimed; [`PudDax::claim`] then sizes, aligns and binds its device.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use thiserror::Error;

const DEVICES: &str = "/sys/bus/dax/devices";
const DRIVER: &str = "/sys/bus/dax/drivers/device_dax";
const PUD_SIZE: u64 = 1 << 30;

/// Why there is no device to test with.
#[derive(Debug, Error)]
pub enum DaxError {
    /// The kernel has no device-dax, or no memory was soft-reserved.
    #[error("no idle dax region (boot with memmap=1G%START-1+0xefffffff dax_hmem.region_idle=1)")]
    NoRegion,
    /// A step of the setup was refused.
    #[error("{step} {path}: {source}")]
    Sysfs {
        /// What was tried.
        step: &'static str,
        /// On which file.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// The device was bound, but its node did not appear.
    #[error("{0} did not appear")]
    NoNode(PathBuf),
}

/// A device-dax device of 1 GiB or more, aligned to 1 GiB and bound to its
/// driver; unbound and emptied again when dropped.
pub struct PudDax {
    sysfs: PathBuf,
    name: String,
    size: u64,
    align: String,
}

impl PudDax {
    /// Claims the first idle region.
    ///
    /// # Errors
    /// [`DaxError::NoRegion`] where there is nothing to claim; anything else is
    /// a fault of the setup or the kernel.
    pub fn claim() -> Result<Self, DaxError> {
        let (sysfs, name, available) = idle_seed().ok_or(DaxError::NoRegion)?;
        let size = available - available % PUD_SIZE;
        let align = fs::read_to_string(sysfs.join("align"))
            .map_err(|e| sysfs_error("reading", &sysfs.join("align"), e))?;
        let device = Self {
            sysfs,
            name,
            size,
            align: align.trim().to_owned(),
        };
        device.set("align", &PUD_SIZE.to_string())?;
        device.set("size", &size.to_string())?;
        let bind = Path::new(DRIVER).join("bind");
        fs::write(&bind, &device.name).map_err(|e| sysfs_error("writing", &bind, e))?;
        device.wait_for_node()?;
        Ok(device)
    }

    /// Bytes in the device, a multiple of 1 GiB.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Opens the device for reading and writing.
    ///
    /// # Errors
    /// As `open(2)`.
    pub fn open(&self) -> io::Result<File> {
        OpenOptions::new().read(true).write(true).open(self.node())
    }

    fn node(&self) -> PathBuf {
        Path::new("/dev").join(&self.name)
    }

    fn set(&self, attribute: &str, value: &str) -> Result<(), DaxError> {
        let path = self.sysfs.join(attribute);
        fs::write(&path, value).map_err(|e| sysfs_error("writing", &path, e))
    }

    fn wait_for_node(&self) -> Result<(), DaxError> {
        let deadline = Instant::now() + Duration::from_secs(10);
        while !self.node().exists() {
            if Instant::now() > deadline {
                return Err(DaxError::NoNode(self.node()));
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }
}

impl Drop for PudDax {
    fn drop(&mut self) {
        // The next test needs the region idle; where that fails its own claim
        // reports it.
        let _ = fs::write(Path::new(DRIVER).join("unbind"), &self.name);
        let _ = self.set("size", "0");
        let _ = self.set("align", &self.align);
    }
}

fn sysfs_error(step: &'static str, path: &Path, source: io::Error) -> DaxError {
    DaxError::Sysfs {
        step,
        path: path.to_owned(),
        source,
    }
}

/// The first device without memory whose region has at least 1 GiB to give:
/// its folder, its name and the bytes available.
fn idle_seed() -> Option<(PathBuf, String, u64)> {
    let mut entries: Vec<_> = fs::read_dir(DEVICES).ok()?.flatten().collect();
    entries.sort_by_key(fs::DirEntry::file_name);
    entries.into_iter().find_map(|entry| {
        let sysfs = fs::canonicalize(entry.path()).ok()?;
        let region = sysfs.parent()?.join("dax_region/available_size");
        let available = number(&region)?;
        let idle = number(&sysfs.join("size"))? == 0 && !sysfs.join("driver").exists();
        let name = entry.file_name().into_string().ok()?;
        (idle && available >= PUD_SIZE).then_some((sysfs, name, available))
    })
}

fn number(path: &Path) -> Option<u64> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}
