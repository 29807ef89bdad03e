// SPDX-License-Identifier: GPL-2.0-only
//! `hugeprobe self-test`: all of hugeprobe's own tests, with a kernel for those
//! that need a virtual machine, then two targets from end to end on that kernel;
//! `make test`. `make run_tests` runs the other targets. The last line says how
//! many tests truly ran.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

use clap::Parser;

use crate::cli::{Cli, Command as Verb, KernelArgs};
use crate::commands::kernel::requests;
use crate::exit::{Exit, Failure, OrExit, Outcome};
use crate::kernel::cache::Cache;
use crate::kernel::progress::Ui;
use crate::kernel::{self, Kernel, KernelError, tools, virtme};
use crate::programs::{self, Layout};
use crate::report::{self, Outcome as Verdict};
use crate::run::{self, Chosen, Results};

/// The targets that run as a user would run them: one of ours, and a program of
/// the fuzzers as campaigns write it down.
const TARGETS: [&str; 2] = ["pmd_split", "replay"];
/// Where its results go.
const RESULTS: &str = "results/self-test";

/// How many tests ended how.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Tally {
    passed: usize,
    failed: usize,
    skipped: usize,
}

/// Runs everything.
pub fn run() -> Outcome {
    let layout = Layout::detect()?;
    let Layout::Checkout(checkout) = &layout else {
        return Err(Failure::new(
            Exit::Usage,
            "the own tests need a checkout with its sources",
        ));
    };
    let ui = Ui::stderr(false);
    let cache = Cache::open().map_err(KernelError::into_failure)?;
    let request = requests(&KernelArgs::default()).remove(0);
    tools::require_guest_tools(&ui).map_err(KernelError::into_failure)?;
    let kernel = kernel::prepare(&cache, &request, &ui).map_err(KernelError::into_failure)?;
    let vng = virtme::find_or_install(&cache, &ui).map_err(KernelError::into_failure)?;

    let mut tally = Tally::default();
    let mut sound = true;
    // The targets' tests do nothing outside a guest: they run below, in one.
    for selection in [
        ["--workspace", "--exclude", "selftests"].as_slice(),
        &["--package", "selftests", "--lib", "--bins"],
    ] {
        sound &= cargo_test(checkout, selection, &kernel, &vng, &mut tally)?;
    }
    let words = ["hugeprobe", "run", "--output", RESULTS];
    let cli = Cli::try_parse_from(words.iter().chain(&TARGETS)).or_exit(Exit::Usage)?;
    let Verb::Run(args) = cli.command else {
        unreachable!("it says run")
    };
    let programs = programs::find(&layout)?;
    let chosen = Chosen::of(&layout, &programs, &args.select)?;
    let results = Results::create(args.output.as_deref()).or_exit(Exit::Usage)?;
    let finished = run::run(&args, &request, &chosen, &results)?;
    eprint!("{}", report::summary(&finished.report, &finished.dir));
    for test in &finished.report.tests {
        match test.outcome {
            Verdict::Pass | Verdict::Xfail => tally.passed += 1,
            Verdict::Skip => tally.skipped += 1,
            _ => tally.failed += 1,
        }
    }
    sound &= finished.report.exit() == Exit::Passed && tally.failed == 0;
    println!(
        "{} passed, {} failed, {} skipped",
        tally.passed, tally.failed, tally.skipped
    );
    Ok(if sound { Exit::Passed } else { Exit::Failed })
}

/// Runs `cargo test`, passes its output on and counts.
fn cargo_test(
    checkout: &Path,
    selection: &[&str],
    kernel: &Kernel,
    vng: &Path,
    tally: &mut Tally,
) -> Result<bool, Failure> {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".into());
    let mut command = Command::new(cargo);
    command
        .current_dir(checkout)
        .arg("test")
        .args(selection)
        .arg("--no-fail-fast");
    command
        .env("HUGEPROBE_TEST_KERNEL", &kernel.bzimage)
        .env("HUGEPROBE_TEST_VNG", vng);
    if let Some(source) = &kernel.source {
        command.env("HUGEPROBE_TEST_TREE", source);
    }
    let mut child = command.stdout(Stdio::piped()).spawn()?;
    let stdout = child.stdout.take().expect("stdout is piped");
    for line in BufReader::new(stdout).lines() {
        let line = line?;
        println!("{line}");
        if let Some(counts) = tally_of(&line) {
            tally.passed += counts.passed;
            tally.failed += counts.failed;
            tally.skipped += counts.skipped;
        }
    }
    Ok(child.wait()?.success())
}

/// The counts in libtest's closing line.
fn tally_of(line: &str) -> Option<Tally> {
    let counts = line.strip_prefix("test result: ")?;
    let (_, counts) = counts.split_once(". ")?;
    let mut tally = Tally::default();
    for part in counts.split("; ") {
        let Some((number, what)) = part.split_once(' ') else {
            continue;
        };
        let Ok(number) = number.parse() else { continue };
        match what {
            "passed" => tally.passed = number,
            "failed" => tally.failed = number,
            "ignored" => tally.skipped = number,
            _ => {}
        }
    }
    Some(tally)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libtests_closing_line_is_counted() {
        let line = "test result: FAILED. 19 passed; 2 failed; 1 ignored; 0 measured; \
                    136 filtered out; finished in 0.22s";
        assert_eq!(
            tally_of(line),
            Some(Tally {
                passed: 19,
                failed: 2,
                skipped: 1
            })
        );
        assert_eq!(tally_of("test report::tests::junit ... ok"), None);
    }
}
