// SPDX-License-Identifier: GPL-2.0-only
//! Programs that may harm a kernel refuse to run on one that is no guest.

use std::process::Command;

#[test]
fn the_hosts_own_kernel_is_not_fuzzed_unless_in_words() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let program = folder.path().join("a.txt");
    std::fs::write(&program, "p0 verify\n").expect("written");
    let run = |arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_hugeprobe-exec"));
        command.env_remove("HUGEPROBE_GUEST").args(arguments);
        command.output().expect("it runs")
    };
    let file = program.to_str().expect("text");
    for arguments in [&["run", file][..], &["random", "1"], &["hold"]] {
        let output = run(arguments);
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(75), "{arguments:?}: {said}");
        assert!(
            said.contains("refusing to fuzz the running kernel"),
            "{said}"
        );
        assert!(said.contains("--yes-fuzz-this-kernel"), "{said}");
        assert!(output.stdout.is_empty(), "{arguments:?} ran something");
    }
    // Turning programs into other forms needs nobody's consent.
    assert!(run(&["text", file]).status.success());
}
