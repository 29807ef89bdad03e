// SPDX-License-Identifier: GPL-2.0-only
//! Campaigns in real virtual machines that come to harm: nothing is lost. The
//! kernel needs no KCOV; what operations return stands in for coverage then.

#![allow(clippy::unwrap_used, reason = "helpers of tests may panic")]

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// More than any of these needs, under emulation and load.
const LIMIT: Duration = Duration::from_secs(300);

/// `hugeprobe fuzz mm` on the kernel that `make test` names, in a small guest;
/// without a kernel these tests cannot run.
fn fuzz() -> Option<Command> {
    let Some(kernel) = std::env::var_os("HUGEPROBE_TEST_KERNEL") else {
        eprintln!("NOT RUN: HUGEPROBE_TEST_KERNEL names no kernel; use `make test`");
        return None;
    };
    let mut command = hugeprobe();
    command.args(["fuzz", "mm", "--mem", "1G", "--kernel"]);
    command.arg(kernel);
    Some(command)
}

fn hugeprobe() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_hugeprobe"));
    if let Some(folder) = std::env::var_os("HUGEPROBE_TEST_VNG")
        .and_then(|vng| Path::new(&vng).parent().map(Path::to_owned))
    {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let folders = std::iter::once(folder).chain(std::env::split_paths(&path));
        command.env("PATH", std::env::join_paths(folders).unwrap());
    }
    command.stdin(Stdio::null());
    command
}

/// What a campaign finds in its corpus when it starts.
const MEMBER: &str = "p0 mmap at=0.0 len=512 prot=rw backing=anon\n\
                      p0 write at=0.0 len=512\np0 verify\n";

/// A campaign in `dir`, for so long, with so many machines.
fn campaign(dir: &Path, seconds: u32, machines: u32) -> Option<Command> {
    let mut command = fuzz()?;
    std::fs::create_dir_all(dir.join("corpus")).unwrap();
    std::fs::write(dir.join("corpus/member"), MEMBER).unwrap();
    command.args(["--vms", &machines.to_string()]);
    command.args(["--time", &seconds.to_string(), "--output"]);
    command.arg(dir);
    Some(command)
}

fn text(output: &Output) -> String {
    let (out, err) = (&output.stdout, &output.stderr);
    String::from_utf8_lossy(&[&out[..], &err[..]].concat()).into_owned()
}

/// The samples of a campaign.
fn samples(dir: &Path) -> Vec<serde_json::Value> {
    let text = std::fs::read_to_string(dir.join("stats.jsonl")).unwrap_or_default();
    text.lines()
        .map(|line| serde_json::from_str(line).expect("a whole line"))
        .collect()
}

fn number(sample: &serde_json::Value, name: &str) -> u64 {
    sample[name].as_u64().unwrap_or_else(|| panic!("no {name}"))
}

/// Statistics that a death did not interrupt: they only grow, programs ran after
/// it, and the corpus is what they say.
fn expect_whole(dir: &Path) {
    let samples = samples(dir);
    for name in ["seconds", "programs", "calls", "machines"] {
        let values: Vec<u64> = samples.iter().map(|s| number(s, name)).collect();
        assert!(values.is_sorted(), "{name} went back: {values:?}");
    }
    let last = samples.last().unwrap();
    assert!(number(last, "restarts") > 0, "{last}");
    let died = samples.iter().rfind(|s| number(s, "restarts") == 0);
    let before = died.map_or(0, |sample| number(sample, "programs"));
    assert!(number(last, "programs") > before, "none ran afterwards");
    let corpus: Vec<_> = std::fs::read_dir(dir.join("corpus")).unwrap().collect();
    assert_eq!(corpus.len() as u64, number(last, "corpus"));
    let member = std::fs::read_to_string(dir.join("corpus/member")).unwrap();
    assert_eq!(member, MEMBER);
    for file in corpus {
        let text = std::fs::read_to_string(file.unwrap().path()).expect("text");
        assert!(text.is_empty() || text.ends_with('\n'), "cut off: {text:?}");
    }
}

/// The findings of a campaign that took a machine down: folder and record. What
/// else the kernel shows is none of these tests' business.
fn deaths(dir: &Path) -> Vec<(PathBuf, serde_json::Value)> {
    let folders = std::fs::read_dir(dir.join("crashes")).unwrap();
    let record = |folder: PathBuf| {
        let text = std::fs::read_to_string(folder.join("finding.json")).unwrap();
        let record: serde_json::Value = serde_json::from_str(&text).unwrap();
        (record["finding"]["kind"] == "death").then_some((folder, record))
    };
    folders
        .filter_map(|folder| record(folder.unwrap().path()))
        .collect()
}

fn death(dir: &Path) -> (PathBuf, serde_json::Value) {
    let mut deaths = deaths(dir);
    assert_eq!(deaths.len(), 1, "{deaths:?}");
    deaths.remove(0)
}

/// A campaign's exit code says whether it has findings.
fn expect_honest(dir: &Path, output: &Output) {
    let findings = std::fs::read_dir(dir.join("crashes")).unwrap().count();
    let code = i32::from(findings > 0);
    assert_eq!(output.status.code(), Some(code), "{}", text(output));
}

