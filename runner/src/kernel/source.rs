// SPDX-License-Identifier: GPL-2.0-only
//! Where a kernel's source comes from: a tree of the user's, Debian's archive,
//! or the release tarball. Fetched sources are kept in the cache, whole or not
//! at all.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use fs_err as fs;

use super::apt::{Archive, Candidate, is_usable};
use super::cache::{Cache, says_disk_full, unfinished, write_whole};
use super::error::KernelError;
use super::process::{command, failure, stdout_of};
use super::progress::Ui;
use super::tarball;
use super::version::Wanted;

/// A source tree, ready to build from. It is never written to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// The top of the tree.
    pub path: PathBuf,
    /// What it is, for reports: `linux-source-7.3 7.3.4-1` or a git commit.
    pub identity: String,
    /// What a build of it is filed under: the version of a fetched tree, which
    /// never changes; the path of a user's tree, whose edits build incrementally.
    pub key: String,
    /// Whether the tree may change between two builds.
    pub editable: bool,
}

/// Files that every kernel tree has had since 2.6.
const MARKS: &[&str] = &["Kbuild", "MAINTAINERS", "scripts/kconfig/Makefile"];

/// A tree of the user's.
///
/// # Errors
/// [`KernelError::NotATree`] when it is not one.
pub fn tree(path: &Path) -> Result<Source, KernelError> {
    let missing = |missing| KernelError::NotATree {
        path: path.to_owned(),
        missing,
    };
    let top = fs::canonicalize(path).map_err(|_| missing("the folder itself"))?;
    if let Some(mark) = MARKS.iter().find(|mark| !top.join(mark).exists()) {
        return Err(missing(mark));
    }
    let shown = top.display().to_string();
    let identity =
        git_identity(&top).map_or_else(|| shown.clone(), |git| format!("{shown} at {git}"));
    Ok(Source {
        path: top,
        identity,
        key: format!("tree {shown}"),
        editable: true,
    })
}

/// The commit of a git tree, with `-dirty` when it has local changes.
fn git_identity(top: &Path) -> Option<String> {
    // A tree of another user is fine to look at; optional locks would write
    // into a tree that must not be written to.
    let mut git = command("git");
    git.env("GIT_OPTIONAL_LOCKS", "0").arg("-C").arg(top);
    git.args([
        "-c",
        "safe.directory=*",
        "describe",
        "--always",
        "--dirty",
        "--abbrev=12",
    ]);
    Some(stdout_of(&mut git).ok()?.trim().to_owned()).filter(|text| !text.is_empty())
}

/// Fetches a version, or the newest stable one, unless the cache has it.
///
/// # Errors
/// Unknown version, no network, disk full; what was downloaded is kept and the
/// next call goes on from there.
pub fn fetch(cache: &Cache, wanted: Option<&Wanted>, ui: &Ui) -> Result<Source, KernelError> {
    let _lock = cache.lock("source", ui)?;
    if !is_usable() {
        return tarball::fetch(cache, wanted, ui);
    }
    match fetch_from_archive(cache, wanted, ui) {
        Err(KernelError::UnknownVersion {
            wanted: version,
            available,
        }) => {
            ui.step(&format!(
                "{version} is not in Debian's archive, trying kernel.org"
            ));
            tarball::fetch(cache, wanted, ui).map_err(|_| KernelError::UnknownVersion {
                wanted: version,
                available,
            })
        }
        other => other,
    }
}

fn fetch_from_archive(
    cache: &Cache,
    wanted: Option<&Wanted>,
    ui: &Ui,
) -> Result<Source, KernelError> {
    let archive = Archive::open(cache)?;
    let mut updated = false;
    if !archive.is_fresh() {
        if let Err(error) = archive.update(ui) {
            return newest_in_cache(cache, wanted, ui).ok_or(error);
        }
        updated = true;
    }
    let all = archive.candidates("linux-source-")?;
    let candidate = match choose(&all, wanted) {
        Err(_) if !updated => {
            archive.update(ui)?;
            updated = true;
            choose(&archive.candidates("linux-source-")?, wanted)?
        }
        other => other?,
    };
    match unpacked(cache, &archive, &candidate, ui) {
        // Versions vanish from mirrors while our lists still name them.
        Err(KernelError::Download { .. }) if !updated => {
            archive.update(ui)?;
            let candidate = choose(&archive.candidates("linux-source-")?, wanted)?;
            unpacked(cache, &archive, &candidate, ui)
        }
        other => other,
    }
}

