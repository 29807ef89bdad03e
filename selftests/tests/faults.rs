// SPDX-License-Identifier: GPL-2.0-only
//! Tests that misbehave on purpose: they are for hugeprobe's own tests, which
//! check that each of them gets the verdict it deserves and harms no other.
//! Shown and run only when asked for by name.

use std::fs;
use std::io::Write;
use std::process::{Command, Stdio};
use std::time::Duration;

use nix::sys::ptrace;
use nix::unistd::Pid;
use selftests::{outcome, skip};

/// Ends a test that runs anywhere but in a guest of hugeprobe, whatever the
/// environment claims: some of these would take the machine down.
fn only_in_a_guest() {
    let first = fs::read_to_string("/proc/1/comm").unwrap_or_default();
    if first.trim() != "hugeprobe-guest" {
        skip!("misbehaves on purpose; runs in a guest only");
    }
}

/// Lets the kernel's own crash test driver do `what`, or skips.
fn provoke(what: &str) {
    let trigger = "/sys/kernel/debug/provoke-crash/DIRECT";
    if !fs::exists(trigger).unwrap_or(false) {
        skip!("the kernel needs CONFIG_LKDTM");
    }
    fs::write(trigger, what).expect("the driver knows this crash type");
}

/// Puts `lines` into the kernel's log as if the kernel had said them.
fn say_as_the_kernel(lines: &str) {
    let mut log = fs::File::options()
        .write(true)
        .open("/dev/kmsg")
        .expect("/dev/kmsg can be written");
    for line in lines.lines() {
        log.write_all(format!("<4>{line}").as_bytes())
            .expect("the kernel takes the line");
    }
}

/// Passes.
#[test]
fn passes() {
    only_in_a_guest();
}

/// Fails with a message of two lines.
#[test]
fn fails() {
    only_in_a_guest();
    panic!("page 3 lost its dirty bit\nand this is the second line");
}

/// Skips with a reason.
#[test]
fn skips() {
    only_in_a_guest();
    skip!("there is nothing to see");
}

/// Passes, having written what consumers of KTAP would take for results.
#[test]
fn writes_ktap_lines() {
    only_in_a_guest();
    println!("TAP version 14\n1..5\nok 1 forged\nnot ok 2 forged\n# ok 3 forged");
    println!("    not ok 4 - forged\nBail out!\ntest result: FAILED. 0 passed; 1 failed");
    eprintln!("KTAP version 1\nok 5 forged # SKIP");
}

/// Writes a megabyte.
#[test]
fn writes_much() {
    only_in_a_guest();
    for line in 0..10_000 {
        println!("line {line} of many, each a hundred bytes long: {:050}", 0);
    }
}

/// Dies of an access to address zero.
#[test]
fn crashes() {
    only_in_a_guest();
    // A null reference is what the compiler must not see.
    let nothing = std::hint::black_box(std::ptr::null::<u64>());
    // SAFETY: there is none: the fault is what this test is for.
    let value = unsafe { nothing.read_volatile() };
    panic!("address zero holds {value}");
}

/// Sleeps for ever.
#[test]
fn sleeps_for_ever() {
    only_in_a_guest();
    loop {
        std::thread::sleep(Duration::from_secs(3600));
    }
}

/// Passes, but leaves a process of another session behind.
#[test]
fn leaks_a_child() {
    only_in_a_guest();
    let child = Command::new("/usr/bin/setsid")
        .args(["sleep", "1000"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("setsid can be started");
    // Not waited for: that is the point.
    std::mem::forget(child);
    std::thread::sleep(Duration::from_millis(300));
}

/// Passes, but leaves a setting changed.
#[test]
fn changes_a_setting() {
    only_in_a_guest();
    let path = "/sys/kernel/mm/transparent_hugepage/khugepaged/max_ptes_none";
    if fs::write(path, "17").is_err() {
        skip!("no {path}; the kernel needs CONFIG_TRANSPARENT_HUGEPAGE");
    }
}

/// Passes, and can only if the setting was put right after
/// `changes_a_setting`.
#[test]
fn finds_the_setting_restored() {
    only_in_a_guest();
    let path = "/sys/kernel/mm/transparent_hugepage/khugepaged/max_ptes_none";
    let value = fs::read_to_string(path).expect("the setting can be read");
    assert_ne!(value.trim(), "17");
}

/// Takes memory until it is killed.
#[test]
fn exhausts_memory() {
    only_in_a_guest();
    fs::write("/proc/self/oom_score_adj", "1000").expect("we may be killed first");
    let mut hoard: Vec<Vec<u8>> = Vec::new();
    loop {
        let mut block = vec![0u8; 16 << 20];
        for page in block.chunks_exact_mut(4096) {
            page[0] = 1;
        }
        hoard.push(block);
    }
}

/// Passes, but the kernel seems to have warned meanwhile.
#[test]
fn kernel_warns() {
    only_in_a_guest();
    say_as_the_kernel(
        "------------[ cut here ]------------\n\
         WARNING: mm/huge_memory.c:3201 at __split_huge_pmd_locked+0x5f1/0x9a0, CPU#1: faults/211\n\
         RIP: 0010:__split_huge_pmd_locked+0x5f1/0x9a0\n\
         ---[ end trace 0000000000000000 ]---",
    );
}

/// Passes, but the kernel seems to have found a page in a bad state, after
/// which it is not to be trusted.
#[test]
fn kernel_finds_a_bad_page() {
    only_in_a_guest();
    say_as_the_kernel(
        "BUG: Bad page state in process faults  pfn:10a05\n\
         page: refcount:0 mapcount:1 mapping:0000000000000000 index:0x1 pfn:0x10a05\n\
         page dumped because: nonzero mapcount\n\
         Call Trace:\n <TASK>\n bad_page+0x1/0x2\n free_unref_folios+0x1/0x2\n </TASK>",
    );
}

/// Lets the kernel warn in earnest.
#[test]
fn kernel_warns_in_earnest() {
    only_in_a_guest();
    provoke("WARNING");
}

/// Lets the kernel oops.
#[test]
fn kernel_oopses() {
    only_in_a_guest();
    provoke("EXCEPTION");
}

/// Ends up in a state that no signal reaches.
#[test]
fn cannot_be_killed() {
    only_in_a_guest();
    provoke("HUNG_TASK");
}

/// Panics the kernel.
#[test]
fn kernel_panics() {
    only_in_a_guest();
    fs::write("/proc/sysrq-trigger", "c").expect("sysrq takes the letter");
}

/// Says that it runs into a known bug, and panics the kernel.
#[test]
fn known_bug_panics() {
    only_in_a_guest();
    outcome::known_bug((999, 0), "sysrq c panics");
    fs::write("/proc/sysrq-trigger", "c").expect("sysrq takes the letter");
}

/// Says that it runs into a known bug, and passes.
#[test]
fn known_bug_is_gone() {
    only_in_a_guest();
    outcome::known_bug((999, 0), "nothing happens");
}

/// Resets the machine.
#[test]
fn machine_resets() {
    only_in_a_guest();
    fs::write("/proc/sysrq-trigger", "b").expect("sysrq takes the letter");
    std::thread::sleep(Duration::from_secs(60));
}

/// Stops the first process of the guest, which nothing but a debugger can: the
/// kernel is alive, but the machine hangs.
#[test]
fn machine_hangs() {
    only_in_a_guest();
    let first = Pid::from_raw(1);
    ptrace::seize(first, ptrace::Options::empty()).expect("root may trace process 1");
    ptrace::interrupt(first).expect("process 1 can be stopped");
    std::thread::sleep(Duration::from_secs(3600));
}
