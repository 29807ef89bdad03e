// SPDX-License-Identifier: GPL-2.0-only
//! The archive's own kernel image, for a first look without a build: downloaded
//! and unpacked into the cache with its modules, never installed.

use std::path::{Path, PathBuf};

use fs_err as fs;

use super::apt::{Archive, Candidate, is_usable};
use super::cache::{Cache, says_disk_full, unfinished};
use super::error::KernelError;
use super::process::{command, failure, output_of, stdout_of};
use super::progress::Ui;
use super::source::remove_if_there;

/// The architecture of the images, as Debian calls it.
const ARCH: &str = "amd64";

/// An unpacked image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Prebuilt {
    /// The image.
    pub bzimage: PathBuf,
    /// `lib/modules/RELEASE`, with `modules.dep`.
    pub modules_dir: PathBuf,
    /// Package and version.
    pub identity: String,
}

/// Fetches the newest release that the archive has as an image.
///
/// # Errors
/// No Debian archive on this host, no network, disk full.
pub fn fetch(cache: &Cache, ui: &Ui) -> Result<Prebuilt, KernelError> {
    if !is_usable() {
        return Err(KernelError::MissingTool {
            what: "KERNEL=debian needs apt and Debian's archive keyring".to_owned(),
            next: "install debian-archive-keyring, or give KVER or KDIR to build a kernel"
                .to_owned(),
        });
    }
    let _lock = cache.lock("source", ui)?;
    let archive = Archive::open(cache)?;
    if !archive.is_fresh() {
        archive.update(ui)?;
    }
    let image = choose(&archive.candidates("linux-image-")?)?;
    let dir = cache
        .dir("prebuilt")?
        .join(format!("{}_{}", image.package, image.version));
    if !dir.exists() {
        unpack(&archive, &image, &dir, ui)?;
    }
    find(&dir, format!("{} {}", image.package, image.version))
}

/// The newest plain image: no cloud, real-time or debug flavour, no candidate.
fn choose(all: &[Candidate]) -> Result<Candidate, KernelError> {
    let plain = |candidate: &&Candidate| {
        flavour(&candidate.package).is_some()
            && !candidate.version.is_candidate()
            && candidate.suite != "experimental"
    };
    let newest = all
        .iter()
        .filter(plain)
        .max_by(|a, b| a.version.cmp(&b.version));
    newest.cloned().ok_or_else(|| KernelError::UnknownVersion {
        wanted: "image for KERNEL=debian".to_owned(),
        available: "none".to_owned(),
    })
}

/// The ABI part of `linux-image-7.2.13+deb14-amd64`; `None` for flavours.
fn flavour(package: &str) -> Option<&str> {
    let abi = package
        .strip_prefix("linux-image-")?
        .strip_suffix(ARCH)?
        .strip_suffix('-')?;
    let numbered = abi.starts_with(|first: char| first.is_ascii_digit());
    (numbered && !abi.contains('-')).then_some(abi)
}

fn unpack(archive: &Archive, image: &Candidate, dir: &Path, ui: &Ui) -> Result<(), KernelError> {
    let temporary = unfinished(dir);
    remove_if_there(&temporary)?;
    fs::create_dir_all(&temporary)?;
    let depends = archive.depends(image)?;
    let mut files = Vec::new();
    for package in std::iter::once(image.package.clone()).chain(parts(&depends)) {
        let part = Candidate {
            package,
            ..image.clone()
        };
        files.push(archive.download(&part, ui)?);
    }
    for file in &files {
        let mut dpkg = command("dpkg-deb");
        let output = output_of(dpkg.arg("-x").arg(file).arg(&temporary))?;
        let errors = String::from_utf8_lossy(&output.stderr);
        if says_disk_full(&errors) {
            remove_if_there(&temporary)?;
            return Err(KernelError::DiskFull { path: temporary });
        }
        if !output.status.success() {
            return Err(failure(&dpkg, output.status, &errors));
        }
    }
    // Packages put modules below usr/lib; virtme-ng and depmod look below lib.
    if !temporary.join("lib").exists() {
        fs::os::unix::fs::symlink("usr/lib", temporary.join("lib"))?;
    }
    let release = release_in(&temporary)?;
    stdout_of(command("depmod").arg("-b").arg(&temporary).arg(&release))?;
    fs::rename(&temporary, dir)?;
    for file in files {
        fs::remove_file(file)?;
    }
    Ok(())
}

