// SPDX-License-Identifier: GPL-2.0-only
//! `hugeprobe install`: the layout that the kernel's `run_kselftest.sh` runs,
//! and that this command itself runs from elsewhere.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use anyhow::Context;
use clap::ValueEnum;

use crate::cli::{FuzzTarget, InstallArgs};
use crate::exit::{Exit, OrExit, Outcome};
use crate::programs::{self, Layout, Programs};
use crate::run;

/// The collection's name in `kselftest-list.txt`.
const COLLECTION: &str = "hugeprobe";
/// A whole target runs as one kselftest; its tests have limits of their own.
const SETTINGS: &str = "timeout=3600\n";

/// Installs everything below the folder that the user names.
pub fn run(args: &InstallArgs) -> Outcome {
    let layout = Layout::detect()?;
    let programs = programs::find(&layout)?;
    install(&args.dir, args.kdir.as_deref(), &layout, &programs)
        .with_context(|| format!("install to {}", args.dir.display()))
        .or_exit(Exit::Usage)?;
    let next = match args.kdir {
        Some(_) => "on the kernel under test run ./run_kselftest.sh",
        None => "run_kselftest.sh comes along with --kdir TREE; without it run hugeprobe/TARGET",
    };
    println!("installed to {}; {next}", args.dir.display());
    Ok(Exit::Passed)
}

fn install(
    dir: &Path,
    tree: Option<&Path>,
    layout: &Layout,
    programs: &Programs,
) -> anyhow::Result<()> {
    let collection = dir.join(COLLECTION);
    let bin = collection.join("programs");
    fs_err::create_dir_all(&bin)?;
    fs_err::copy(std::env::current_exe()?, collection.join("hugeprobe"))?;
    fs_err::copy(&programs.guest, bin.join("hugeprobe-guest"))?;
    copy_tree(
        &layout.data().join("vm/modules"),
        &collection.join("vm/modules"),
    )?;
    fs_err::write(collection.join("settings"), SETTINGS)?;
    let mut list = String::new();
    for target in programs.targets.iter().filter(|target| !target.is_hidden()) {
        fs_err::copy(&target.program, bin.join(&target.name))?;
        let wrapper = collection.join(&target.name);
        fs_err::write(
            &wrapper,
            format!(
                "#!/bin/sh\n# SPDX-License-Identifier: GPL-2.0-only\n\
                 exec \"$(dirname \"$0\")/hugeprobe\" here {}\n",
                target.name
            ),
        )?;
        fs_err::set_permissions(wrapper, PermissionsExt::from_mode(0o755))?;
        list.push_str(&format!("{COLLECTION}:{}\n", target.name));
    }
    fs_err::write(dir.join("kselftest-list.txt"), list)?;
    fuzzers(&collection.join("fuzz"), layout)?;
    match tree {
        Some(tree) => copy_runner(tree, dir),
        None => Ok(()),
    }
}

/// The fuzz targets, what replays their programs, and the seeds.
fn fuzzers(dir: &Path, layout: &Layout) -> anyhow::Result<()> {
    fs_err::create_dir_all(dir)?;
    let folder = run::fuzzers_folder(layout)?;
    let targets = FuzzTarget::value_variants().iter();
    let names = targets.map(|target| format!("fuzz-{}", target.name()));
    for name in names.chain(["hugeprobe-exec".to_owned()]) {
        fs_err::copy(folder.join(&name), dir.join(&name))?;
    }
    let data = layout.data().join("fuzz");
    fs_err::copy(data.join("known.tsv"), dir.join("known.tsv"))?;
    Ok(copy_tree(&data.join("seeds"), &dir.join("seeds"))?)
}

/// The kernel's own runner, from the user's tree.
fn copy_runner(tree: &Path, dir: &Path) -> anyhow::Result<()> {
    let selftests = tree.join("tools/testing/selftests");
    fs_err::copy(
        selftests.join("run_kselftest.sh"),
        dir.join("run_kselftest.sh"),
    )?;
    Ok(copy_tree(
        &selftests.join("kselftest"),
        &dir.join("kselftest"),
    )?)
}

/// Copies regular files and folders with their permissions.
fn copy_tree(from: &Path, to: &Path) -> std::io::Result<()> {
    fs_err::create_dir_all(to)?;
    for entry in fs_err::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy_tree(&entry.path(), &target)?;
        } else {
            fs_err::copy(entry.path(), target)?;
        }
    }
    Ok(())
}
