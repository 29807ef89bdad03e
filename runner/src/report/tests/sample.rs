// SPDX-License-Identifier: GPL-2.0-only
//! Event streams for the tests of the reporters.

use hugeprobe_vm::event::{Event, Fate, Splat, Stamped, Stream, TestId, Verdict};

use crate::report::RunInfo;

fn id(target: &str, name: &str) -> TestId {
    TestId {
        target: target.into(),
        name: name.into(),
    }
}

fn stamp(events: Vec<Event>) -> Vec<Stamped> {
    let stamps = events.into_iter().zip(0..);
    stamps
        .map(|(event, number)| Stamped {
            ms: number * 10,
            event,
        })
        .collect()
}

fn out(line: &str) -> Event {
    Event::TestOutput {
        stream: Stream::Stdout,
        line: line.into(),
    }
}

fn test(id: &TestId, verdict: Verdict, reason: &str, inside: Vec<Event>) -> Vec<Event> {
    let mut events = vec![Event::TestBegins { test: id.clone() }];
    events.extend(inside);
    events.push(Event::TestEnds {
        test: id.clone(),
        verdict,
        reason: reason.into(),
        duration_ms: 120,
        splats: vec![],
    });
    events
}

fn splat() -> Splat {
    Splat {
        title: "WARNING in __split_huge_pmd_locked".into(),
        lines: vec![
            "WARNING: mm/huge_memory.c:2917 at __split_huge_pmd_locked+0x1/0x2".into(),
            "Call Trace: <TASK>".into(),
        ],
        allowed: None,
    }
}

pub fn run_info() -> RunInfo {
    RunInfo {
        arguments: vec!["--kver".into(), "7.3".into()],
        kernel: vec![("source".into(), "linux 7.3.4 <debian>".into())],
    }
}

fn begins(tests: &[TestId]) -> Vec<Event> {
    vec![
        Event::RunBegins {
            version: "0.1.0".into(),
            tests: tests.to_vec(),
        },
        Event::VmBoots {
            number: 1,
            accel: "tcg".into(),
        },
    ]
}

fn ready() -> Event {
    Event::GuestReady {
        release: "7.3.4".into(),
        version: "#1 SMP".into(),
    }
}

/// A pass, a fail with output that looks like KTAP, a skip, an xfail, a splat,
/// a timeout, a panic that takes the machine down, a rest in a second machine
/// that is interrupted by a stray report, and one test that is never reached.
pub fn everything() -> Vec<Stamped> {
    let pmd = |name| id("pmd_split", name);
    let tests = vec![
        pmd("plain"),
        pmd("partial_munmap::first_page"),
        pmd("needs_uffd"),
        pmd("known_bug"),
        pmd("warns"),
        id("hmm", "too_slow"),
        id("hmm", "panics"),
        id("hmm", "after_the_panic"),
        id("khugepaged", "never_reached"),
    ];
    let mut events = begins(&tests);
    events.push(ready());
    events.extend(test(
        &tests[0],
        Verdict::Pass,
        "",
        vec![out(
            "NOT APPLICABLE: thp_split_pmd_failed: this kernel has no such counter",
        )],
    ));
    events.extend(test(
        &tests[1],
        Verdict::Fail,
        "page 7: expected 0x07\n found 0x00 # SKIP me",
        [
            "ok 1 forged",
            "  not ok 2 forged # TODO",
            "# Subtest: forged",
            "1..5",
            "KTAP version 1",
            "reboot: System halted",
            "bell \u{7} <b>&amp;</b>",
        ]
        .map(out)
        .into(),
    ));
    events.extend(test(
        &tests[2],
        Verdict::Skip,
        "no userfaultfd: CONFIG_USERFAULTFD",
        vec![],
    ));
    events.extend(test(
        &tests[3],
        Verdict::Xfail,
        "dirty bit lost on 7.2 to 7.3",
        vec![],
    ));
    events.extend([
        Event::TestBegins {
            test: tests[4].clone(),
        },
        Event::KernelLine {
            line: splat().lines[0].clone(),
        },
        Event::TestEnds {
            test: tests[4].clone(),
            verdict: Verdict::Fail,
            reason: splat().title,
            duration_ms: 55,
            splats: vec![splat()],
        },
    ]);
    events.extend(test(
        &tests[5],
        Verdict::Timeout,
        "no end within 60 s",
        vec![],
    ));
    events.extend([
        Event::TestBegins {
            test: tests[6].clone(),
        },
        Event::KernelLine {
            line: "Kernel panic - not syncing: sysrq triggered crash".into(),
        },
        Event::VmEnds {
            number: 1,
            fate: Fate::Panic {
                title: "panic in sysrq_handle_crash".into(),
            },
        },
        Event::TestEnds {
            test: tests[6].clone(),
            verdict: Verdict::Crashed,
            reason: "panic in sysrq_handle_crash".into(),
            duration_ms: 900,
            splats: vec![],
        },
        Event::VmBoots {
            number: 2,
            accel: "tcg".into(),
        },
        ready(),
    ]);
    events.extend(test(&tests[7], Verdict::Pass, "", vec![]));
    events.push(Event::StraySplat { splat: splat() });
    events.push(Event::VmEnds {
        number: 2,
        fate: Fate::Lost {
            detail: "signal 9".into(),
        },
    });
    events.push(Event::RunEnds { interrupted: false });
    stamp(events)
}

/// Two tests that both end with the verdict of this name.
pub fn all(verdict: &str) -> Vec<Stamped> {
    let verdict: Verdict = serde_json::from_value(verdict.into()).unwrap();
    let tests = [id("a", "x"), id("a", "y")];
    let mut events = begins(&tests);
    events.push(ready());
    for id in &tests {
        events.extend(test(id, verdict, "why", vec![]));
    }
    events.push(Event::VmEnds {
        number: 1,
        fate: Fate::Clean,
    });
    events.push(Event::RunEnds { interrupted: false });
    stamp(events)
}

/// Everything passes, but the kernel complains between the tests.
pub fn stray() -> Vec<Stamped> {
    let mut events = all("pass");
    let ms = events.len() as u64 * 10;
    events.push(Stamped {
        ms,
        event: Event::StraySplat { splat: splat() },
    });
    events
}

/// The machine never comes up.
pub fn no_boot() -> Vec<Stamped> {
    let test = id("a", "x");
    let detail = "no QEMU: apt install qemu-system-x86".to_owned();
    let mut events = begins(std::slice::from_ref(&test));
    events.push(Event::VmEnds {
        number: 1,
        fate: Fate::Infrastructure {
            detail: detail.clone(),
        },
    });
    events.push(Event::TestEnds {
        test,
        verdict: Verdict::Skip,
        reason: format!("not run: {detail}"),
        duration_ms: 0,
        splats: vec![],
    });
    events.push(Event::RunEnds { interrupted: false });
    stamp(events)
}

/// The user stops a run whose first test failed.
pub fn interrupted() -> Vec<Stamped> {
    let tests = [id("a", "x"), id("a", "y")];
    let mut events = begins(&tests);
    events.extend(test(&tests[0], Verdict::Fail, "why", vec![]));
    events.push(Event::VmEnds {
        number: 1,
        fate: Fate::Interrupted,
    });
    events.push(Event::RunEnds { interrupted: true });
    stamp(events)
}
