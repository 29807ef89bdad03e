// SPDX-License-Identifier: GPL-2.0-only
//! Reads a bzImage: its release from the boot header
//! (Documentation/arch/x86/boot.rst), and its configuration, which
//! `CONFIG_IKCONFIG` puts into the kernel between two marks.

use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use fs_err as fs;

use super::cache::{Cache, digest, write_whole};
use super::error::KernelError;
use super::process::command;

/// Offsets in the file, from boot.rst, "The Real-Mode Kernel Header".
mod header {
    pub const SETUP_SECTORS: usize = 0x1f1;
    pub const MAGIC: usize = 0x202;
    pub const VERSION_POINTER: usize = 0x20e;
    pub const PAYLOAD_OFFSET: usize = 0x248;
    pub const PAYLOAD_LENGTH: usize = 0x24c;
}

/// How payloads begin, and who unpacks them.
const UNPACKERS: &[(&[u8], &[&str])] = &[
    (b"\x1f\x8b", &["gzip", "-dc"]),
    (b"\x28\xb5\x2f\xfd", &["zstd", "-dc"]),
    (b"\xfd7zXZ", &["xz", "-dc"]),
    (b"\x02\x21\x4c\x18", &["lz4", "-dc"]),
    (b"BZh", &["bzip2", "-dc"]),
];

/// Where the kernel's version text must end: boot.rst gives it no length.
const LONGEST_VERSION: usize = 512;

/// A kernel image that exists.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image {
    /// The file.
    pub path: PathBuf,
    /// What `uname -r` will say.
    pub release: String,
}

/// Recognises a bzImage.
///
/// # Errors
/// [`KernelError::NotAnImage`] with what is wrong.
pub fn open(path: &Path) -> Result<Image, KernelError> {
    let refuse = |why: &str| KernelError::NotAnImage {
        path: path.to_owned(),
        why: why.to_owned(),
    };
    let real = fs::canonicalize(path).map_err(|_| refuse("no such file"))?;
    if real.is_dir() {
        return Err(refuse("it is a folder"));
    }
    let mut start = Vec::new();
    // The setup part is at most 255 sectors long.
    fs::File::open(&real)?
        .take(256 * 512)
        .read_to_end(&mut start)?;
    let release = release_of(&start).map_err(refuse)?;
    Ok(Image {
        path: real,
        release,
    })
}

/// The release that the first sectors of an image name.
fn release_of(start: &[u8]) -> Result<String, &'static str> {
    if start.starts_with(b"\x7fELF") {
        return Err("it is an ELF file, perhaps vmlinux");
    }
    if start.get(header::MAGIC..header::MAGIC + 4) != Some(b"HdrS") {
        return Err("it has no boot header");
    }
    let pointer = u16_at(start, header::VERSION_POINTER).ok_or("it is cut off")?;
    if pointer == 0 {
        return Err("its boot header names no version");
    }
    let text = start
        .get(usize::from(pointer) + 0x200..)
        .ok_or("it is cut off")?;
    let text = &text[..text.len().min(LONGEST_VERSION)];
    let end = text
        .iter()
        .position(|byte| *byte == 0)
        .ok_or("its version text has no end")?;
    let words = std::str::from_utf8(&text[..end]).map_err(|_| "its version is no text")?;
    let release = words
        .split_whitespace()
        .next()
        .ok_or("its version is empty")?;
    Ok(release.to_owned())
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_le_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

/// Looks for files that belong to an image: in its build folder, or in the same
/// folder, with or without the release in their names.
pub fn beside(image: &Image, in_build_folder: &str, in_boot: &str) -> Option<PathBuf> {
    let folder = image.path.parent()?;
    let build = folder
        .ends_with("arch/x86/boot")
        .then(|| folder.join("../../..").join(in_build_folder));
    let boot =
        [in_boot.to_owned(), format!("{in_boot}-{}", image.release)].map(|name| folder.join(name));
    let found = build.into_iter().chain(boot).find(|path| path.is_file())?;
    fs::canonicalize(found).ok()
}

/// The image's `.config`: the file beside it, or what IKCONFIG holds, which is
/// then kept in the cache.
///
/// # Errors
/// When the image cannot be read or the cache not written. An image without a
/// readable configuration is no error.
pub fn config(cache: &Cache, image: &Image) -> Result<Option<PathBuf>, KernelError> {
    if let Some(path) = beside(image, ".config", "config") {
        return Ok(Some(path));
    }
    let metadata = fs::metadata(&image.path)?;
    let modified = metadata
        .modified()?
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap_or_default();
    let identity = format!("{} {} {modified:?}", image.path.display(), metadata.len());
    let kept = cache
        .dir("ikconfig")?
        .join(format!("{}.config", digest(&[&identity])));
    if kept.exists() {
        return Ok(Some(kept));
    }
    let Some(kernel) = payload(&image.path)?.and_then(|packed| unpack(&packed)) else {
        return Ok(None);
    };
    let Some(text) = ikconfig(&kernel).and_then(unpack) else {
        return Ok(None);
    };
    write_whole(&kept, &text)?;
    Ok(Some(kept))
}

