// SPDX-License-Identifier: GPL-2.0-only
//! Builds a configured kernel out of tree, in a folder of the cache that is
//! filed under source, configuration and compiler. `make` decides what is to be
//! done, so an interrupted build resumes and an edited tree builds what changed.

use std::io::Write;
use std::path::{Path, PathBuf};

use fs_err as fs;

use super::cache::{Cache, digest, says_disk_full, write_whole};
use super::config::{configure, make};
use super::dotconfig::merged_fragment;
use super::error::KernelError;
use super::process::{command, describe, stdout_of, stream, tail};
use super::profile::Profile;
use super::progress::Ui;
use super::shadow;
use super::source::Source;

/// Where make leaves the image.
const BZIMAGE: &str = "arch/x86/boot/bzImage";

/// Written when a build is complete.
const STAMP: &str = "hugeprobe-built";

/// Lines that make prints for a whole build of a profile which was never built
/// here; measured with 7.3.4 and profile selftest.
const USUAL_STEPS: u64 = 2300;

/// A finished build.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Built {
    /// The build folder: `.config`, `vmlinux`, modules and image.
    pub dir: PathBuf,
    /// The image.
    pub bzimage: PathBuf,
    /// First line of `gcc --version`.
    pub compiler: String,
}

/// The configured, not yet built kernel: its `.config`.
///
/// # Errors
/// As [`super::config::configure`].
pub fn config(
    cache: &Cache,
    source: &Source,
    profile: &Profile,
    ui: &Ui,
) -> Result<PathBuf, KernelError> {
    let compiler = compiler()?;
    let name = folder_name(source, profile, &compiler)?;
    let _lock = cache.lock(&name, ui)?;
    let dir = cache.dir("build")?.join(name);
    let tree = shadow::clean_tree(cache, source, ui)?;
    configure(&tree, &dir, profile, ui)?;
    Ok(dir.join(".config"))
}

/// Builds image, `vmlinux` and modules.
///
/// # Errors
/// [`KernelError::Build`] with the compiler's message; configuration errors;
/// [`KernelError::DiskFull`].
pub fn build(
    cache: &Cache,
    source: &Source,
    profile: &Profile,
    jobs: usize,
    ui: &Ui,
) -> Result<Built, KernelError> {
    let compiler = compiler()?;
    let name = folder_name(source, profile, &compiler)?;
    let _lock = cache.lock(&name, ui)?;
    let dir = cache.dir("build")?.join(&name);
    let built = Built {
        bzimage: dir.join(BZIMAGE),
        dir,
        compiler,
    };
    let complete = built.dir.join(STAMP).exists() && built.bzimage.exists();
    if complete && !source.editable {
        return Ok(built);
    }
    let tree = shadow::clean_tree(cache, source, ui)?;
    configure(&tree, &built.dir, profile, ui)?;
    super::source::describe(source, &built.dir)?;
    if complete {
        fs::remove_file(built.dir.join(STAMP))?;
    }
    let steps = run_make(&tree, &built.dir, profile, jobs, complete, ui)?;
    if !built.bzimage.exists() {
        let log = built.dir.join("build.log");
        return Err(KernelError::Build {
            excerpt: format!("make wrote no {BZIMAGE}"),
            log,
        });
    }
    if !complete {
        write_whole(
            &built.dir.join("hugeprobe-steps"),
            steps.to_string().as_bytes(),
        )?;
    }
    write_whole(&built.dir.join(STAMP), b"")?;
    Ok(built)
}

/// One make for everything; returns how many steps it took, with those of an
/// earlier, interrupted build.
fn run_make(
    tree: &Path,
    dir: &Path,
    profile: &Profile,
    jobs: usize,
    complete: bool,
    ui: &Ui,
) -> Result<u64, KernelError> {
    let mut make = make(tree, dir, profile);
    make.arg(format!("-j{jobs}")).args(["bzImage", "modules"]);
    make.env("KBUILD_BUILD_USER", "hugeprobe")
        .env("KBUILD_BUILD_HOST", "hugeprobe");
    make.args(cached_compiler());
    ui.step(&format!("building {} with {jobs} jobs", dir.display()));
    if ui.verbose {
        ui.step(&describe(&make));
    }
    let mut log = Log::open(dir, complete)?;
    // An incremental build does a few steps of many: nobody knows how many.
    let total = if complete { 0 } else { expected_steps(dir) };
    let mut task = ui.task("build", total);
    let status = stream(&mut make, |line| {
        let Some(line) = line else { return };
        if ui.verbose {
            eprintln!("{line}");
        }
        if let Some(file) = log.take(line) {
            task.at(log.steps, file);
        }
    })?;
    drop(task);
    if log.is_disk_full || (!status.success() && says_disk_full(&log.messages)) {
        return Err(KernelError::DiskFull {
            path: dir.to_owned(),
        });
    }
    if !status.success() {
        let excerpt = excerpt(&log.messages);
        return Err(KernelError::Build {
            excerpt,
            log: log.path,
        });
    }
    Ok(log.steps)
}

