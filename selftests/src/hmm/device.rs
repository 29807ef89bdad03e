// SPDX-License-Identifier: GPL-2.0-only
//! An open dmirror device and its commands.
//!
//! Every command returns what the driver answered, or the errno as a
//! [`Refusal`]. An errno that the command does not document is a defect of the
//! kernel, so it panics and shows what was done so far.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::fs::{File, OpenOptions};
use std::ops::Range;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;

use super::hazards::{self, Stock};
use super::node::{Memory, Node};
use super::snapshot::{PageState, runs};
use super::uapi::{Arguments, Op};
use super::{FailAlloc, coherent};
use crate::mapping::{Advice, PAGE, Region};
use crate::pattern::Content;
use crate::skip;

/// Pages that one command can return the content of: two huge pages.
const MIRROR_PAGES: usize = 1024;
/// Commands that a report shows.
const SHOWN: usize = 40;

/// A range of pages by address, which a command works on. It borrows nothing,
/// so the memory may change while the device works on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// Address of the first page.
    pub addr: usize,
    /// Number of pages, at least 1.
    pub pages: usize,
}

impl Span {
    /// Some pages of a region, by number.
    ///
    /// # Panics
    /// When the range is empty or not inside the region.
    #[track_caller]
    pub fn of(region: &Region, numbers: Range<usize>) -> Self {
        assert!(!numbers.is_empty(), "the driver refuses an empty range");
        let bytes = region.absolute(&(numbers.start * PAGE..numbers.end * PAGE));
        Self {
            addr: bytes.start,
            pages: numbers.len(),
        }
    }
}

/// What the driver counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reply {
    /// Pages it handled. A huge page that moves back whole counts once.
    pub cpages: u64,
    /// Rounds of device faults that READ and WRITE needed.
    pub faults: u64,
}

/// A command that was answered with a documented errno.
#[derive(Clone, PartialEq, Eq, thiserror::Error)]
#[error("{op} was refused with {errno}; commands so far:\n{history}")]
pub struct Refusal {
    /// The command.
    pub op: Op,
    /// The answer.
    pub errno: Errno,
    history: String,
}

/// What tests show when they unwrap: the same words.
impl fmt::Debug for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// An open file of a dmirror device; it mirrors the process that opened it.
///
/// Declare it before the memory it works on, so that the memory goes first:
/// closing the last file of a device evicts *all* pages of that device.
#[derive(Debug)]
pub struct Dmirror {
    file: File,
    node: Node,
    stock: Stock,
    /// Where the driver returns content; hidden from children, so that a fork
    /// adds no copy-on-write to what a test counts.
    mirror: Region,
    /// Which pages `mirror` shows, as numbers from the start of the command.
    seen: Cell<usize>,
    history: RefCell<Vec<String>>,
    /// Where pages were sent from; looked at again before the file is closed.
    pub(super) sent: RefCell<Vec<Span>>,
    pub(super) armed: Cell<bool>,
    time: Cell<Duration>,
}

impl Dmirror {
    /// Opens the first device with `memory`; skips the test without one.
    pub fn open(memory: Memory) -> Self {
        Self::open_node(Node::first(memory))
    }

