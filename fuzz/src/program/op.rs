// SPDX-License-Identifier: GPL-2.0-only
//! The alphabet: one table from which come the type, its text, its parser and
//! its generator. The order of the table is the order of `Op::NAMES`.

use arbitrary::{Result, Unstructured};

use super::arg::*;
use super::choice::*;
use super::named::*;

/// Builds `Op` and what is the same for every operation.
macro_rules! ops {
    ($($(#[$doc:meta])* $name:ident $text:literal { $($field:ident: $type:ty),* $(,)? })*) => {
        /// An operation. The types of the arguments say what they mean.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[expect(missing_docs, reason = "the types of the arguments document them")]
        pub enum Op { $($(#[$doc])* $name { $($field: $type),* }),* }

        impl Op {
            /// Names of all operations, in text form.
            pub const NAMES: &[&str] = &[$($text),*];

            /// The name of this operation, one of `NAMES`.
            pub fn name(&self) -> &'static str {
                match self { $(Self::$name { .. } => $text),* }
            }

            /// Appends the arguments in text form, ` name=value` each.
            pub fn write_args(&self, out: &mut String) {
                match self {
                    $(Self::$name { $($field),* } => {
                        $(out.push_str(concat!(" ", stringify!($field), "=")); $field.write(out);)*
                        let _ = out;
                    })*
                }
            }

            /// The operation of that name; `find` gives the text of an argument.
            /// Fails with the name of the first argument that is missing or wrong.
            pub fn parse<'a>(
                name: &str,
                find: &dyn Fn(&str) -> Option<&'a str>,
            ) -> std::result::Result<Self, &'static str> {
                match name {
                    $($text => Ok(Self::$name {
                        $($field: find(stringify!($field))
                            .and_then(<$type>::parse)
                            .ok_or(stringify!($field))?),*
                    }),)*
                    _ => Err("operation"),
                }
            }

            /// Draws the arguments of the operation of that name.
            pub fn draw(name: &str, u: &mut Unstructured<'_>, context: &Context<'_>) -> Result<Self> {
                let _ = (&u, &context);
                match name {
                    $($text => Ok(Self::$name { $($field: <$type>::draw(u, context)?),* }),)*
                    _ => Err(arbitrary::Error::IncorrectFormat),
                }
            }

            /// Draws one argument anew: the one of that number, modulo their count.
            pub fn redraw(&mut self, which: usize, u: &mut Unstructured<'_>, context: &Context<'_>) -> Result<()> {
                match self {
                    $(Self::$name { $($field),* } => {
                        let mut args: Vec<&mut dyn Redraw> = vec![$($field),*];
                        let count = args.len();
                        if count > 0 {
                            args[which % count].redraw_one(u, context)?;
                        }
                    })*
                }
                Ok(())
            }
        }
    };
}

/// `Arg::redraw` for an argument of any type.
trait Redraw {
    fn redraw_one(&mut self, u: &mut Unstructured<'_>, context: &Context<'_>) -> Result<()>;
}

impl<T: Arg> Redraw for T {
    fn redraw_one(&mut self, u: &mut Unstructured<'_>, context: &Context<'_>) -> Result<()> {
        self.redraw(u, context)
    }
}

ops! {
    /// `mmap` at a fixed place, over whatever is there.
    Mmap "mmap" { at: Addr, len: Len, prot: Prot, backing: Backing }
    /// `munmap`.
    Munmap "munmap" { at: Addr, len: Len }
    /// `brk`, as if the break lay in the arena.
    Brk "brk" { at: Addr, len: Len, how: Break }
    /// `mprotect`.
    Mprotect "mprotect" { at: Addr, len: Len, prot: Prot }
    /// `mremap` of `len` pages to `new` pages.
    Mremap "mremap" { at: Addr, len: Len, to: Addr, new: Len, how: Move }
    /// `madvise`.
    Madvise "madvise" { at: Addr, len: Len, advice: Advice }
    /// `mlock`.
    Mlock "mlock" { at: Addr, len: Len }
    /// `mlock2` with MLOCK_ONFAULT.
    MlockOnfault "mlock-onfault" { at: Addr, len: Len }
    /// `munlock`.
    Munlock "munlock" { at: Addr, len: Len }
    /// A load from each page; each is checked.
    Read "read" { at: Addr, len: Len }
    /// A store of a new stamp to each page.
    Write "write" { at: Addr, len: Len }
    /// `fork`; the child is the given process, if that does not live.
    Fork "fork" { child: Proc }
    /// `_exit`, except in the first process.
    Exit "exit" { }
    /// A write to `/proc/self/clear_refs`.
    ClearRefs "clear-refs" { what: Clear }
    /// Loads of every page of the process, each checked.
    Verify "verify" { }
    /// Opens a userfaultfd if there is none yet, registers the range for write protection.
    UffdRegister "uffd-register" { at: Addr, len: Len, track: Track }
    /// UFFDIO_UNREGISTER.
    UffdUnregister "uffd-unregister" { at: Addr, len: Len }
    /// UFFDIO_WRITEPROTECT with the bit set.
    UffdProtect "uffd-protect" { at: Addr, len: Len }
    /// UFFDIO_WRITEPROTECT with the bit clear.
    UffdUnprotect "uffd-unprotect" { at: Addr, len: Len }
    /// The same for other faults.
    UffdWatch "uffd-watch" { at: Addr, len: Len, track: Track, kind: Watch }
    /// Fills up to 32 pages that are not there.
    UffdFill "uffd-fill" { at: Addr, len: Len, how: Fill }
    /// UFFDIO_MOVE, over holes in the source.
    UffdMove "uffd-move" { at: Addr, len: Len, to: Addr }
    /// UFFDIO_RWPROTECT: closes the pages that are there, or opens them again.
    UffdClose "uffd-close" { at: Addr, len: Len, on: Switch }
    /// UFFDIO_SET_MODE of a userfaultfd of the kind `sigbus`: the kernel opens closed pages by
    /// itself, or refuses again.
    UffdMode "uffd-mode" { on: Switch }
    /// A system-wide event that may move or split pages, and changes nothing that a program sees.
    System "system" { pulse: Pulse }
    /// `process_vm_readv` or `process_vm_writev` of another process's pages.
    Remote "remote" { peer: Proc, at: Addr, len: Len, access: Access }
    /// `execve` of another program, which ends at once; except in the first process.
    Exec "exec" { }
    /// SIGKILL for another process, except the first.
    Kill "kill" { peer: Proc }
    /// A child that executes another program at once.
    Spawn "spawn" { how: Spawn }
    /// `prctl(PR_SET_THP_DISABLE)`.
    ThpDisable "thp-disable" { on: Switch }
    /// Loads or stores of up to 16 pages of another process, as a debugger does.
    Poke "poke" { peer: Proc, at: Addr, len: Len, access: Access, via: Via }
    /// The driver takes back all mappings of a range of device memory.
    Zap "zap" { at: Addr, len: Len }
    /// A setting of huge pages.
    Knob "knob" { knob: Knob }
    /// Enters a memory cgroup of the program's own, and sets its limit.
    Limit "limit" { room: Room }
    /// A longterm pin for writing of up to 64 pages (gup_test), instead of the one before.
    Pin "pin" { at: Addr, len: Len }
    /// Registers up to 32 pages with io_uring as a fixed buffer, a longterm pin for writing,
    /// instead of the pin before.
    Buffer "buffer" { at: Addr, len: Len }
    /// IORING_OP_WRITE_FIXED of the fixed buffer to a file (load), or IORING_OP_READ_FIXED (store).
    Fixed "fixed" { access: Access }
    /// `vmsplice` of up to 16 pages, instead of what lies in the process's pipe.
    Splice "splice" { at: Addr, len: Len }
    /// Reads what lies in the pipe; each page is checked.
    Drain "drain" { }
    /// A direct write of up to 32 pages to a block device (load), or a direct read (store).
    Direct "direct" { at: Addr, len: Len, access: Access }
    /// Reads a file about another process.
    Inspect "inspect" { peer: Proc, what: Look }
    /// PAGEMAP_SCAN for one category, against the page map.
    Scan "scan" { at: Addr, len: Len, what: Category }
    /// Marks page frames idle, and reads the marks (page_idle).
    Idle "idle" { at: Addr, len: Len }
    /// Gives the pin up.
    Unpin "unpin" { }
    /// Moves the pages to a NUMA node.
    Place "place" { at: Addr, len: Len, node: Node }
    /// PAGEMAP_SCAN that protects every page (PM_SCAN_WP_MATCHING).
    ScanProtect "scan-protect" { at: Addr, len: Len }
    /// Makes an allocation of the next operation of the process fail (fail-nth).
    Fail "fail" { nth: Nth }
    /// A command of a mirror device over the range.
    Device "device" { mirror: Mirror, what: Device, at: Addr, len: Len }
}

impl Backing {
    /// Whether it is device memory, mapped by page frame number.
    pub fn is_device(self) -> bool {
        matches!(
            self,
            Self::PfnRemap | Self::PfnPrivate | Self::PfnPte | Self::PfnPmd
        )
    }
}

impl Op {
    /// Whether the executor says by this errno that it did not do it.
    pub fn is_left_out(&self, errno: i32) -> bool {
        matches!(self, Self::Device { .. }) && errno == libc::EAGAIN
    }

    /// The range of pages that the operation works on first, if it has one.
    pub fn span(&mut self) -> Option<(&mut Addr, &mut Len)> {
        match self {
            Self::Mmap { at, len, .. }
            | Self::Munmap { at, len }
            | Self::Brk { at, len, .. }
            | Self::Mprotect { at, len, .. }
            | Self::Mremap { at, len, .. }
            | Self::Madvise { at, len, .. }
            | Self::Mlock { at, len }
            | Self::MlockOnfault { at, len }
            | Self::Munlock { at, len }
            | Self::Read { at, len }
            | Self::Write { at, len }
            | Self::UffdRegister { at, len, .. }
            | Self::UffdUnregister { at, len }
            | Self::UffdProtect { at, len }
            | Self::UffdUnprotect { at, len }
            | Self::UffdWatch { at, len, .. }
            | Self::UffdFill { at, len, .. }
            | Self::UffdMove { at, len, .. }
            | Self::UffdClose { at, len, .. }
            | Self::Pin { at, len }
            | Self::Buffer { at, len }
            | Self::Place { at, len, .. }
            | Self::ScanProtect { at, len }
            | Self::Device { at, len, .. }
            | Self::Poke { at, len, .. }
            | Self::Splice { at, len }
            | Self::Direct { at, len, .. }
            | Self::Scan { at, len, .. }
            | Self::Idle { at, len }
            | Self::Zap { at, len }
            | Self::Remote { at, len, .. } => Some((at, len)),
            Self::Fork { .. }
            | Self::Exit {}
            | Self::Drain {}
            | Self::Inspect { .. }
            | Self::Exec {}
            | Self::Kill { .. }
            | Self::Spawn { .. }
            | Self::ThpDisable { .. }
            | Self::Knob { .. }
            | Self::Limit { .. }
            | Self::Unpin {}
            | Self::UffdMode { .. }
            | Self::Fixed { .. }
            | Self::Fail { .. }
            | Self::ClearRefs { .. }
            | Self::Verify {}
            | Self::System { .. } => None,
        }
    }
}