/// `build.log`, and what is read from it meanwhile.
struct Log {
    path: PathBuf,
    file: fs::File,
    /// Steps so far, those of an interrupted build included.
    steps: u64,
    /// What make and the compiler said beside the steps.
    messages: String,
    is_disk_full: bool,
}

impl Log {
    /// Goes on with the log of an interrupted build, begins anew after a
    /// complete one.
    fn open(dir: &Path, complete: bool) -> Result<Self, KernelError> {
        let path = dir.join("build.log");
        let earlier = match complete {
            true => String::new(),
            false => fs::read_to_string(&path).unwrap_or_default(),
        };
        let mut options = fs::OpenOptions::new();
        options
            .create(true)
            .write(true)
            .append(!complete)
            .truncate(complete);
        Ok(Self {
            file: options.open(&path)?,
            path,
            steps: earlier.lines().filter_map(step_of).count() as u64,
            messages: String::new(),
            is_disk_full: false,
        })
    }

    /// Writes a line; returns the file that it is about if it is a step.
    fn take<'a>(&mut self, line: &'a str) -> Option<&'a str> {
        if let Err(error) = writeln!(self.file, "{line}") {
            self.is_disk_full |= error.kind() == std::io::ErrorKind::StorageFull;
        }
        let step = step_of(line);
        match step {
            Some(_) => self.steps += 1,
            None => {
                self.messages.push_str(line);
                self.messages.push('\n');
            }
        }
        step
    }
}

/// The file that a line of make's output is about, when it is a step:
/// two blanks, a short name, blanks, the file.
fn step_of(line: &str) -> Option<&str> {
    let (verb, file) = line.strip_prefix("  ")?.split_once(' ')?;
    let is_verb = !verb.is_empty()
        && verb
            .bytes()
            .all(|b| b.is_ascii_uppercase() || b"_[]+".contains(&b));
    is_verb.then(|| file.trim())
}

/// Steps of the last whole build in this folder or of one beside it.
fn expected_steps(dir: &Path) -> u64 {
    let remembered = |dir: &Path| -> Option<u64> {
        fs::read_to_string(dir.join("hugeprobe-steps"))
            .ok()?
            .parse()
            .ok()
    };
    let beside = || {
        let entries = fs::read_dir(dir.parent()?).ok()?;
        entries
            .filter_map(|entry| remembered(&entry.ok()?.path()))
            .max()
    };
    remembered(dir).or_else(beside).unwrap_or(USUAL_STEPS)
}

/// The part of make's output that says why it failed.
fn excerpt(output: &str) -> String {
    const TELLING: &[&str] = &[
        "error:",
        "undefined reference",
        "multiple definition",
        "No rule to make",
        "ERROR: modpost",
        "not clean",
    ];
    let telling = |line: &str| TELLING.iter().any(|mark| line.contains(mark));
    let lines: Vec<&str> = output.lines().collect();
    let Some(first) = lines.iter().position(|line| telling(line)) else {
        return tail(output, 12);
    };
    // The compiler quotes the line and points into it below its message; the
    // function it is in stands above.
    let start = first.saturating_sub(1);
    lines[start..lines.len().min(start + 14)].join("\n")
}

/// First line of the compiler's `--version`.
fn compiler() -> Result<String, KernelError> {
    let from_environment = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    let llvm = from_environment("LLVM").map(|_| "clang".to_owned());
    let name = from_environment("CC")
        .or(llvm)
        .unwrap_or_else(|| "gcc".to_owned());
    let mut words = name.split_whitespace();
    let mut version = command(words.next().unwrap_or("gcc"));
    let text = stdout_of(version.args(words).arg("--version"))?;
    Ok(text.lines().next().unwrap_or_default().to_owned())
}

