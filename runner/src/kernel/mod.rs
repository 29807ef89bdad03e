// SPDX-License-Identifier: GPL-2.0-only
//! From "which kernel" to an image that boots.
//!
//! Stages, each of which can be entered alone: [`fetch`] (a tree, an archive or
//! a tarball), [`config`] (fragments, verified), [`prepare`] (all of it, with the
//! build). What is done once is kept in the [`cache::Cache`].

mod apt;
mod build;
pub mod cache;
mod config;
mod dotconfig;
mod error;
mod expr;
mod image;
mod kconfig;
mod prebuilt;
pub mod process;
pub mod profile;
pub mod progress;
mod shadow;
mod source;
mod tarball;
pub mod tools;
mod version;
pub mod virtme;

use std::path::{Path, PathBuf};

use serde::Serialize;

pub use self::error::KernelError;
pub use self::source::Source;

use self::cache::Cache;
use self::profile::{Profile, WantedModule};
use self::progress::Ui;
use self::version::Wanted;

/// Which kernel is wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// `KDIR`: a tree to build, which is never written to.
    Tree(PathBuf),
    /// `KERNEL`: an image to boot as it is.
    Image(PathBuf),
    /// `KERNEL=debian`: the archive's own image.
    DebianImage,
    /// `KVER`: a version to fetch and build; `None` for the newest release.
    Version(Option<String>),
}

/// A wish for a kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// Which.
    pub origin: Origin,
    /// The profile's name; decides the configuration of what is built, and the
    /// boot arguments and memory of what is booted.
    pub profile: String,
    /// Build jobs; `None` for one per CPU.
    pub jobs: Option<usize>,
}

/// A kernel that can be booted.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Kernel {
    /// The image.
    pub bzimage: PathBuf,
    /// With symbols and line numbers, for decoding; not every image has one.
    pub vmlinux: Option<PathBuf>,
    /// Its `.config`.
    pub config: Option<PathBuf>,
    /// `lib/modules/RELEASE`, when it has modules that a boot needs.
    pub modules_dir: Option<PathBuf>,
    /// Build folder that out-of-tree modules can be built against.
    pub build_dir: Option<PathBuf>,
    /// The source tree, when it is at hand.
    pub source: Option<PathBuf>,
    /// What `uname -r` will say.
    pub release: String,
    /// For reports.
    pub identity: Identity,
    /// Kernel command line that the profile asks for.
    pub boot_args: Vec<String>,
    /// Memory of the guest in MiB.
    pub memory_mib: u64,
    /// Modules that the guest loads if the kernel has them as modules.
    pub modules: Vec<WantedModule>,
}

/// What a kernel is, precisely enough to get it again.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Identity {
    /// Package and version, tree and commit, or path of the image.
    pub source: String,
    /// The profile it was configured for; empty for a given image.
    pub profile: String,
    /// First line of `gcc --version`; empty for a given image.
    pub compiler: String,
    /// Digest of its `.config`; empty when that is unknown.
    pub config: String,
}

/// Gets the source: fetched, or the user's tree checked.
///
/// # Errors
/// As [`source::tree`] and [`source::fetch`].
pub fn fetch(cache: &Cache, origin: &Origin, ui: &Ui) -> Result<Source, KernelError> {
    match origin {
        Origin::Tree(path) => source::tree(path),
        Origin::Version(version) => {
            let wanted = version.as_deref().map(Wanted::parse).transpose()?;
            source::fetch(cache, wanted.as_ref(), ui)
        }
        Origin::Image(path) => Err(KernelError::NotATree {
            path: path.clone(),
            missing: "Kbuild",
        }),
        Origin::DebianImage => Err(KernelError::NotATree {
            path: PathBuf::from("debian"),
            missing: "Kbuild",
        }),
    }
}