/// The newest wanted version; without a wish, the newest that is a release.
fn choose(all: &[Candidate], wanted: Option<&Wanted>) -> Result<Candidate, KernelError> {
    let sources = all.iter().filter(|c| is_source_package(&c.package));
    let fits = |c: &&Candidate| match wanted {
        Some(wanted) => wanted.matches(&c.version),
        None => !c.version.is_candidate() && c.suite != "experimental",
    };
    // A series may have candidates and releases; "7.3" then means the release,
    // which the order of versions gives.
    sources
        .filter(fits)
        .max_by(|a, b| a.version.cmp(&b.version))
        .cloned()
        .ok_or_else(|| KernelError::UnknownVersion {
            wanted: wanted.map_or("stable release".to_owned(), Wanted::to_string),
            available: list(all),
        })
}

/// Whether it is `linux-source-X.Y` and not one of its relatives.
fn is_source_package(package: &str) -> bool {
    package
        .strip_prefix("linux-source-")
        .is_some_and(|rest| Wanted::parse(rest).is_ok())
}

fn list(all: &[Candidate]) -> String {
    let mut versions: Vec<_> = all
        .iter()
        .filter(|c| is_source_package(&c.package))
        .collect();
    versions.sort_by(|a, b| b.version.cmp(&a.version));
    let mut names: Vec<String> = versions
        .iter()
        .map(|c| format!("{} ({})", c.version.upstream().replace('~', "-"), c.suite))
        .collect();
    names.dedup();
    names.join(", ")
}

/// The wanted version as an unpacked tree in the cache.
fn unpacked(
    cache: &Cache,
    archive: &Archive,
    candidate: &Candidate,
    ui: &Ui,
) -> Result<Source, KernelError> {
    let dir = cache
        .dir("src")?
        .join(format!("{}_{}", candidate.package, candidate.version));
    let source = of_cached(
        &dir,
        &format!("{} {}", candidate.package, candidate.version),
    );
    if dir.exists() {
        return Ok(source);
    }
    let package = archive.download(candidate, ui)?;
    ui.step(&format!("unpacking {}", candidate.package));
    let temporary = unfinished(&dir);
    remove_if_there(&temporary)?;
    fs::create_dir_all(&temporary)?;
    let inner = format!("./usr/src/{}.tar.xz", candidate.package);
    // Streamed: neither the tarball inside the package nor a second copy of
    // the tree ever lies on the disk.
    let script = r#"set -o pipefail; dpkg-deb --fsys-tarfile "$1" | tar -xO -f - "$2" | xz -dc -T0 | tar -x -f - --strip-components=1 -C "$3""#;
    let mut bash = command("bash");
    bash.args(["-c", script, "unpack"])
        .arg(&package)
        .arg(&inner)
        .arg(&temporary);
    let output = bash.stdout(Stdio::null()).output()?;
    let errors = String::from_utf8_lossy(&output.stderr);
    if says_disk_full(&errors) {
        remove_if_there(&temporary)?;
        return Err(KernelError::DiskFull { path: temporary });
    }
    if !output.status.success() {
        return Err(failure(&bash, output.status, &errors));
    }
    tree(&temporary)?;
    fs::rename(&temporary, &dir)?;
    fs::remove_file(&package)?;
    Ok(source)
}

/// Removes what an interrupted run left behind.
pub fn remove_if_there(dir: &Path) -> Result<(), KernelError> {
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error.into()),
        _ => Ok(()),
    }
}

/// A tree of the cache.
pub fn of_cached(dir: &Path, identity: &str) -> Source {
    Source {
        path: dir.to_owned(),
        identity: identity.to_owned(),
        key: identity.to_owned(),
        editable: false,
    }
}