/// The packed kernel in an image.
fn payload(path: &Path) -> Result<Option<Vec<u8>>, KernelError> {
    let mut file = fs::File::open(path)?;
    let mut start = vec![0; 0x250];
    if file.read_exact(&mut start).is_err() {
        return Ok(None);
    }
    let sectors = match start[header::SETUP_SECTORS] {
        0 => 4,
        sectors => u64::from(sectors),
    };
    let (Some(offset), Some(length)) = (
        u32_at(&start, header::PAYLOAD_OFFSET),
        u32_at(&start, header::PAYLOAD_LENGTH),
    ) else {
        return Ok(None);
    };
    file.seek(SeekFrom::Start((sectors + 1) * 512 + u64::from(offset)))?;
    let mut packed = Vec::new();
    file.take(u64::from(length)).read_to_end(&mut packed)?;
    Ok(Some(packed))
}

/// Unpacks with the tool that the first bytes ask for; `None` when there is no
/// such tool or nothing came out.
fn unpack(packed: &[u8]) -> Option<Vec<u8>> {
    let (_, argv) = UNPACKERS
        .iter()
        .find(|(magic, _)| packed.starts_with(magic))?;
    let mut unpacker = command(argv[0]);
    unpacker
        .args(&argv[1..])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null());
    let mut child = unpacker.spawn().ok()?;
    let mut stdin = child.stdin.take()?;
    std::thread::scope(|scope| {
        // The kernel's build appends the unpacked size: every unpacker calls that
        // garbage and fails after it has written everything, so only the output
        // counts; it may also close its input early.
        scope.spawn(move || {
            let _ = stdin.write_all(packed);
        });
        let output = child.wait_with_output().ok()?;
        (!output.stdout.is_empty()).then_some(output.stdout)
    })
}

/// What stands between the marks of `kernel/configs.c`.
fn ikconfig(kernel: &[u8]) -> Option<&[u8]> {
    let find = |mark: &[u8]| kernel.windows(mark.len()).position(|window| window == mark);
    let start = find(b"IKCFG_ST")? + b"IKCFG_ST".len();
    let end = find(b"IKCFG_ED")?;
    kernel.get(start..end)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(version: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0; 0x400];
        bytes[header::MAGIC..header::MAGIC + 4].copy_from_slice(b"HdrS");
        bytes[header::VERSION_POINTER..header::VERSION_POINTER + 2]
            .copy_from_slice(&0x100u16.to_le_bytes());
        bytes[0x300..0x300 + version.len()].copy_from_slice(version);
        bytes
    }

    #[test]
    fn release_is_the_first_word_of_the_version() {
        let bytes = image(b"7.3.4-custom (user@host) #1 SMP Sat Nov 21\0");
        assert_eq!(release_of(&bytes), Ok("7.3.4-custom".to_owned()));
    }

    #[test]
    fn other_files_are_refused_with_the_reason() {
        assert_eq!(
            release_of(b"\x7fELF..."),
            Err("it is an ELF file, perhaps vmlinux")
        );
        assert_eq!(release_of(b"#!/bin/sh\n"), Err("it has no boot header"));
        assert_eq!(
            release_of(&image(b"7.3")[..0x303]),
            Err("its version text has no end")
        );
        assert_eq!(release_of(&image(b"\0")), Err("its version is empty"));
        let mut bytes = image(b"7.3\0");
        bytes[header::VERSION_POINTER] = 0;
        bytes[header::VERSION_POINTER + 1] = 0;
        assert_eq!(release_of(&bytes), Err("its boot header names no version"));
    }

    #[test]
    fn missing_image_is_one_clear_line() {
        let text = open(Path::new("/no/bzImage"))
            .expect_err("not there")
            .to_string();
        assert!(
            text.contains("no such file") && !text.contains('\n'),
            "{text}"
        );
    }

    #[test]
    fn configuration_is_found_in_an_image_with_garbage_after_the_payload() {
        let gzip = |bytes: &[u8]| {
            let mut gzip = command("gzip");
            let mut child = gzip
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .spawn()
                .unwrap();
            child.stdin.take().unwrap().write_all(bytes).unwrap();
            child.wait_with_output().unwrap().stdout
        };
        let mut kernel = b"text IKCFG_ST".to_vec();
        kernel.extend(gzip(b"CONFIG_A=y\n"));
        kernel.extend(b"IKCFG_ED more");
        let mut packed = gzip(&kernel);
        packed.extend(1000u32.to_le_bytes());
        let mut bytes = image(b"7.3.4 (x)\0");
        bytes[header::SETUP_SECTORS] = 1;
        bytes[header::PAYLOAD_LENGTH..header::PAYLOAD_LENGTH + 4]
            .copy_from_slice(&(packed.len() as u32).to_le_bytes());
        bytes.extend(packed);
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("bzImage");
        fs::write(&path, bytes).unwrap();
        let cache = Cache::at(&dir.path().join("cache")).unwrap();
        let config = config(&cache, &open(&path).unwrap())
            .unwrap()
            .expect("it has one");
        assert_eq!(fs::read_to_string(config).unwrap(), "CONFIG_A=y\n");
    }

    #[test]
    fn files_beside_a_build_and_in_boot_are_found() {
        let dir = tempfile::tempdir().unwrap();
        let boot = dir.path().join("arch/x86/boot");
        fs::create_dir_all(&boot).unwrap();
        fs::write(dir.path().join("vmlinux"), "").unwrap();
        fs::write(boot.join("config-7.3.4"), "").unwrap();
        let image = Image {
            path: boot.join("bzImage"),
            release: "7.3.4".to_owned(),
        };
        assert!(
            beside(&image, "vmlinux", "vmlinux")
                .unwrap()
                .ends_with("vmlinux")
        );
        assert!(
            beside(&image, ".config", "config")
                .unwrap()
                .ends_with("config-7.3.4")
        );
        assert_eq!(beside(&image, "System.map", "System.map"), None);
    }
}