fn is_program(text: &str) -> bool {
    !text.is_empty()
        && text
            .lines()
            .all(|line| line.starts_with(['p', 't', '#', 'r']))
}

fn wait_for(child: &mut Child, what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + LIMIT;
    while !condition() {
        assert_eq!(child.try_wait().unwrap(), None, "ended before {what}");
        assert!(Instant::now() < deadline, "no {what}");
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// QEMUs that fuzz in `dir`.
fn machines(dir: &Path) -> Vec<Pid> {
    let shared = format!("{}/scratch/vm-", dir.canonicalize().unwrap().display());
    let processes = std::fs::read_dir("/proc").unwrap().filter_map(|entry| {
        let pid: i32 = entry.ok()?.file_name().to_str()?.parse().ok()?;
        let arguments = std::fs::read(format!("/proc/{pid}/cmdline")).ok()?;
        let arguments = String::from_utf8_lossy(&arguments);
        let is_ours = arguments.contains("qemu-system") && arguments.contains(&shared);
        is_ours.then_some(Pid::from_raw(pid))
    });
    processes.collect()
}

#[test]
fn a_panic_costs_nothing_but_its_program_which_is_known() {
    let dir = tempfile::tempdir().unwrap();
    let Some(mut command) = campaign(dir.path(), 15, 1) else {
        return;
    };
    let output = command.args(["--harm", "panic"]).output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{}", text(&output));
    let (folder, record) = death(dir.path());
    let title = record["finding"]["title"].as_str().unwrap();
    assert_eq!(title, "kernel panic: sysrq triggered crash");
    let original = std::fs::read_to_string(folder.join("original.txt")).unwrap();
    assert!(is_program(&original), "{original}");
    // What was done to the machine is not the program's doing.
    assert_eq!(record["confirmed"]["shown"], 0, "{record}");
    assert_eq!(record["confirmed"]["of"], 3);
    expect_whole(dir.path());
    for file in [
        "program.txt",
        "report.txt",
        "console.log",
        "repeat.txt",
        "kernel.txt",
    ] {
        assert!(folder.join(file).exists(), "no {file}");
    }
    let report = std::fs::read_to_string(folder.join("report.txt")).unwrap();
    assert!(
        report.contains("Kernel panic - not syncing: sysrq"),
        "{report}"
    );
    assert!(report.contains("confirmed: 0 of 3"), "{report}");

    // The folder alone repeats it: it names target, kernel and guest.
    let output = hugeprobe().arg("repro").arg(&folder).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", text(&output));
    assert!(text(&output).contains("shown by 0 of 3 fresh machines"));

    // The fuzzer itself, which is there by now, does not start on this kernel.
    let fuzzer = Path::new(env!("CARGO_BIN_EXE_hugeprobe")).with_file_name("fuzz-mm");
    let mut command = Command::new(fuzzer);
    command.arg("-runs=1").env_remove("HUGEPROBE_GUEST");
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(75), "{}", text(&output));
    assert!(text(&output).contains("refusing to fuzz the running kernel"));
}

#[test]
fn a_hang_costs_nothing_but_its_program_which_is_known() {
    let dir = tempfile::tempdir().unwrap();
    let Some(mut command) = campaign(dir.path(), 30, 1) else {
        return;
    };
    let output = command.args(["--harm", "hang"]).output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{}", text(&output));
    let (folder, record) = death(dir.path());
    let title = record["finding"]["title"].as_str().unwrap();
    assert_eq!(title, "hang: the guest stopped answering");
    let original = std::fs::read_to_string(folder.join("original.txt")).unwrap();
    assert!(is_program(&original), "{original}");
    expect_whole(dir.path());
}

#[test]
fn a_killed_machine_is_replaced_and_a_stopped_campaign_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let Some(mut command) = campaign(dir.path(), 12, 2) else {
        return;
    };
    command.stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let ran = |dir: &Path| {
        samples(dir)
            .iter()
            .any(|sample| number(sample, "programs") > 0)
    };
    wait_for(&mut child, "program", || ran(dir.path()));
    let qemus = machines(dir.path());
    assert_eq!(qemus.len(), 2);
    kill(qemus[0], Signal::SIGKILL).unwrap();
    let output = child.wait_with_output().unwrap();
    expect_honest(dir.path(), &output);
    // Nobody blames the kernel for that.
    assert_eq!(deaths(dir.path()), []);
    assert!(
        text(&output).contains("QEMU was killed by SIGKILL"),
        "{}",
        text(&output)
    );
    expect_whole(dir.path());
    let lost: Vec<_> = std::fs::read_dir(dir.path().join("lost"))
        .unwrap()
        .collect();
    assert_eq!(lost.len(), 1);
    let program = std::fs::read_to_string(lost[0].as_ref().unwrap().path()).unwrap();
    assert!(is_program(&program), "{program}");

    // Started again, it counts on from where it was.
    let before = samples(dir.path());
    let output = campaign(dir.path(), 3, 1).unwrap().output().unwrap();
    expect_honest(dir.path(), &output);
    let after = samples(dir.path());
    assert_eq!(after[..before.len()], before);
    let (before, after) = (before.last().unwrap(), after.last().unwrap());
    for name in ["seconds", "programs", "calls", "machines"] {
        assert!(
            number(after, name) > number(before, name),
            "{name}: {after}"
        );
    }
    assert_eq!(number(after, "machines"), number(before, "machines") + 1);
}