/// The packages of the same source that an image is split into.
fn parts(depends: &str) -> Vec<String> {
    let names = depends
        .split([',', '|'])
        .filter_map(|dependency| dependency.split_whitespace().next());
    let belongs = |name: &&str| {
        ["linux-binary-", "linux-modules-", "linux-base-"]
            .iter()
            .any(|prefix| name.starts_with(prefix))
    };
    names.filter(belongs).map(str::to_owned).collect()
}

/// Packages have the image in `boot`, or, since Debian 14, beside the modules.
fn find(dir: &Path, identity: String) -> Result<Prebuilt, KernelError> {
    let release = release_in(dir)?;
    let modules_dir = dir.join("lib/modules").join(&release);
    let places = [
        modules_dir.join("vmlinuz"),
        dir.join(format!("boot/vmlinuz-{release}")),
    ];
    let bzimage = places.into_iter().find(|path| path.is_file());
    let bzimage = bzimage.ok_or_else(|| KernelError::NotAnImage {
        path: dir.to_owned(),
        why: "the packages hold no vmlinuz".to_owned(),
    })?;
    Ok(Prebuilt {
        bzimage,
        modules_dir,
        identity,
    })
}

/// The one release that has modules below `dir`.
fn release_in(dir: &Path) -> Result<String, KernelError> {
    let mut names = fs::read_dir(dir.join("lib/modules"))?
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    names.next().ok_or_else(|| KernelError::NotAnImage {
        path: dir.to_owned(),
        why: "the packages hold no modules".to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use test_case::test_case;

    use super::super::version::DebianVersion;
    use super::*;

    #[test_case("linux-image-7.2.13+deb14-amd64", Some("7.2.13+deb14") ; "plain")]
    #[test_case("linux-image-7.2.13+deb14-cloud-amd64", None ; "cloud")]
    #[test_case("linux-image-7.2.13+deb14-rt-amd64", None ; "real time")]
    #[test_case("linux-image-7.2.13+deb14-amd64-dbg", None ; "debug symbols")]
    #[test_case("linux-image-7.2.13+deb14-amd64-unsigned", None ; "unsigned twin")]
    #[test_case("linux-image-amd64", None ; "meta package")]
    fn plain_images_are_told_from_flavours(package: &str, abi: Option<&str>) {
        assert_eq!(flavour(package), abi);
    }

    #[test]
    fn newest_release_is_chosen() {
        let candidates = [
            ("linux-image-7.3-amd64", "7.3~rc7-1~exp1", "experimental"),
            (
                "linux-image-7.2.9+deb13-amd64",
                "7.2.9-1~bpo13+1",
                "trixie-backports",
            ),
            ("linux-image-7.2.13+deb14-amd64", "7.2.13-1", "sid"),
        ]
        .map(|(package, version, suite)| Candidate {
            package: package.to_owned(),
            version: DebianVersion::new(version),
            suite: suite.to_owned(),
        });
        assert_eq!(choose(&candidates).unwrap().version.as_str(), "7.2.13-1");
        assert!(choose(&candidates[..1]).is_err());
    }

    #[test]
    fn parts_of_a_split_image_are_found_among_its_dependencies() {
        let depends = "dracut | initramfs-tools (>= 0.120) | linux-initramfs-tool, \
            linux-base-7.2.13+deb14-amd64 (= 7.2.13-1), linux-binary-7.2.13+deb14-amd64 (= 7.2.13-1), \
            linux-modules-7.2.13+deb14-amd64 (= 7.2.13-1)";
        assert_eq!(
            parts(depends),
            [
                "linux-base-7.2.13+deb14-amd64",
                "linux-binary-7.2.13+deb14-amd64",
                "linux-modules-7.2.13+deb14-amd64"
            ]
        );
        assert!(parts("kmod, linux-base (>= 4.3~)").is_empty());
    }

    #[test]
    fn image_is_found_beside_the_modules_and_in_boot() {
        for place in [
            "lib/modules/7.2.13+deb14-amd64/vmlinuz",
            "boot/vmlinuz-7.2.13+deb14-amd64",
        ] {
            let dir = tempfile::tempdir().unwrap();
            let modules = dir.path().join("lib/modules/7.2.13+deb14-amd64");
            fs::create_dir_all(&modules).unwrap();
            fs::create_dir_all(dir.path().join("boot")).unwrap();
            assert!(find(dir.path(), String::new()).is_err(), "no image yet");
            fs::write(dir.path().join(place), "").unwrap();
            let found = find(dir.path(), String::new()).unwrap();
            assert_eq!(found.bzimage, dir.path().join(place));
            assert_eq!(found.modules_dir, modules);
        }
    }
}
