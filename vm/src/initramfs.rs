// SPDX-License-Identifier: GPL-2.0-only
//! An initramfs with `hugeprobe-guest` as `/init` and the kernel's modules in
//! loading order. Either the way to the guest's root, for kernels that have its
//! drivers as modules, or, with [`Contents::Alone`], all that the guest has.
//! [`crate::guest`] takes over from there.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Folder of the modules in the initramfs; their names begin with a number,
/// which gives the order.
pub const MODULES: &str = "modules";

/// What the guest needs to reach its root and prepare itself. What a kernel
/// has built in, or has not at all, is not in its `modules.dep`.
const WANTED: [&str; 10] = [
    "virtio_pci",
    "9pnet_virtio",
    "9p",
    "overlay",
    "lzo",
    "lzo_rle",
    "zram",
    "virtio_blk",
    "loop",
    "ext4",
];

/// Why there is no initramfs.
#[derive(Debug, thiserror::Error)]
pub enum InitramfsError {
    /// A file cannot be read or written.
    #[error("cannot make an initramfs: {}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A compressed module cannot be unpacked.
    #[error("cannot unpack {} with `{program}`; install it", path.display())]
    Unpack {
        /// The module.
        path: PathBuf,
        /// The program that unpacks it.
        program: &'static str,
    },
}

/// What an initramfs leads to.
#[derive(Clone, Copy, Debug)]
pub enum Contents<'a> {
    /// The guest's root.
    Root,
    /// Nothing: the guest stays, and finds its plan and these files, at the
    /// same paths as here.
    Alone {
        /// The guest's plan, which becomes [`PLAN`].
        plan: &'a [u8],
        /// Programs and modules.
        files: &'a [PathBuf],
    },
}

/// Where the plan of a guest is that has nothing but its initramfs.
pub const PLAN: &str = "plan.json";

/// An initramfs with `guest_program` and what it needs of `modules_dir`.
///
/// # Errors
/// When a file cannot be read or unpacked.
pub fn make(
    contents: Contents,
    guest_program: &Path,
    modules_dir: Option<&Path>,
) -> Result<Vec<u8>, InitramfsError> {
    let mut archive = Vec::new();
    let folders: &[&str] = match contents {
        Contents::Root => &["dev", "newroot", MODULES],
        Contents::Alone { .. } => &["dev", "proc", "sys", "tmp", "run", MODULES],
    };
    for folder in folders {
        add(&mut archive, folder, 0o040_755, &[]);
    }
    add(&mut archive, "init", 0o100_755, &read(guest_program)?);
    if let Some(modules_dir) = modules_dir {
        let listing = read(&modules_dir.join("modules.dep"))?;
        let listing = String::from_utf8_lossy(&listing);
        for (number, module) in loading_order(&listing, &WANTED).iter().enumerate() {
            let bytes = unpacked(&modules_dir.join(module))?;
            let name = format!("{MODULES}/{number:03}-{}.ko", stem(module));
            add(&mut archive, &name, 0o100_644, &bytes);
        }
    }
    if let Contents::Alone { plan, files } = contents {
        add(&mut archive, PLAN, 0o100_644, plan);
        let mut folders = BTreeSet::new();
        for file in files {
            let parents = file.parent().into_iter().flat_map(Path::ancestors);
            folders.extend(parents.filter(|folder| folder.parent().is_some()));
        }
        // In order, so that a folder comes before what is in it.
        for folder in folders {
            add(&mut archive, &relative(folder), 0o040_755, &[]);
        }
        for file in files {
            add(&mut archive, &relative(file), 0o100_755, &read(file)?);
        }
    }
    add(&mut archive, "TRAILER!!!", 0, &[]);
    Ok(archive)
}

/// A path as a name in an archive.
fn relative(path: &Path) -> String {
    path.to_string_lossy().trim_start_matches('/').to_owned()
}

/// Writes [`make`]'s archive that leads to the guest's root to `path`.
///
/// # Errors
/// When a file cannot be read, unpacked or written.
pub fn write(path: &Path, guest_program: &Path, modules_dir: &Path) -> Result<(), InitramfsError> {
    let archive = make(Contents::Root, guest_program, Some(modules_dir))?;
    fs::write(path, archive).map_err(|source| InitramfsError::File {
        path: path.to_owned(),
        source,
    })
}