#[test]
fn the_first_new_finding_ends_a_campaign_that_asks_for_one() {
    let dir = tempfile::tempdir().unwrap();
    let lied = |seconds: u32| {
        let mut command = campaign(dir.path(), seconds, 1)?;
        command.args(["--first", "--harm", "lie"]);
        Some(command.output().unwrap())
    };
    let Some(output) = lied(250) else {
        return;
    };
    assert_eq!(output.status.code(), Some(1), "{}", text(&output));
    let searched = |dir: &Path| number(samples(dir).last().unwrap(), "seconds");
    let before = searched(dir.path());
    assert!(before < 200, "went on for {before} s: {}", text(&output));
    // Triage has been done.
    let record = |dir: &Path| {
        let folders: Vec<_> = std::fs::read_dir(dir.join("crashes")).unwrap().collect();
        assert_eq!(folders.len(), 1, "{folders:?}");
        let folder = folders[0].as_ref().unwrap().path();
        for file in ["report.txt", "repro.c", "repro.rs"] {
            assert!(folder.join(file).exists(), "no {file}");
        }
        let text = std::fs::read_to_string(folder.join("finding.json")).unwrap();
        serde_json::from_str::<serde_json::Value>(&text).unwrap()
    };
    let found = record(dir.path());
    assert_eq!(found["finding"]["title"], "O1 content: claimed after fork");
    assert_eq!(found["confirmed"]["shown"], 3, "{found}");
    assert_eq!(found["finding"]["program"], "p0 fork child=p1\np0 verify\n");

    // What is known by now ends nothing: it goes on until its time is over.
    let output = lied(20).unwrap();
    assert_eq!(output.status.code(), Some(1), "{}", text(&output));
    assert!(searched(dir.path()) >= before + 20, "{}", text(&output));
    let again = record(dir.path());
    assert!(again["seen"].as_u64() > found["seen"].as_u64(), "{again}");
}

/// Steps that a lie needs, and some that it does not.
const LIE: &str = "p0 mmap at=0.0 len=512 prot=rw backing=anon\n\
                   p0 write at=0.0 len=512\n\
                   p0 fork child=p1\n\
                   p1 write at=0.0 len=1\n\
                   p0 verify\n";

#[test]
fn programs_are_replayed_and_made_fewer_and_smaller() {
    let dir = tempfile::tempdir().unwrap();
    let corpus = dir.path().join("corpus");
    std::fs::create_dir(&corpus).unwrap();
    let write = |name: &str, text: &str| std::fs::write(corpus.join(name), text).unwrap();
    write("a", MEMBER);
    write("b.txt", &format!("# says the same in more words\n{MEMBER}"));
    write("c", &format!("{MEMBER}p0 munmap at=0.0 len=512\n"));
    let run = |option: &str, path: &Path, lies: bool| {
        let mut command = fuzz()?;
        command.arg(option).arg(path);
        if lies {
            command.args(["--harm", "lie"]);
        }
        let output = command.output().unwrap();
        Some((output.status.code(), text(&output)))
    };
    let Some((code, said)) = run("--check", &corpus, false) else {
        return;
    };
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("3 passed, 0 failed"), "{said}");

    let minimised = dir.path().join("corpus.min");
    let (code, said) = run("--cmin", &corpus, false).unwrap();
    assert_eq!(code, Some(0), "{said}");
    assert!(minimised.join("a").exists(), "{said}");
    assert!(!minimised.join("b.txt").exists(), "{said}");
    assert!(minimised.join("c").exists(), "{said}");
    assert_eq!(std::fs::read_dir(&corpus).unwrap().count(), 3);
    // A result is not overwritten.
    let (code, said) = run("--cmin", &corpus, false).unwrap();
    assert_eq!(code, Some(2), "{said}");

    let program = dir.path().join("lie.txt");
    std::fs::write(&program, LIE).unwrap();
    let (code, said) = run("--tmin", &program, false).unwrap();
    assert_eq!(code, Some(4), "nothing is wrong with it: {said}");
    let (code, said) = run("--tmin", &program, true).unwrap();
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("O1 content: claimed after fork"), "{said}");
    let small = std::fs::read_to_string(dir.path().join("lie.txt.min")).unwrap();
    assert_eq!(small, "p0 fork child=p1\np0 verify\n");
    assert_eq!(std::fs::read_to_string(&program).unwrap(), LIE);
    write("d.txt", LIE);
    let (code, said) = run("--check", &corpus, true).unwrap();
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("3 passed, 1 failed"), "{said}");
    assert!(said.contains("d.txt: O1 content: claimed"), "{said}");
}