/// `CC=` for make when ccache is installed and the user chose no compiler.
fn cached_compiler() -> Option<String> {
    let chosen = ["CC", "LLVM"]
        .iter()
        .any(|name| std::env::var_os(name).is_some());
    (!chosen && super::tools::in_path("ccache").is_some()).then(|| "CC=ccache gcc".to_owned())
}

/// The name of the build folder: readable, and different for whatever must not
/// share objects. A user's tree is filed under its path, not its content.
fn folder_name(source: &Source, profile: &Profile, compiler: &str) -> Result<String, KernelError> {
    let fragment = merged_fragment(&profile.wishes()?);
    let cached = cached_compiler().unwrap_or_default();
    let hash = digest(&[
        &source.key,
        &fragment,
        &profile.make.join("\n"),
        compiler,
        &cached,
    ]);
    let last = source
        .path
        .file_name()
        .map(|name| name.to_string_lossy().into_owned());
    let readable: String = last
        .unwrap_or_default()
        .chars()
        .map(|c| {
            if c.is_ascii_alphanumeric() || ".-_".contains(c) {
                c
            } else {
                '-'
            }
        })
        .collect();
    // make takes no blanks or colons in O=.
    Ok(format!("{readable}-{}-{hash}", profile.name))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use test_case::test_case;

    use super::super::profile::find;
    use super::*;

    #[test_case("  CC      mm/huge_memory.o", Some("mm/huge_memory.o") ; "compile")]
    #[test_case("  LD [M]  lib/test_hmm.ko", Some("[M]  lib/test_hmm.ko") ; "module")]
    #[test_case("make[1]: Entering directory '/b'", None ; "make itself")]
    #[test_case("mm/x.c:1:2: error: foo", None ; "compiler")]
    #[test_case("    note: indented", None ; "indented text")]
    fn steps_are_recognised(line: &str, file: Option<&str>) {
        assert_eq!(step_of(line), file);
    }

    #[test]
    fn excerpt_shows_the_error_with_its_function() {
        let output = "mm/a.c: In function 'f':\nmm/a.c:3:5: error: 'x' undeclared\n    3 |     x = 1;\n      |     ^\n\
                      make[3]: *** [mm/a.o] Error 1\n";
        let text = excerpt(output);
        assert!(
            text.starts_with("mm/a.c: In function 'f':\nmm/a.c:3:5: error"),
            "{text}"
        );
        assert!(text.contains("x = 1;"));
    }

    #[test]
    fn excerpt_without_a_known_mark_is_the_end() {
        assert_eq!(excerpt("a\nb\n"), "a\nb");
    }

    fn source(path: &str, key: &str) -> Source {
        Source {
            path: PathBuf::from(path),
            identity: key.to_owned(),
            key: key.to_owned(),
            editable: true,
        }
    }

    #[test]
    fn folder_differs_for_whatever_must_not_share_objects() {
        let (selftest, kcov) = (find("selftest").unwrap(), find("kcov").unwrap());
        let name = |path: &str, profile: &Profile, compiler: &str| {
            folder_name(&source(path, path), profile, compiler).unwrap()
        };
        let first = name("/src/linux", &selftest, "gcc 12");
        assert_eq!(first, name("/src/linux", &selftest, "gcc 12"));
        assert_ne!(first, name("/other/linux", &selftest, "gcc 12"));
        assert_ne!(first, name("/src/linux", &kcov, "gcc 12"));
        assert_ne!(first, name("/src/linux", &selftest, "gcc 13"));
    }

    #[test]
    fn folder_name_suits_make() {
        let name =
            folder_name(&source("/a/my tree: x", "k"), &find("lean").unwrap(), "gcc").unwrap();
        assert!(
            !name.contains([' ', ':', '/']) && name.starts_with("my-tree--x-lean-"),
            "{name}"
        );
    }

    #[test]
    fn expected_steps_come_from_a_neighbour() {
        let dir = tempfile::tempdir().unwrap();
        let new = dir.path().join("new");
        assert_eq!(expected_steps(&new), USUAL_STEPS);
        fs::create_dir_all(dir.path().join("old")).unwrap();
        fs::write(dir.path().join("old/hugeprobe-steps"), "123").unwrap();
        assert_eq!(expected_steps(Path::new(&new)), 123);
    }
}
