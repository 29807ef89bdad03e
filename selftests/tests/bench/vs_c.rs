// SPDX-License-Identifier: GPL-2.0-only
//! Runs programs of the kernel's own selftests, so that `bench/vs-c.py` can
//! compare the time they take with ours in the same guest.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Instant;

use selftests::filesystem::Filesystem;
use selftests::settings::Setting;
use selftests::{enter, skip};

/// Names the list of what to run on the kernel's command line.
const WORD: &str = "hugeprobe.c_suites=";
/// Pages of hugetlbfs that some programs want.
const HUGETLB_PAGES: &str = "2";

/// Runs the programs of a list, one line `suite, program, arguments` for each, separated by tabs,
/// and prints how long each took and its own totals.
#[test]
fn c_suites() {
    enter!();
    let Some(list) = list() else {
        skip!("no word {WORD} on the kernel's command line: bench/vs-c.py puts it there");
    };
    let _hugetlb = Setting::set("/proc/sys/vm/nr_hugepages", HUGETLB_PAGES);
    let disk = Filesystem::ext4().unwrap_or_else(|error| skip!("{error}"));
    let text = fs::read_to_string(&list).unwrap();
    for line in text.lines() {
        let words: Vec<&str> = line.split('\t').collect();
        let [suite, program, arguments @ ..] = words.as_slice() else {
            panic!("{}: not a suite and a program: {line}", list.display());
        };
        let arguments = arguments
            .iter()
            .map(|word| word.replace("{ext4}", &disk.path().display().to_string()));
        let mut command = Command::new(local(Path::new(program)));
        command.args(arguments).current_dir("/tmp");
        let began = Instant::now();
        let output = command.output().unwrap();
        let ms = began.elapsed().as_millis();
        println!("C_SUITE\t{suite}\t{ms}\t{}", totals(&output));
    }
}

fn list() -> Option<PathBuf> {
    let line = fs::read_to_string("/proc/cmdline").unwrap();
    let path = line.split_whitespace().find_map(|w| w.strip_prefix(WORD))?;
    Some(path.into())
}

/// A copy in memory, as our own programs are started from.
fn local(program: &Path) -> PathBuf {
    let copy = Path::new("/run").join(program.file_name().unwrap());
    fs::copy(program, &copy).unwrap();
    copy
}

/// The program's own count of what passed and failed, what failed, and how it ended.
fn totals(output: &Output) -> String {
    let text = String::from_utf8_lossy(&output.stdout);
    let told = |line: &&str| line.starts_with("# Totals") || line.starts_with("not ok");
    let lines: Vec<&str> = text.lines().filter(told).collect();
    format!("{}, {}", output.status, lines.join(", "))
}
