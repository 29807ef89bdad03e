// SPDX-License-Identifier: GPL-2.0-only
//! Child processes that cannot fail unseen: a panic in a child is caught,
//! reported to the parent and fails it; a child that hangs is killed; a child
//! that nobody joined dies with the test.

use std::io::{ErrorKind, Read, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::net::UnixStream;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, Once, PoisonError};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid, waitpid};
use nix::unistd::{ForkResult, Pid, fork};

use crate::{coverage, outcome};

/// How long a child may take for one step of a hand-shake, or to end.
pub const PATIENCE: Duration = Duration::from_secs(60);
/// Exit code of a child whose body panicked; the message is in its pipe.
const EXIT_PANIC: i32 = 77;

/// Set in a child, where panics are not printed but sent to the parent.
static IN_CHILD: AtomicBool = AtomicBool::new(false);
/// Where the child panicked.
static PLACE: Mutex<String> = Mutex::new(String::new());

/// One end of the line between parent and child.
#[derive(Debug)]
pub struct Line(UnixStream);

impl Line {
    /// Sends a value, for instance an address or just "go on".
    ///
    /// # Panics
    /// When the other side is gone.
    #[track_caller]
    pub fn send(&self, value: u64) {
        let sent = (&self.0).write_all(&value.to_ne_bytes());
        sent.unwrap_or_else(|error| panic!("the other process is gone: {error}"));
    }

    /// Waits for a value.
    ///
    /// # Panics
    /// When the other side is gone or lets wait longer than [`PATIENCE`].
    #[track_caller]
    pub fn receive(&self) -> u64 {
        let mut bytes = [0; 8];
        match (&self.0).read_exact(&mut bytes) {
            Ok(()) => u64::from_ne_bytes(bytes),
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => {
                panic!("the other process is gone")
            }
            Err(error) => panic!("waited {PATIENCE:?} for the other process: {error}"),
        }
    }

    /// As [`Self::receive`], and `None` when nothing comes within `limit`.
    ///
    /// # Panics
    /// When the other side is gone.
    #[track_caller]
    pub fn receive_within(&self, limit: Duration) -> Option<u64> {
        let limit = PollTimeout::try_from(limit).unwrap_or(PollTimeout::MAX);
        let mut line = [PollFd::new(self.0.as_fd(), PollFlags::POLLIN)];
        match poll(&mut line, limit) {
            Ok(0) => None,
            Ok(_) => Some(self.receive()),
            Err(errno) => panic!("poll: {errno}"),
        }
    }

    fn pair() -> (Self, Self) {
        let (a, b) = UnixStream::pair().expect("a process can make a pair of sockets");
        for end in [&a, &b] {
            end.set_read_timeout(Some(PATIENCE))
                .expect("a positive time limit is valid");
        }
        (Self(a), Self(b))
    }
}

/// How a child ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// Its body returned.
    Returned,
    /// Its body panicked with this message.
    Panicked(String),
    /// It left by a call of exit(3), with this code.
    Exited(i32),
    /// A signal ended it.
    Killed(Signal),
    /// It did not end in time and was killed.
    TimedOut,
}

/// A running child.
#[derive(Debug)]
#[must_use = "a child that is not joined is killed and fails the test"]
pub struct Child {
    pid: Pid,
    line: Line,
    message: UnixStream,
    reaped: bool,
}

/// Runs `body` in a new process, which ends when `body` returns. The body gets
/// its end of a [`Line`] to the parent.
///
/// # Errors
/// Those of fork(2).
pub fn try_fork(body: impl FnOnce(&Line)) -> Result<Child, Errno> {
    try_fork_by(|fork| (fork(), ()), body).0
}

/// As [`try_fork`], where `around` makes the one system call, for instance with
/// an injected failure, and may return something besides. The child does not
/// return into `around`.
pub fn try_fork_by<T>(
    around: impl FnOnce(&mut dyn FnMut() -> Result<Pid, Errno>) -> (Result<Pid, Errno>, T),
    body: impl FnOnce(&Line),
) -> (Result<Child, Errno>, T) {
    install_hook();
    let (ours, theirs) = Line::pair();
    let (message, message_in_child) =
        UnixStream::pair().expect("a process can make a pair of sockets");
    let mut body = Some(body);
    let (forked, besides) = around(&mut || {
        // SAFETY: the child only takes locks that no other thread holds across
        // a fork: glibc takes care of its allocator, the hook above of the
        // panics, and the tests of a program run one by one.
        match unsafe { fork() }? {
            ForkResult::Parent { child } => Ok(child),
            ForkResult::Child => {
                // Otherwise a parent that dies would go unnoticed.
                let _ = nix::unistd::close(ours.0.as_raw_fd());
                let body = body.take().expect("one fork has one child");
                let message = message_in_child.try_clone();
                run(body, &theirs, message.expect("a socket can be duplicated"))
            }
        }
    });
    let child = forked.map(|pid| Child {
        pid,
        line: ours,
        message,
        reaped: false,
    });
    (child, besides)
}

/// As [`try_fork`], where a fork must succeed.
///
/// # Panics
/// When it does not.
#[track_caller]
pub fn start(body: impl FnOnce(&Line)) -> Child {
    try_fork(body).unwrap_or_else(|errno| panic!("fork: {errno}"))
}

/// Starts a child, and waits for it to end well: see [`Child::join`].
///
/// # Panics
/// When the child does.
#[track_caller]
pub fn run_to_end(body: impl FnOnce(&Line)) {
    start(body).join();
}

