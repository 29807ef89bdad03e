// SPDX-License-Identifier: GPL-2.0-only
//! Commands as a user types them, with what they print: usage, help, wrong
//! input, and the README's. None of them needs a kernel.

#[test]
fn transcripts() {
    trycmd::TestCases::new()
        .case("tests/cmd/*.trycmd")
        .case("../README.md");
}

#[test]
fn targets_are_documented_and_the_page_is_up_to_date() {
    let output = assert_cmd::Command::new(env!("CARGO_BIN_EXE_hugeprobe"))
        .args(["docs", "--check"])
        .output()
        .unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{stderr}");
}
