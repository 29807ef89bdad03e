// SPDX-License-Identifier: GPL-2.0-only
//! How a test says anything but pass and fail: `skip!`, [`xfail`],
//! `not_applicable!`; and `enter!`, which keeps tests off the developer's own
//! machine. Exit codes and line formats are those of docs/architecture.md,
//! "How a test program talks".

use std::any::Any;
use std::io::Write;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::Command;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;

use crate::{settings, text};

/// Exit code of an expected failure (KSFT_XFAIL).
pub const EXIT_XFAIL: i32 = 2;
/// Exit code of an unexpected pass (KSFT_XPASS).
pub const EXIT_XPASS: i32 = 3;
/// Exit code of a test that cannot run here (KSFT_SKIP).
pub const EXIT_SKIP: i32 = 4;

/// Set to `1` by whoever runs one test in a process of its own.
const GUEST: &str = "HUGEPROBE_GUEST";
/// Set to `1` by a developer who wants the tests on this very machine.
const HOST: &str = "HUGEPROBE_HOST";

/// First statement of every test: ends the test at once where it must not run.
///
/// - with `HUGEPROBE_GUEST=1` the body runs here;
/// - with `HUGEPROBE_HOST=1` it runs in a new process of the same program, and
///   what that process says becomes the result;
/// - otherwise nothing runs and the test says so.
#[macro_export]
macro_rules! enter {
    () => {
        if !$crate::outcome::enter() {
            return;
        }
    };
}

/// Ends the test: it cannot run here, and the reason says what is missing and
/// which option, setting or argument would provide it.
#[macro_export]
macro_rules! skip {
    ($($arg:tt)+) => {
        $crate::outcome::skip(&format!($($arg)+))
    };
}

/// States that one check of a test does not exist on this kernel:
/// `not_applicable!("thp_split_pmd_failed", "no such counter")`.
#[macro_export]
macro_rules! not_applicable {
    ($what:expr, $($why:tt)+) => {
        // libtest leaves its own line on standard output unfinished.
        eprintln!("NOT APPLICABLE: {}: {}", $what, format!($($why)+))
    };
}

fn is_set(name: &str) -> bool {
    std::env::var_os(name).is_some_and(|value| value == "1")
}

/// Whether this is a guest of hugeprobe, prepared as its tests expect.
pub fn is_guest() -> bool {
    is_set(GUEST)
}

/// Whether settings of this machine may be changed: in a guest, or where the
/// developer has said so.
pub fn may_change_machine() -> bool {
    is_set(GUEST) || is_set(HOST)
}

/// Does the work of [`enter!`]; `true` means that the body shall run.
///
/// # Panics
/// With `HUGEPROBE_HOST=1`, when the test failed in its own process.
pub fn enter() -> bool {
    main_pid();
    if is_set(GUEST) {
        use_all_cpus();
        return true;
    }
    if !is_set(HOST) {
        println!("SKIP: this test changes the machine; run it in a guest, or set {HOST}=1");
        return false;
    }
    let thread = std::thread::current();
    match thread.name() {
        // libtest gives each test a thread of its name, unless it runs them
        // one by one; then this process has to do.
        Some("main") | None => true,
        Some(test) => {
            run_in_own_process(test);
            false
        }
    }
}

/// Lets the test run everywhere: a guest starts it on one CPU, where the main thread, which only
/// waits, stays.
fn use_all_cpus() {
    let mut all = CpuSet::new();
    for cpu in 0..CpuSet::count() {
        let _ = all.set(cpu);
    }
    // Where it is forbidden, the test keeps to what it has.
    let _ = sched_setaffinity(Pid::from_raw(0), &all);
}

fn run_in_own_process(test: &str) {
    let program = std::env::current_exe().expect("a running program has a path");
    let output = Command::new(program)
        .args([test, "--exact", "--nocapture", "--test-threads=1"])
        .env(GUEST, "1")
        .output()
        .expect("a program that runs can be started again");
    let text = String::from_utf8_lossy(&output.stdout);
    print!("{text}");
    eprint!("{}", String::from_utf8_lossy(&output.stderr));
    let passed = output.status.success() && text.contains("test result: ok. 1 passed");
    let excused = matches!(output.status.code(), Some(EXIT_SKIP | EXIT_XFAIL));
    assert!(passed || excused, "{test}: {}", output.status);
}