/// Keeps a child's panic from being printed: the printing takes locks, and the
/// parent shall say it.
fn install_hook() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let print = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            if !IN_CHILD.load(Ordering::Relaxed) {
                return print(panic);
            }
            if let Some(place) = panic.location() {
                let mut text = PLACE.lock().unwrap_or_else(PoisonError::into_inner);
                *text = format!(" ({}:{})", place.file(), place.line());
            }
        }));
    });
}

/// The child's life after fork: never returns into the parent's code.
fn run(body: impl FnOnce(&Line), line: &Line, mut message: UnixStream) -> ! {
    coverage::trace();
    IN_CHILD.store(true, Ordering::Relaxed);
    let code = match catch_unwind(AssertUnwindSafe(|| body(line))) {
        Ok(()) => 0,
        Err(panic) => {
            let place = PLACE.lock().unwrap_or_else(PoisonError::into_inner);
            let text = outcome::panic_message(&*panic) + &place;
            // If the parent is gone, nobody needs the message.
            let _ = message.write_all(text.as_bytes());
            EXIT_PANIC
        }
    };
    // SAFETY: ends this process at once, without the parent's exit handlers.
    unsafe { libc::_exit(code) }
}

impl Child {
    /// Its process id.
    pub fn pid(&self) -> i32 {
        self.pid.as_raw()
    }

    /// The parent's end of the line.
    pub fn line(&self) -> &Line {
        &self.line
    }

    /// Waits until the child's body has returned.
    ///
    /// # Panics
    /// When the child panicked (with its message), was killed, or took longer
    /// than [`PATIENCE`].
    #[track_caller]
    pub fn join(self) {
        let pid = self.pid;
        match self.wait() {
            End::Returned => {}
            End::Panicked(message) => panic!("in child {pid}: {message}"),
            end => panic!("child {pid}: {end:?}"),
        }
    }

    /// As [`Self::join`], and looks at the child, by its process id, when it has
    /// ended and is not reaped yet.
    ///
    /// # Panics
    /// As [`Self::join`].
    #[track_caller]
    pub fn join_and<T>(self, look: impl FnOnce(i32) -> T) -> T {
        let deadline = Instant::now() + PATIENCE;
        let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT | WaitPidFlag::WNOHANG;
        while matches!(waitid(Id::Pid(self.pid), flags), Ok(WaitStatus::StillAlive)) {
            assert!(Instant::now() < deadline, "child {} does not end", self.pid);
            std::thread::sleep(Duration::from_millis(1));
        }
        let seen = look(self.pid());
        self.join();
        seen
    }

    /// Waits until the child has ended, however it did.
    pub fn wait(mut self) -> End {
        self.wait_at_most(PATIENCE)
    }

    fn wait_at_most(&mut self, limit: Duration) -> End {
        let deadline = Instant::now() + limit;
        let mut pause = Duration::from_micros(50);
        loop {
            match waitpid(self.pid, Some(WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::Exited(_, code)) => return self.exited(code),
                Ok(WaitStatus::Signaled(_, signal, _)) => {
                    self.reaped = true;
                    return End::Killed(signal);
                }
                Ok(_) | Err(Errno::EINTR) => {}
                Err(errno) => panic!("waitpid of our own child: {errno}"),
            }
            if Instant::now() >= deadline {
                self.kill_and_reap();
                return End::TimedOut;
            }
            std::thread::sleep(pause);
            pause = (pause * 2).min(Duration::from_millis(10));
        }
    }

    fn exited(&mut self, code: i32) -> End {
        self.reaped = true;
        match code {
            0 => End::Returned,
            EXIT_PANIC => {
                let mut text = String::new();
                // The child has ended, so this cannot block for long; a
                // message that got lost still leaves a failure.
                let _ = self.message.read_to_string(&mut text);
                End::Panicked(text)
            }
            code => End::Exited(code),
        }
    }

    fn kill_and_reap(&mut self) {
        // Fails only when it has just ended by itself.
        let _ = kill(self.pid, Signal::SIGKILL);
        let _ = waitpid(self.pid, None);
        self.reaped = true;
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        if self.reaped {
            return;
        }
        self.kill_and_reap();
        if !std::thread::panicking() {
            panic!("child {} was never joined", self.pid);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_in_the_child_reaches_the_parent() {
        let end = start(|_| panic!("page {} is wrong", 5)).wait();
        let End::Panicked(text) = end else {
            panic!("{end:?}");
        };
        assert!(
            text.starts_with("page 5 is wrong (selftests/src/child.rs:"),
            "{text}"
        );
    }

    #[test]
    #[should_panic(expected = "page 6 is wrong")]
    fn join_fails_as_the_child_failed() {
        run_to_end(|_| panic!("page {} is wrong", 6));
    }

    #[test]
    fn values_pass_both_ways() {
        let child = start(|parent| {
            let value = parent.receive();
            parent.send(value + 1);
        });
        child.line().send(41);
        assert_eq!(child.line().receive(), 42);
        child.join();
    }

    #[test]
    fn signals_and_codes_are_told_apart() {
        // SAFETY: ends only the child.
        let end = start(|_| unsafe { libc::_exit(9) }).wait();
        assert_eq!(end, End::Exited(9));
        let child = start(|parent| {
            parent.receive();
        });
        kill(child.pid, Signal::SIGTERM).unwrap();
        assert_eq!(child.wait(), End::Killed(Signal::SIGTERM));
    }

    #[test]
    fn a_child_that_hangs_is_killed() {
        let mut child = start(|parent| {
            parent.receive();
        });
        assert_eq!(child.wait_at_most(Duration::from_millis(30)), End::TimedOut);
    }

    #[test]
    #[should_panic(expected = "the other process is gone")]
    fn waiting_for_a_dead_child_fails() {
        let child = start(|_| {});
        child.line().receive();
    }
}