/// Adds a file in the format that `Documentation/driver-api/early-userspace/
/// buffer-format.rst` calls newc: 13 numbers of eight hexadecimal digits, the
/// name, the content; both padded to four bytes.
fn add(archive: &mut Vec<u8>, name: &str, mode: u32, content: &[u8]) {
    let name_size = name.len() + 1;
    let inode = archive.len() + 1;
    let numbers = [
        inode,
        mode as usize,
        0,
        0,
        1,
        0,
        content.len(),
        0,
        0,
        0,
        0,
        name_size,
        0,
    ];
    archive.extend(b"070701");
    for number in numbers {
        archive.extend(format!("{number:08x}").bytes());
    }
    archive.extend(name.bytes());
    archive.push(0);
    archive.resize(archive.len().next_multiple_of(4), 0);
    archive.extend(content);
    archive.resize(archive.len().next_multiple_of(4), 0);
}

/// The modules to load for `wanted`, each after those it depends on; `listing`
/// is a `modules.dep`, where dependencies stand in reverse loading order.
fn loading_order<'a>(listing: &'a str, wanted: &[&str]) -> Vec<&'a str> {
    let mut order: Vec<&str> = Vec::new();
    for name in wanted {
        let mut lines = listing.lines().filter_map(|line| line.split_once(':'));
        let Some((module, needs)) = lines.find(|(module, _)| stem(module) == *name) else {
            continue;
        };
        for module in needs.split_whitespace().rev().chain([module]) {
            if !order.contains(&module) {
                order.push(module);
            }
        }
    }
    order
}

/// The name of a module as the kernel knows it.
fn stem(module: &str) -> String {
    let name = module.rsplit('/').next().unwrap_or(module);
    let name = name.split(".ko").next().unwrap_or(name);
    name.replace('-', "_")
}

fn unpacked(path: &Path) -> Result<Vec<u8>, InitramfsError> {
    let program = match path.extension().and_then(|extension| extension.to_str()) {
        Some("xz") => "xz",
        Some("zst") => "zstd",
        Some("gz") => "gzip",
        _ => return read(path),
    };
    let output = Command::new(program).arg("-dc").arg(path).output();
    match output {
        Ok(output) if output.status.success() => Ok(output.stdout),
        _ => Err(InitramfsError::Unpack {
            path: path.to_owned(),
            program,
        }),
    }
}

fn read(path: &Path) -> Result<Vec<u8>, InitramfsError> {
    fs::read(path).map_err(|source| InitramfsError::File {
        path: path.to_owned(),
        source,
    })
}

#[cfg(test)]
mod tests {
    use std::path::{Path, PathBuf};

    use super::{Contents, add, loading_order, make};

    const LISTING: &str = "\
kernel/fs/9p/9p.ko.xz: kernel/net/9p/9pnet.ko.xz kernel/fs/netfs/netfs.ko.xz
kernel/net/9p/9pnet_virtio.ko.xz: kernel/drivers/virtio/virtio.ko.xz kernel/net/9p/9pnet.ko.xz
kernel/net/9p/9pnet.ko.xz:
kernel/lib/lzo-rle.ko:
";

    #[test]
    fn dependencies_come_first_and_once() {
        assert_eq!(
            loading_order(LISTING, &["9pnet_virtio", "9p", "not_there", "lzo_rle"]),
            [
                "kernel/net/9p/9pnet.ko.xz",
                "kernel/drivers/virtio/virtio.ko.xz",
                "kernel/net/9p/9pnet_virtio.ko.xz",
                "kernel/fs/netfs/netfs.ko.xz",
                "kernel/fs/9p/9p.ko.xz",
                "kernel/lib/lzo-rle.ko",
            ]
        );
    }

    #[test]
    fn entries_are_aligned_and_sized() {
        let mut archive = Vec::new();
        add(&mut archive, "init", 0o100_755, b"12345");
        assert_eq!(archive.len(), 110 + 6 + 8);
        assert_eq!(&archive[..6], b"070701");
        assert_eq!(&archive[54..62], b"00000005");
        assert_eq!(&archive[94..102], b"00000005");
        assert_eq!(&archive[110..115], b"init\0");
        assert_eq!(&archive[116..], b"12345\0\0\0");
    }

    #[test]
    fn folders_come_before_the_files_in_them() {
        let file = PathBuf::from(file!()).canonicalize();
        // Where the test runs decides whether the path is right.
        let file =
            file.unwrap_or_else(|_| Path::new("src/initramfs.rs").canonicalize().expect("here"));
        let contents = Contents::Alone {
            plan: b"{}",
            files: std::slice::from_ref(&file),
        };
        let archive = make(contents, &file, None).expect("made");
        let text = String::from_utf8_lossy(&archive);
        let place = |path: &Path| {
            let name = format!("{}\0", super::relative(path));
            text.find(&name).unwrap_or_else(|| panic!("no {name}"))
        };
        let folder = file.parent().expect("has one");
        assert!(place(folder.parent().expect("has one")) < place(folder));
        assert!(place(folder) < place(&file));
        assert!(!text.contains("newroot\0"));
    }
}
