// SPDX-License-Identifier: GPL-2.0-only
//! A tree that was built in place refuses to be built out of tree ("the source
//! tree is not clean"), and `make mrproper` in it is not ours to run. Such a tree
//! is shadowed: a folder of symbolic links to its source files, without anything
//! that a build left behind. Edits show through the links.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use fs_err as fs;

use super::cache::{Cache, digest};
use super::error::KernelError;
use super::process::{command, failure, output_of};
use super::progress::Ui;
use super::source::Source;

/// What the kernel's top Makefile (target `outputmakefile`) looks for.
const DIRT: &[&str] = &[".config", "include/config", "arch/x86/include/generated"];

/// The tree itself if it is clean, else its shadow, brought up to date.
///
/// # Errors
/// When git cannot list the source files or the cache cannot be written.
pub fn clean_tree(cache: &Cache, source: &Source, ui: &Ui) -> Result<PathBuf, KernelError> {
    if !source.editable || !DIRT.iter().any(|dirt| source.path.join(dirt).exists()) {
        return Ok(source.path.clone());
    }
    ui.step(&format!(
        "{} was built in place; building from links to its source files instead",
        source.path.display()
    ));
    let name = format!("shadow-{}", digest(&[&source.key]));
    let _lock = cache.lock(&name, ui)?;
    let shadow = cache.dir("shadow")?.join(&name);
    let wanted = source_files(cache, &source.path)?;
    remove_stale(&shadow, &shadow, &wanted)?;
    link(&source.path, &shadow, &wanted)?;
    Ok(shadow)
}

/// The files of a tree that git would track, by path from its top: what the
/// tree's own `.gitignore` files do not call a build product.
fn source_files(cache: &Cache, top: &Path) -> Result<BTreeSet<PathBuf>, KernelError> {
    let mut git = command("git");
    git.env("GIT_OPTIONAL_LOCKS", "0")
        .args(["-c", "safe.directory=*"]);
    if top.join(".git").exists() {
        git.arg("-C").arg(top);
    } else {
        // No repository: an empty one of ours lends git its ignore rules.
        let empty = cache.root().join("shadow/empty.git");
        if !empty.exists() {
            fs::create_dir_all(cache.root().join("shadow"))?;
            let mut init = command("git");
            init.args(["init", "-q", "--bare"]).arg(&empty);
            super::process::stdout_of(&mut init)?;
        }
        git.arg("--git-dir")
            .arg(&empty)
            .arg("--work-tree")
            .arg(top)
            .arg("-C")
            .arg(top);
        git.args(["-c", "core.bare=false"]);
    }
    git.args([
        "ls-files",
        "-z",
        "--cached",
        "--others",
        "--exclude-standard",
    ]);
    let output = output_of(&mut git)?;
    if !output.status.success() {
        return Err(failure(
            &git,
            output.status,
            &String::from_utf8_lossy(&output.stderr),
        ));
    }
    let names = output
        .stdout
        .split(|byte| *byte == 0)
        .filter(|name| !name.is_empty());
    let paths = names.map(|name| PathBuf::from(OsStr::from_bytes(name)));
    // A tracked file may have been deleted; a link to nothing would hide that.
    Ok(paths
        .filter(|path| top.join(path).symlink_metadata().is_ok_and(|m| !m.is_dir()))
        .collect())
}

/// Removes links to files that the tree no longer has.
fn remove_stale(shadow: &Path, dir: &Path, wanted: &BTreeSet<PathBuf>) -> Result<(), KernelError> {
    if !dir.exists() {
        return Ok(());
    }
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let path = entry.path();
        if entry.file_type()?.is_dir() {
            remove_stale(shadow, &path, wanted)?;
        } else if !path
            .strip_prefix(shadow)
            .is_ok_and(|relative| wanted.contains(relative))
        {
            fs::remove_file(&path)?;
        }
    }
    Ok(())
}

fn link(top: &Path, shadow: &Path, wanted: &BTreeSet<PathBuf>) -> Result<(), KernelError> {
    fs::create_dir_all(shadow)?;
    let mut made = BTreeSet::new();
    for relative in wanted {
        let path = shadow.join(relative);
        if let Some(parent) = path
            .parent()
            .filter(|parent| made.insert(parent.to_path_buf()))
        {
            fs::create_dir_all(parent)?;
        }
        if path.symlink_metadata().is_err() {
            fs::os::unix::fs::symlink(top.join(relative), &path)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dirty_tree() -> (tempfile::TempDir, Cache, Source) {
        let dir = tempfile::tempdir().unwrap();
        let top = dir.path().join("linux");
        for (name, text) in [
            (".gitignore", "*.o\n.config\n/include/config/\n"),
            ("mm/a.c", "int a;\n"),
            ("mm/a.o", "object"),
            (".config", "CONFIG_A=y\n"),
            ("include/config/auto.conf", ""),
        ] {
            fs::create_dir_all(top.join(name).parent().unwrap()).unwrap();
            fs::write(top.join(name), text).unwrap();
        }
        let cache = Cache::at(&dir.path().join("cache")).unwrap();
        let source = Source {
            path: top,
            identity: "t".to_owned(),
            key: "t".to_owned(),
            editable: true,
        };
        (dir, cache, source)
    }

    #[test]
    fn shadow_has_the_sources_and_none_of_the_products() {
        let (_dir, cache, source) = dirty_tree();
        let shadow = clean_tree(&cache, &source, &Ui::silent()).unwrap();
        assert_eq!(
            fs::read_to_string(shadow.join("mm/a.c")).unwrap(),
            "int a;\n"
        );
        for product in ["mm/a.o", ".config", "include/config/auto.conf"] {
            assert!(!shadow.join(product).exists(), "{product}");
        }
    }

    #[test]
    fn shadow_follows_new_edited_and_deleted_files() {
        let (_dir, cache, source) = dirty_tree();
        clean_tree(&cache, &source, &Ui::silent()).unwrap();
        fs::write(source.path.join("mm/b.c"), "int b;\n").unwrap();
        fs::remove_file(source.path.join("mm/a.c")).unwrap();
        let shadow = clean_tree(&cache, &source, &Ui::silent()).unwrap();
        assert!(shadow.join("mm/b.c").exists());
        assert!(shadow.join("mm/a.c").symlink_metadata().is_err());
        fs::write(source.path.join("mm/b.c"), "int c;\n").unwrap();
        assert_eq!(
            fs::read_to_string(shadow.join("mm/b.c")).unwrap(),
            "int c;\n"
        );
    }

    #[test]
    fn clean_tree_is_used_as_it_is() {
        let (_dir, cache, source) = dirty_tree();
        fs::remove_file(source.path.join(".config")).unwrap();
        fs::remove_dir_all(source.path.join("include")).unwrap();
        assert_eq!(
            clean_tree(&cache, &source, &Ui::silent()).unwrap(),
            source.path
        );
    }
}
