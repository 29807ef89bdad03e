// SPDX-License-Identifier: GPL-2.0-only
//! Configures a kernel: `allnoconfig`, our fragments through the tree's own
//! `merge_config.sh`, `olddefconfig`; then every wish is checked against the
//! result, because Kconfig drops what it cannot fulfil without a word.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::SystemTime;

use fs_err as fs;

use super::cache::{digest, write_whole};
use super::dotconfig::{DotConfig, Lost, Wish, lost, merged_fragment};
use super::error::KernelError;
use super::kconfig::explain;
use super::process::{self, command, describe, output_of, tail};
use super::profile::Profile;
use super::progress::Ui;

/// Written when a configuration was made and verified; holds the digest of what
/// it was made from.
const STAMP: &str = "hugeprobe-config";

/// A `make` of this kernel: out of tree, with the profile's variables.
pub fn make(tree: &Path, build: &Path, profile: &Profile) -> Command {
    let mut make = process::make();
    make.arg("-C")
        .arg(tree)
        .arg(format!("O={}", build.display()))
        .args(&profile.make);
    make
}

/// Makes `build/.config` for the profile, unless it is there and nothing that
/// it depends on has changed.
///
/// # Errors
/// [`KernelError::LostOptions`] when a wish that is not optional is unfulfilled,
/// [`KernelError::Configure`] when Kconfig itself fails.
pub fn configure(tree: &Path, build: &Path, profile: &Profile, ui: &Ui) -> Result<(), KernelError> {
    let wishes = profile.wishes()?;
    let fragment = merged_fragment(&wishes);
    let stamp = digest(&[&fragment, &profile.make.join("\n")]);
    if is_current(build, &stamp) {
        return Ok(());
    }
    ui.step(&format!("configuring ({})", profile.name));
    fs::create_dir_all(build)?;
    let wanted = build.join("hugeprobe.config");
    write_whole(&wanted, fragment.as_bytes())?;
    let scratch = build.join("hugeprobe-allno.config");
    // KCONFIG_CONFIG keeps the steps away from .config, so that a build which
    // stands is not disturbed by a configuration that fails.
    let mut allno = make(tree, build, profile);
    run(allno.arg("allnoconfig").env("KCONFIG_CONFIG", &scratch), ui)?;
    let mut merge = command("bash");
    merge
        .arg(tree.join("scripts/kconfig/merge_config.sh"))
        .arg("-m")
        .arg("-O")
        .arg(build);
    run(
        merge
            .args([&scratch, &wanted])
            .current_dir(build)
            .env("KCONFIG_CONFIG", &scratch),
        ui,
    )?;
    let mut olddef = make(tree, build, profile);
    run(
        olddef.arg("olddefconfig").env("KCONFIG_CONFIG", &scratch),
        ui,
    )?;
    let text = fs::read_to_string(&scratch)?;
    verify(&wishes, &DotConfig::parse(&text), tree, profile, ui)?;
    // An unchanged file keeps its time, which saves make from thinking.
    if fs::read_to_string(build.join(".config")).ok().as_deref() != Some(&text) {
        write_whole(&build.join(".config"), text.as_bytes())?;
    }
    fs::remove_file(&scratch)?;
    write_whole(&build.join(STAMP), stamp.as_bytes())
}

/// Whether the configuration was made from the same wishes and no Kconfig file
/// has been edited since.
fn is_current(build: &Path, stamp: &str) -> bool {
    let stamp_file = build.join(STAMP);
    let same = fs::read_to_string(&stamp_file).is_ok_and(|old| old == stamp);
    if !same || !build.join(".config").exists() {
        return false;
    }
    let Ok(made) = fs::metadata(&stamp_file).and_then(|metadata| metadata.modified()) else {
        return false;
    };
    let Ok(dependencies) = fs::read_to_string(build.join("include/config/auto.conf.cmd")) else {
        // Configured, never built: no list of Kconfig files yet.
        return true;
    };
    kconfig_files(&dependencies, build)
        .iter()
        .all(|path| !is_newer(path, made))
}

fn is_newer(path: &Path, than: SystemTime) -> bool {
    fs::metadata(path)
        .and_then(|metadata| metadata.modified())
        .is_ok_and(|time| time > than)
}