/// The process that `main` runs in, as opposed to its forked children.
fn main_pid() -> u32 {
    static PID: OnceLock<u32> = OnceLock::new();
    *PID.get_or_init(std::process::id)
}

/// Does the work of [`skip!`].
pub fn skip(reason: &str) -> ! {
    leave(&format!("SKIP: {reason}"), EXIT_SKIP)
}

/// Ends the test where mainline up to the release `last` has a bug that would
/// stop the kernel or damage it: that is no news, and the tests after this one
/// want to run. `hugeprobe run --known-bugs` goes on all the same; the test is
/// then expected to fail or to take the kernel with it.
pub fn known_bug(last: (u32, u32), what: &str) {
    if crate::release::release() > last {
        return;
    }
    let (major, minor) = last;
    let bug = format!("mainline up to {major}.{minor}: {what}");
    if is_set("HUGEPROBE_KNOWN_BUGS") {
        // Whoever runs the test hears it before the kernel is gone; libtest leaves its own line
        // on standard output unfinished.
        eprintln!("KNOWN BUG: {bug}");
        wait_until_heard();
    } else {
        skip(&format!("known bug of {bug}; `--known-bugs` runs the test"));
    }
}

/// Waits until the first process of a guest has read what stands in standard error, told the
/// host, and waits for more: it runs on the same CPU as a test, which may be about to stop it.
fn wait_until_heard() {
    let deadline = Instant::now() + Duration::from_secs(5);
    let heard = || {
        let mut unread = 0;
        // SAFETY: FIONREAD writes one int; it refuses where there is no pipe.
        let refused = unsafe { libc::ioctl(libc::STDERR_FILENO, libc::FIONREAD, &mut unread) } != 0;
        let call = text::read("/proc/1/syscall").unwrap_or_default();
        refused || (unread == 0 && call.starts_with(&format!("{} ", libc::SYS_poll)))
    };
    while is_guest() && !heard() && Instant::now() < deadline {
        std::thread::yield_now();
    }
}

/// Runs a check that is known to fail and says why it may.
///
/// Ends the test as an expected failure when `check` panics, and as an
/// unexpected pass when it does not: put everything else before it.
pub fn xfail(reason: &str, check: impl FnOnce()) -> ! {
    match catch_unwind(AssertUnwindSafe(check)) {
        Err(panic) => {
            println!("expected failure: {}", panic_message(&*panic));
            leave(&format!("XFAIL: {reason}"), EXIT_XFAIL)
        }
        Ok(()) => leave(&format!("XPASS: no longer fails: {reason}"), EXIT_XPASS),
    }
}

/// The text that a panic carries.
pub fn panic_message(panic: &(dyn Any + Send)) -> String {
    panic
        .downcast_ref::<String>()
        .cloned()
        .or_else(|| panic.downcast_ref::<&str>().map(|text| text.to_string()))
        .unwrap_or_else(|| "a panic without a message".to_string())
}

fn leave(line: &str, code: i32) -> ! {
    assert_eq!(
        std::process::id(),
        main_pid(),
        "a child must not end the test: {line}"
    );
    // Nothing unwinds from here on, so no guard is dropped.
    settings::restore_all();
    let mut out = std::io::stdout();
    // When nobody reads the line, the exit code still tells.
    let _ = writeln!(out, "{line}").and_then(|()| out.flush());
    std::process::exit(code)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn panic_messages_of_both_kinds_are_found() {
        let owned = catch_unwind(|| panic!("page {}", 7)).unwrap_err();
        assert_eq!(panic_message(&*owned), "page 7");
        let literal = catch_unwind(|| panic!("plain")).unwrap_err();
        assert_eq!(panic_message(&*literal), "plain");
    }
}
