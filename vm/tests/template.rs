// SPDX-License-Identifier: GPL-2.0-only
//! Machines that begin where another was stopped.

mod support;

use std::io::{Read, Write};
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use hugeprobe_vm::event::Fate;
use hugeprobe_vm::machine::SharedMemory;
use hugeprobe_vm::plan::{Command, Job, Plan, READY, Setup, Share};
use hugeprobe_vm::template::{Template, Waiting};

/// Not a test: what the machines below run, this very program. It waits, notes
/// how often it has been here, and writes where its input says.
#[test]
fn guest_part() {
    let Ok(place) = std::env::var("TEMPLATE_TEST_MAILBOX") else {
        return;
    };
    println!("\n{READY}");
    let mut input = String::new();
    std::io::stdin().read_to_string(&mut input).expect("input");
    let mut words = input.split_whitespace();
    let (folder, text) = (words.next().expect("folder"), words.next().expect("text"));
    let mut visits = std::fs::File::options()
        .create(true)
        .append(true)
        .open("/tmp/visits")
        .expect("opened");
    visits.write_all(b"x").expect("written");
    println!(
        "\nvisits {}",
        std::fs::read("/tmp/visits").expect("read").len()
    );
    std::fs::write(format!("{folder}/{text}"), text).expect("written to the share");
    let offset: u64 = place.parse().expect("a number");
    let memory = std::fs::File::options()
        .read(true)
        .write(true)
        .open("/dev/mem")
        .expect("opened");
    // SAFETY: a new mapping of a range that the host gave us for this.
    unsafe {
        let base = libc::mmap(
            std::ptr::null_mut(),
            4096,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_SHARED,
            std::os::fd::AsRawFd::as_raw_fd(&memory),
            i64::try_from(offset).expect("it fits"),
        );
        assert_ne!(
            base,
            libc::MAP_FAILED,
            "{}",
            std::io::Error::last_os_error()
        );
        for (at, byte) in text.bytes().enumerate() {
            base.cast::<u8>().add(at).write_volatile(byte);
        }
    }
}

#[test]
fn copies_begin_alike_and_keep_what_they_write_to_themselves() {
    let Some(kernel) = support::kernel() else {
        return;
    };
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut machine = support::machine(kernel);
    machine.memory_mib = 1024;
    let program = std::env::current_exe().expect("it has a path");
    let mut waiting = Waiting {
        setup: Setup {
            swap_mib: 64,
            shares: vec![Share {
                tag: "rw".into(),
                path: folder.path().to_owned(),
            }],
            ..Setup::default()
        },
        files: vec![program.clone()],
        warm: None,
    };
    let place = 4u64 << 30;
    waiting.warm = Some(Command {
        argv: vec![
            program.display().to_string(),
            "guest_part".into(),
            "--exact".into(),
            "--nocapture".into(),
        ],
        env: vec![("TEMPLATE_TEST_MAILBOX".into(), place.to_string())],
        cwd: "/".into(),
    });
    let began = Instant::now();
    let never = AtomicBool::new(false);
    let template = Template::make(&machine, &waiting, folder.path(), &never).expect("stopped");
    let boot = began.elapsed();
    assert_eq!(template.shared_memory(), ("/dev/mem", place));
    machine.template = Some(Arc::new(template));
    for text in ["first", "second"] {
        let page = folder.path().join("page");
        let mut machine = machine.clone();
        machine.shared_memory = Some(SharedMemory {
            path: page.clone(),
            size_mib: 1,
        });
        let plan = Plan {
            setup: waiting.setup.clone(),
            job: Job::Feed(format!("{} {text}", folder.path().display())),
        };
        let began = Instant::now();
        let config = support::session(machine, folder.path());
        let (events, summary) = support::run(&plan, &config);
        eprintln!("boot {boot:?}, copy {:?}", began.elapsed());
        assert_eq!((summary.fate, summary.command), (Fate::Clean, Some(0)));
        assert!(support::output(&events).contains(&"visits 1"), "{events:?}");
        assert!(folder.path().join(text).exists());
        let mut seen = vec![0; text.len()];
        let page = std::fs::File::open(&page).expect("it is there");
        page.read_exact_at(&mut seen, 0).expect("read");
        assert_eq!(seen, text.as_bytes());
    }
    // A command that waits makes way for another.
    let plan = Plan {
        setup: waiting.setup.clone(),
        job: Job::Exec(Command {
            argv: vec![program.display().to_string(), "--list".into()],
            env: Vec::new(),
            cwd: "/".into(),
        }),
    };
    let mut config = support::session(machine, folder.path());
    config.limit = Some(Duration::from_secs(60));
    let (events, summary) = support::run(&plan, &config);
    assert_eq!((summary.fate, summary.command), (Fate::Clean, Some(0)));
    assert!(
        support::output(&events).contains(&"guest_part: test"),
        "{events:?}"
    );
}