/// Without a network, what the cache has is better than nothing.
fn newest_in_cache(cache: &Cache, wanted: Option<&Wanted>, ui: &Ui) -> Option<Source> {
    let entries = fs::read_dir(cache.dir("src").ok()?).ok()?;
    let have = entries.filter_map(|entry| {
        let path = entry.ok()?.path();
        let name = path.file_name()?.to_str()?.to_owned();
        let (package, version) = name.split_once('_')?;
        (!name.ends_with(".unpacking")).then_some(())?;
        Some(Candidate {
            package: package.to_owned(),
            version: super::version::DebianVersion::new(version),
            suite: "cache".to_owned(),
        })
    });
    let found = choose(&have.collect::<Vec<_>>(), wanted).ok()?;
    ui.step(&format!(
        "no network; using {} {} from the cache",
        found.package, found.version
    ));
    let dir = cache
        .root()
        .join("src")
        .join(format!("{}_{}", found.package, found.version));
    Some(of_cached(
        &dir,
        &format!("{} {}", found.package, found.version),
    ))
}

/// Remembers next to a tree what it is; unused parts of the cache are easier
/// to recognise then.
pub fn describe(source: &Source, build: &Path) -> Result<(), KernelError> {
    write_whole(&build.join("hugeprobe-source"), source.identity.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::super::version::DebianVersion;
    use super::*;

    fn archive() -> Vec<Candidate> {
        [
            ("linux-source-7.3", "7.3~rc7-1~exp1", "experimental"),
            ("linux-source-7.3", "7.3.4-1~bpo13+1", "trixie-backports"),
            ("linux-source-7.2", "7.2.13-1", "sid"),
            ("linux-source-7.2", "7.2.9-1~bpo13+1", "trixie-backports"),
            ("linux-source-7.4", "7.4~rc1-1~exp1", "experimental"),
            ("linux-source-7.5", "7.5.1-1~exp1", "experimental"),
            ("linux-source-rt", "9.9-1", "sid"),
        ]
        .map(|(package, version, suite)| Candidate {
            package: package.to_owned(),
            version: DebianVersion::new(version),
            suite: suite.to_owned(),
        })
        .to_vec()
    }

    fn chosen(wanted: Option<&str>) -> String {
        let wanted = wanted.map(|text| Wanted::parse(text).unwrap());
        choose(&archive(), wanted.as_ref())
            .unwrap()
            .version
            .to_string()
    }

    #[test]
    fn default_is_the_newest_release_outside_experimental() {
        assert_eq!(chosen(None), "7.3.4-1~bpo13+1");
    }

    #[test]
    fn series_means_its_newest_version() {
        assert_eq!(chosen(Some("7.2")), "7.2.13-1");
        assert_eq!(chosen(Some("7.3")), "7.3.4-1~bpo13+1");
        assert_eq!(chosen(Some("7.4")), "7.4~rc1-1~exp1");
        assert_eq!(chosen(Some("7.2.9")), "7.2.9-1~bpo13+1");
    }

    #[test]
    fn unknown_version_lists_what_there_is() {
        let wanted = Wanted::parse("6.9").unwrap();
        let text = choose(&archive(), Some(&wanted))
            .expect_err("not there")
            .to_string();
        assert!(
            text.contains("no kernel 6.9") && text.contains("7.2.13 (sid)"),
            "{text}"
        );
        assert!(
            text.contains("7.3-rc7 (experimental)") && !text.contains("9.9"),
            "{text}"
        );
    }

    #[test]
    fn folder_that_is_no_tree_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let text = tree(dir.path()).expect_err("empty folder").to_string();
        assert!(
            text.contains("Kbuild is missing") && text.contains("KDIR"),
            "{text}"
        );
        let text = tree(&dir.path().join("none"))
            .expect_err("no folder")
            .to_string();
        assert!(text.contains("the folder itself is missing"), "{text}");
    }

    #[test]
    fn cached_trees_serve_without_a_network() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::at(dir.path()).unwrap();
        for name in [
            "linux-source-7.2_7.2.13-1",
            "linux-source-7.3_7.3.4-1.unpacking",
        ] {
            fs::create_dir_all(cache.dir("src").unwrap().join(name)).unwrap();
        }
        let found = newest_in_cache(&cache, None, &Ui::silent()).unwrap();
        assert_eq!(found.identity, "linux-source-7.2 7.2.13-1");
    }
}