/// The Kconfig files that a configuration was made from, as Kconfig lists them
/// for make: one on a line, with a backslash. Relative ones start at the tree,
/// which `source` in the build folder leads to.
fn kconfig_files(auto_conf_cmd: &str, build: &Path) -> Vec<PathBuf> {
    let names = auto_conf_cmd.lines().filter_map(|line| {
        let name = line.trim().trim_end_matches('\\').trim();
        (name.contains("Kconfig") && !name.contains([' ', '$', '='])).then_some(name)
    });
    names.map(|name| build.join("source").join(name)).collect()
}

fn run(step: &mut Command, ui: &Ui) -> Result<(), KernelError> {
    if ui.verbose {
        ui.step(&describe(step));
    }
    let output = output_of(step)?;
    if output.status.success() {
        return Ok(());
    }
    let mut text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.push_str(&String::from_utf8_lossy(&output.stderr));
    Err(KernelError::Configure {
        what: describe(step),
        output: tail(&text, 12),
    })
}

/// Checks every wish. Optional ones that are lost are only told about.
fn verify(
    wishes: &[Wish],
    config: &DotConfig,
    tree: &Path,
    profile: &Profile,
    ui: &Ui,
) -> Result<(), KernelError> {
    let lost = lost(wishes, config);
    let (optional, needed): (Vec<&Lost>, Vec<&Lost>) = lost.iter().partition(|l| l.wish.optional);
    if ui.verbose {
        for lost in optional {
            ui.step(&format!(
                "optional, not in this kernel:{}",
                explain(lost, config, tree)
            ));
        }
    }
    if needed.is_empty() {
        return Ok(());
    }
    let report: Vec<String> = needed
        .iter()
        .map(|lost| explain(lost, config, tree))
        .collect();
    Err(KernelError::LostOptions {
        profile: profile.name.clone(),
        report: report.join("\n"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kconfig_files_are_found_in_makes_list() {
        let text = "autoconfig := include/config/auto.conf\n\ndeps_config := \\\n\tlib/Kconfig \\\n\tKconfig \\\n\n\
                    $(autoconfig): $(deps_config)\n\nifneq \"$(CC)\" \"gcc\"\n";
        let files = kconfig_files(text, Path::new("/b"));
        assert_eq!(
            files,
            [
                Path::new("/b/source/lib/Kconfig"),
                Path::new("/b/source/Kconfig")
            ]
        );
    }

    #[test]
    fn edited_kconfig_or_other_wishes_make_it_stale() {
        let dir = tempfile::tempdir().unwrap();
        let build = dir.path();
        fs::create_dir_all(build.join("include/config")).unwrap();
        fs::create_dir_all(build.join("source")).unwrap();
        fs::write(
            build.join("include/config/auto.conf.cmd"),
            "deps_config := \\\n\tKconfig \\\n",
        )
        .unwrap();
        fs::write(build.join("source/Kconfig"), "").unwrap();
        fs::write(build.join(".config"), "").unwrap();
        assert!(!is_current(build, "a"), "no stamp");
        fs::write(build.join(STAMP), "a").unwrap();
        assert!(is_current(build, "a"));
        assert!(!is_current(build, "b"), "other wishes");
        let later = SystemTime::now() + std::time::Duration::from_secs(5);
        let edited = fs::File::options()
            .write(true)
            .open(build.join("source/Kconfig"))
            .unwrap();
        edited.set_modified(later).unwrap();
        assert!(!is_current(build, "a"), "edited Kconfig");
    }

    #[test]
    fn lost_option_is_an_error_unless_optional() {
        let wishes =
            super::super::dotconfig::parse_fragments(["CONFIG_A=y\nCONFIG_B=y # optional\n"]);
        let profile = super::super::profile::find("selftest").unwrap();
        let dir = tempfile::tempdir().unwrap();
        let check = |config: &str| {
            verify(
                &wishes,
                &DotConfig::parse(config),
                dir.path(),
                &profile,
                &Ui::silent(),
            )
        };
        assert!(check("CONFIG_A=y\n").is_ok());
        let text = check("CONFIG_B=y\n").expect_err("A is lost").to_string();
        assert!(
            text.contains("CONFIG_A=y (is n)") && !text.contains("CONFIG_B"),
            "{text}"
        );
    }
}