/// Gets the source and configures it; returns the `.config`.
///
/// # Errors
/// As [`fetch`]; an option that did not survive.
pub fn config(cache: &Cache, request: &Request, ui: &Ui) -> Result<PathBuf, KernelError> {
    let profile = profile::find(&request.profile)?;
    tools::require_build_tools(ui)?;
    let source = fetch(cache, &request.origin, ui)?;
    build::config(cache, &source, &profile, ui)
}

/// Does whatever is needed until the kernel can be booted.
///
/// # Errors
/// Any [`KernelError`]; its [`KernelError::exit`] is the command's exit code.
pub fn prepare(cache: &Cache, request: &Request, ui: &Ui) -> Result<Kernel, KernelError> {
    let profile = profile::find(&request.profile)?;
    match &request.origin {
        Origin::Image(path) => given(cache, path, &profile),
        Origin::DebianImage => debian(cache, &profile, ui),
        Origin::Tree(_) | Origin::Version(_) => {
            tools::require_build_tools(ui)?;
            let source = fetch(cache, &request.origin, ui)?;
            let cpus = || std::thread::available_parallelism().map_or(1, usize::from);
            let jobs = request.jobs.unwrap_or_else(cpus);
            let built = build::build(cache, &source, &profile, jobs, ui)?;
            of_build(&source, &profile, &built)
        }
    }
}

fn of_build(
    source: &Source,
    profile: &Profile,
    built: &build::Built,
) -> Result<Kernel, KernelError> {
    let image = image::open(&built.bzimage)?;
    let config = built.dir.join(".config");
    let identity = Identity {
        source: source.identity.clone(),
        profile: profile.name.clone(),
        compiler: built.compiler.clone(),
        config: digest_of(Some(&config))?,
    };
    Ok(Kernel {
        vmlinux: Some(built.dir.join("vmlinux")),
        config: Some(config),
        build_dir: Some(built.dir.clone()),
        source: Some(source.path.clone()),
        ..plain(image, identity, profile)
    })
}

fn given(cache: &Cache, path: &Path, profile: &Profile) -> Result<Kernel, KernelError> {
    let image = image::open(path)?;
    let config = image::config(cache, &image)?;
    let build_dir = image::beside(&image, "Module.symvers", "Module.symvers")
        .and_then(|file| file.parent().map(Path::to_path_buf));
    let source = image::beside(&image, "source/Kbuild", "source")
        .and_then(|file| file.parent().map(Path::to_path_buf));
    let identity = Identity {
        source: image.path.display().to_string(),
        profile: String::new(),
        compiler: String::new(),
        config: digest_of(config.as_deref())?,
    };
    let vmlinux = image::beside(&image, "vmlinux", "vmlinux");
    Ok(Kernel {
        vmlinux,
        config,
        build_dir,
        source,
        ..plain(image, identity, profile)
    })
}

fn debian(cache: &Cache, profile: &Profile, ui: &Ui) -> Result<Kernel, KernelError> {
    tools::require_guest_tools(ui)?;
    let prebuilt = prebuilt::fetch(cache, ui)?;
    let kernel = given(cache, &prebuilt.bzimage, profile)?;
    let identity = Identity {
        source: prebuilt.identity,
        ..kernel.identity
    };
    Ok(Kernel {
        modules_dir: Some(prebuilt.modules_dir),
        identity,
        ..kernel
    })
}

/// An image and what its profile wants; everything else unknown.
fn plain(image: image::Image, identity: Identity, profile: &Profile) -> Kernel {
    Kernel {
        bzimage: image.path,
        vmlinux: None,
        config: None,
        modules_dir: None,
        build_dir: None,
        source: None,
        release: image.release,
        identity,
        boot_args: profile.boot.clone(),
        memory_mib: profile.memory_mib,
        modules: profile.modules.clone(),
    }
}

fn digest_of(config: Option<&Path>) -> Result<String, KernelError> {
    let text = config.map(fs_err::read_to_string).transpose()?;
    Ok(text.map_or(String::new(), |text| cache::digest(&[&text])))
}
