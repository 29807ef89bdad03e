// SPDX-License-Identifier: GPL-2.0-only
//! The guest's view of [`crate::machine::SharedMemory`].

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

/// Vendor and device of QEMU's ivshmem (`docs/specs/ivshmem-spec.txt` there).
const VENDOR: &str = "0x1af4";
const DEVICE: &str = "0x1110";

/// Opens the memory that this guest shares with its host and makes it
/// accessible. Map the file whole with `MAP_SHARED`; its length is the size of
/// the memory in bytes.
///
/// # Errors
/// `NotFound` when the machine has no shared memory.
pub fn open() -> io::Result<File> {
    let device = find(Path::new("/sys/bus/pci/devices"))?;
    // Without a driver nobody else has enabled the device's memory.
    fs::write(device.join("enable"), "1")?;
    File::options()
        .read(true)
        .write(true)
        .open(device.join("resource2"))
}

fn find(devices: &Path) -> io::Result<PathBuf> {
    for entry in fs::read_dir(devices)? {
        let device = entry?.path();
        let is = |file: &str, value: &str| {
            fs::read_to_string(device.join(file)).is_ok_and(|text| text.trim() == value)
        };
        if is("vendor", VENDOR) && is("device", DEVICE) {
            return Ok(device);
        }
    }
    Err(io::Error::new(
        io::ErrorKind::NotFound,
        "this guest shares no memory with its host",
    ))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::find;

    #[test]
    fn device_is_known_by_its_ids() {
        let devices = tempfile::tempdir().expect("a temporary folder");
        for (name, id) in [("0000:00:01.0", "0x1041"), ("0000:00:02.0", "0x1110")] {
            let device = devices.path().join(name);
            fs::create_dir(&device).expect("created");
            fs::write(device.join("vendor"), "0x1af4\n").expect("written");
            fs::write(device.join("device"), format!("{id}\n")).expect("written");
        }
        let found = find(devices.path()).expect("one of them is it");
        assert!(found.ends_with("0000:00:02.0"));
        fs::remove_dir_all(&found).expect("removed");
        assert!(find(devices.path()).is_err());
    }
}
