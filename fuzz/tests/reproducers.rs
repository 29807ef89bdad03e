// SPDX-License-Identifier: GPL-2.0-only
//! `repro.rs` as campaigns write it: compiles as it is, and is a test. That it
//! also holds is seen in guests, where target `replay` runs one of them.

#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use hugeprobe_fuzz::emit::Shows;
use hugeprobe_fuzz::{emit, text};

fn root() -> PathBuf {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    package.parent().unwrap().to_owned()
}

/// Each seed as a test: name and source.
fn tests() -> Vec<(String, String)> {
    let mut tests = Vec::new();
    for target in fs::read_dir(root().join("fuzz/seeds")).unwrap() {
        let target = target.unwrap();
        for seed in fs::read_dir(target.path()).unwrap() {
            let path = seed.unwrap().path();
            let seed = path.file_stem().unwrap().to_str().unwrap();
            let name = format!("{}_{seed}", target.file_name().display()).replace('-', "_");
            let program = text::parse(&fs::read_to_string(&path).unwrap()).unwrap();
            let title = ["", "O3 resources: a counter not back at its baseline"];
            let shows = Shows::of(title[tests.len() % 2]);
            let source = emit::rust_source(&program, &name, &shows);
            tests.push((name, source));
        }
    }
    tests
}

#[test]
fn every_seed_is_a_selftest_that_compiles_as_it_is() {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("reproducers");
    let target = folder.join("target");
    let sources = folder.join("tests/all");
    let _ = fs::remove_dir_all(&sources);
    fs::create_dir_all(&sources).unwrap();
    fs::create_dir_all(folder.join("src")).unwrap();
    fs::write(folder.join("src/lib.rs"), "").unwrap();
    let selftests = root().join("selftests");
    let manifest = format!(
        "[package]\nname = \"reproducers\"\nversion = \"0.1.0\"\nedition = \"2024\"\n\
         [dependencies]\nselftests = {{ path = {selftests:?} }}\n[workspace]\n"
    );
    fs::write(folder.join("Cargo.toml"), manifest).unwrap();
    fs::copy(root().join("Cargo.lock"), folder.join("Cargo.lock")).unwrap();
    let mut main = "#![deny(warnings)]\n".to_owned();
    for (name, source) in tests() {
        main.push_str(&format!("mod {name};\n"));
        fs::write(sources.join(format!("{name}.rs")), source).unwrap();
    }
    fs::write(sources.join("main.rs"), main).unwrap();
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".into());
    let output = Command::new(cargo)
        .current_dir(&folder)
        .env("CARGO_TARGET_DIR", target)
        .args(["check", "--quiet", "--offline", "--tests"])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
}

#[test]
fn the_one_that_guests_run_is_what_is_written_today() {
    let seed = root().join("fuzz/seeds/hmm/device-store.txt");
    let program = text::parse(&fs::read_to_string(seed).unwrap()).unwrap();
    let written = emit::rust_source(&program, "replay", &Shows::Nothing);
    let path = root().join("selftests/tests/replay.rs");
    let kept = fs::read_to_string(&path).unwrap();
    // rustfmt may break lines, and end a list with a comma or not.
    let plain = |text: &str| text.replace([' ', '\n', ','], "");
    assert_eq!(
        plain(&kept),
        plain(&written),
        "{}: write it anew with `hugeprobe-exec emit-rust`",
        path.display()
    );
}
