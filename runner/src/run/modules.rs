// SPDX-License-Identifier: GPL-2.0-only
//! Builds our kernel modules against the kernel that will be booted.

use std::path::{Path, PathBuf};

use super::Layout;
use crate::kernel::Kernel;
use crate::kernel::cache::{Cache, digest};
use crate::kernel::process;

/// Why there is no module. The run goes on without it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A given image comes without its build folder.
    #[error("no build folder to build {0} against; give KDIR= or KVER= instead of KERNEL=")]
    NoBuild(String),
    /// The sources are not there, or the cache cannot be written.
    #[error(transparent)]
    Io(#[from] std::io::Error),
    /// The cache cannot be used.
    #[error(transparent)]
    Cache(#[from] crate::kernel::KernelError),
    /// It did not compile.
    #[error("module {name} did not build; see {}", log.display())]
    Build {
        /// The module.
        name: String,
        /// The compiler's words.
        log: PathBuf,
    },
}

/// The module `name` of `vm/modules`, built for `kernel`. Kept in the cache by
/// kernel and sources.
pub fn build(
    cache: &Cache,
    layout: &Layout,
    kernel: &Kernel,
    name: &str,
) -> Result<PathBuf, Error> {
    let build_dir = kernel
        .build_dir
        .as_ref()
        .ok_or_else(|| Error::NoBuild(name.into()))?;
    let sources = sources(&layout.data().join("vm/modules").join(name))?;
    let texts: Vec<&str> = sources.iter().map(|(_, text)| text.as_str()).collect();
    let build = build_dir.display().to_string();
    // A rebuilt kernel may have another layout of its structures.
    let built = fs_err::metadata(&kernel.bzimage)?.modified()?;
    let stamp = format!("{built:?}");
    let key = digest(&[[build.as_str(), stamp.as_str()].as_slice(), &texts].concat());
    let dir = cache.dir("modules")?.join(format!("{name}-{key}"));
    let module = dir.join(format!("{name}.ko"));
    if module.is_file() {
        return Ok(module);
    }
    // Each process builds in a folder of its own; the first to finish wins.
    let work = tempfile::tempdir_in(cache.dir("modules")?)?;
    for (file, text) in &sources {
        fs_err::write(work.path().join(file), text)?;
    }
    let log = cache.dir("modules")?.join(format!("{name}.log"));
    let status = make(build_dir, work.path(), &log)?;
    if !status.success() || !work.path().join(format!("{name}.ko")).is_file() {
        return Err(Error::Build {
            name: name.into(),
            log,
        });
    }
    let work = work.keep();
    if fs_err::rename(&work, &dir).is_err() {
        fs_err::remove_dir_all(&work)?;
    }
    Ok(module)
}

/// Name and text of each source file.
fn sources(dir: &Path) -> Result<Vec<(PathBuf, String)>, Error> {
    let mut sources = Vec::new();
    for entry in fs_err::read_dir(dir)? {
        let entry = entry?;
        sources.push((
            entry.file_name().into(),
            fs_err::read_to_string(entry.path())?,
        ));
    }
    sources.sort();
    Ok(sources)
}

fn make(build_dir: &Path, work: &Path, log: &Path) -> std::io::Result<std::process::ExitStatus> {
    let out = fs_err::File::create(log)?.into_file();
    process::make()
        .arg("-C")
        .arg(build_dir)
        .arg(format!("M={}", work.display()))
        .arg("modules")
        .stdout(out.try_clone()?)
        .stderr(out)
        .status()
}