    /// Opens one device; skips the test without it.
    ///
    /// # Panics
    /// When the device exists and cannot be opened.
    pub fn open_node(node: Node) -> Self {
        match OpenOptions::new().read(true).write(true).open(node.path()) {
            Ok(file) => Self::with_file(file, node),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                skip!("{}", node.missing())
            }
            Err(error) => panic!("cannot open {node}: {error}"),
        }
    }

    fn with_file(file: File, node: Node) -> Self {
        let mirror = Region::private(MIRROR_PAGES * PAGE).expect("4 MiB can be mapped");
        // Huge pages only make it faster, so a kernel without them is fine.
        let _ = mirror.madvise(mirror.all(), Advice::HugePage);
        mirror
            .madvise(mirror.all(), Advice::DontFork)
            .expect("private memory can be hidden from children");
        hazards::touch(&mirror);
        Self {
            file,
            node,
            stock: Stock::of(node),
            mirror,
            seen: Cell::new(0),
            history: RefCell::default(),
            sent: RefCell::default(),
            armed: Cell::new(false),
            time: Cell::default(),
        }
    }

    /// Takes its own buffer out of khugepaged's reach, for tests that count
    /// what khugepaged does.
    ///
    /// # Panics
    /// When the kernel has no huge pages.
    pub fn hide_buffer_from_khugepaged(&self) {
        self.mirror
            .madvise(self.mirror.all(), Advice::NoHugePage)
            .expect("MADV_NOHUGEPAGE of anonymous memory");
    }

    /// Which device this is.
    pub fn node(&self) -> Node {
        self.node
    }

    /// What kind of memory it has.
    pub fn memory(&self) -> Memory {
        self.node.memory
    }

    pub(super) fn stock(&self) -> Stock {
        self.stock
    }

    /// The file, for a mapping of the device itself.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// How long the ioctl of the last command took.
    pub fn last_time(&self) -> Duration {
        self.time.get()
    }

    /// The commands so far, newest last.
    pub fn history(&self) -> String {
        let history = self.history.borrow();
        let hidden = history.len().saturating_sub(SHOWN);
        history[hidden..].join("\n")
    }

    /// Moves pages to the device and returns their content as the device has
    /// it (see [`Self::check_seen`]).
    ///
    /// # Errors
    /// `ENOENT` unless *every* page is on the device afterwards; `EINVAL`
    /// without a readable VMA.
    pub fn to_dev(&self, span: Span) -> Result<Reply, Refusal> {
        hazards::before_to_dev(self, span);
        self.sent.borrow_mut().push(span);
        self.returning(Op::ToDev, span)
    }

    /// Moves pages back to system memory. Pages that are not on this device
    /// are left alone.
    ///
    /// # Errors
    /// `EINVAL` without a readable VMA, `ENOMEM` when an allocation failed.
    pub fn to_sys(&self, span: Span) -> Result<Reply, Refusal> {
        self.command(Op::ToSys, span, 0)
    }

    /// The device reads memory, faulting it in as a CPU would.
    ///
    /// # Errors
    /// `EFAULT` where nothing may be read, `EBUSY` when the range kept changing.
    pub fn read(&self, span: Span) -> Result<Reply, Refusal> {
        hazards::before_access(self, span);
        self.returning(Op::Read, span)
    }

    /// As [`Self::read`]; a fault may drop the mmap lock, so user space can
    /// resolve it (userfaultfd).
    ///
    /// # Errors
    /// As [`Self::read`]; `EINVAL` on kernels older than 7.3.
    pub fn read_unlocked(&self, span: Span) -> Result<Reply, Refusal> {
        hazards::before_access(self, span);
        self.returning(Op::ReadUnlocked, span)
    }

    /// The device writes `words`, which hold the content of all pages.
    ///
    /// # Errors
    /// `EPERM` where only reading is allowed, otherwise as [`Self::read`].
    pub fn write(&self, span: Span, words: &[u64]) -> Result<Reply, Refusal> {
        hazards::before_access(self, span);
        self.write_known(span, words)
    }

    /// As [`Self::write`], also onto pages that are on this device.
    ///
    /// The driver must know them: nothing may have invalidated the range (no
    /// mprotect, fork, mremap, split) since TO_DEV returned.
    ///
    /// # Errors
    /// As [`Self::write`].
    pub fn write_known(&self, span: Span, words: &[u64]) -> Result<Reply, Refusal> {
        assert_eq!(words.len() * 8, span.pages * PAGE, "content of all pages");
        self.command(Op::Write, span, words.as_ptr() as u64)
    }

    /// As [`Self::read`], also from pages on this device; see [`Self::write_known`].
    ///
    /// # Errors
    /// As [`Self::read`].
    pub fn read_known(&self, span: Span) -> Result<Reply, Refusal> {
        self.returning(Op::Read, span)
    }

    /// Takes exclusive access to pages of system memory.
    ///
    /// # Errors
    /// `EBUSY`, `EFAULT` or `EINVAL` where it cannot be had.
    pub fn exclusive(&self, span: Span) -> Result<Reply, Refusal> {
        self.returning(Op::Exclusive, span)
    }

    /// Whether no page of the range is held exclusively any more.
    ///
    /// # Panics
    /// When the driver refuses for another reason.
    #[track_caller]
    pub fn exclusive_revoked(&self, span: Span) -> bool {
        match self.command(Op::CheckExclusive, span, 0) {
            Ok(_) => true,
            Err(refusal) if refusal.errno == Errno::EPERM => false,
            Err(refusal) => panic!("{refusal}"),
        }
    }

    /// How the device sees the page table; faults nothing in.
    ///
    /// # Panics
    /// When the driver refuses, or answers with a state that has no meaning.
    #[track_caller]
    pub fn snapshot(&self, span: Span) -> Vec<PageState> {
        self.try_snapshot(span)
            .unwrap_or_else(|refusal| panic!("{refusal}"))
    }

    /// As [`Self::snapshot`], for memory that may be changing.
    ///
    /// # Errors
    /// `EBUSY` when the range kept changing.
    ///
    /// # Panics
    /// When the answer has no meaning.
    #[track_caller]
    pub fn try_snapshot(&self, span: Span) -> Result<Vec<PageState>, Refusal> {
        // A byte that the driver cannot make: it must have written all of them.
        let mut bytes = vec![0x03; span.pages];
        let reply = self.command(Op::Snapshot, span, bytes.as_mut_ptr() as u64)?;
        assert_eq!(reply.cpages, span.pages as u64, "SNAPSHOT is incomplete");
        let states: Result<Vec<_>, _> = bytes.into_iter().map(PageState::decode).collect();
        Ok(states.unwrap_or_else(|unknown| panic!("{unknown}\n{}", self.history())))
    }

    /// Checks that a snapshot shows every page in one state.
    ///
    /// # Panics
    /// When one differs; the message shows all of them as runs.
    #[track_caller]
    pub fn check_states(&self, span: Span, expected: PageState) {
        let states = self.snapshot(span);
        if states.iter().any(|state| *state != expected) {
            let found = runs(&states);
            let history = self.history();
            panic!("expected {expected:?} for all pages, found {found}\n{history}");
        }
    }

    /// Gives up all memory of the device: every page of every process moves
    /// back to system memory.
    ///
    /// # Panics
    /// When the driver could come to harm, see [`hazards`], or refuses.
    #[track_caller]
    pub fn release(&self) {
        hazards::before_release(self);
        self.release_unchecked();
        coherent::forget(self.node);
    }

    pub(super) fn release_unchecked(&self) {
        let anywhere = Span {
            addr: PAGE,
            pages: 1,
        };
        if let Err(refusal) = self.command(Op::Release, anywhere, 0) {
            panic!("{refusal}");
        }
    }

    /// Makes the next allocation of the driver for this file fail; see
    /// [`FailAlloc`].
    #[track_caller]
    pub fn fail_alloc(&self) -> FailAlloc<'_> {
        FailAlloc::arm(self)
    }

    pub(super) fn set_flags(&self, flags: u64) -> Result<Reply, Refusal> {
        let as_pages = Span {
            addr: PAGE,
            pages: flags as usize,
        };
        self.command(Op::Flags, as_pages, 0)
    }

    /// Checks every byte of what the last command returned: the pages of the
    /// command were `numbers` of the region that `content` describes.
    ///
    /// # Panics
    /// When the device has other content than expected.
    #[track_caller]
    pub fn check_seen(&self, content: Content, numbers: Range<usize>) {
        assert_eq!(self.seen.get(), numbers.len(), "the last command's pages");
        self.check_mirror(content, numbers.start, numbers);
    }

    /// As [`Self::check_seen`] for some pages of a command whose first page was
    /// page 0 of the region.
    ///
    /// # Panics
    /// When the device has other content than expected.
    #[track_caller]
    pub fn check_seen_in(&self, content: Content, numbers: Range<usize>) {
        assert!(numbers.end <= self.seen.get(), "the last command's pages");
        self.check_mirror(content, 0, numbers);
    }

    /// Checks that the last command returned nothing.
    ///
    /// # Panics
    /// When it did.
    #[track_caller]
    pub fn check_nothing_seen(&self) {
        assert!(
            hazards::is_spoiled(&self.mirror, self.seen.get()),
            "a refused command returned data\n{}",
            self.history()
        );
    }

    #[track_caller]
    fn check_mirror(&self, content: Content, first: usize, numbers: Range<usize>) {
        let base = self.mirror.addr().wrapping_sub(first * PAGE);
        let wrong = content.mismatches(base, numbers);
        if let Some((page, why)) = wrong.first() {
            let count = wrong.len();
            let history = self.history();
            panic!("the device has {count} wrong pages, first page {page}: {why}\n{history}");
        }
    }

    fn returning(&self, op: Op, span: Span) -> Result<Reply, Refusal> {
        assert!(
            span.pages <= MIRROR_PAGES,
            "{span:x?} is larger than the mirror"
        );
        hazards::spoil(&self.mirror, span.pages);
        self.seen.set(span.pages);
        self.command(op, span, self.mirror.addr() as u64)
    }

    fn command(&self, op: Op, span: Span, ptr: u64) -> Result<Reply, Refusal> {
        let mut arguments = Arguments {
            addr: span.addr as u64,
            ptr,
            npages: span.pages as u64,
            ..Arguments::default()
        };
        let start = Instant::now();
        // SAFETY: `arguments` is what every command of this driver takes; the
        // memory at `ptr` is the mirror or a slice that the caller borrowed,
        // long enough for `npages`, which the callers see to.
        let status =
            unsafe { libc::ioctl(self.file.as_raw_fd(), op.request(), &raw mut arguments) };
        self.time.set(start.elapsed());
        let reply = Reply {
            cpages: arguments.cpages,
            faults: arguments.faults,
        };
        let answer = Errno::result(status).map(|_| reply);
        self.remember(op, span, answer);
        let errno = match answer {
            Ok(reply) => return Ok(reply),
            Err(errno) => errno,
        };
        let history = self.history();
        assert!(
            op.documented_errnos().contains(&errno),
            "{op} answered {errno}, which it does not document; commands so far:\n{history}"
        );
        Err(Refusal { op, errno, history })
    }

    fn remember(&self, op: Op, span: Span, answer: Result<Reply, Errno>) {
        let Span { addr, pages } = span;
        let answer = match answer {
            Ok(Reply { cpages, faults }) => format!("cpages {cpages}, faults {faults}"),
            Err(errno) => errno.to_string(),
        };
        let line = format!("  {} {op} {addr:#x}, {pages} pages: {answer}", self.node);
        self.history.borrow_mut().push(line);
    }
}

impl Drop for Dmirror {
    fn drop(&mut self) {
        hazards::before_close(self);
    }
}

impl std::os::fd::AsFd for Dmirror {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}
