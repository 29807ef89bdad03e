// SPDX-License-Identifier: GPL-2.0-only
//! The system calls of operations, on the arena. Each returns 0 or an errno.
//!
//! Safe to call: every range is cut to the arena, where nothing of Rust lives.

use std::io;

use libc::{c_int, c_void};
use selftests::memory_failure;
use selftests::program_break::Start;

use crate::program::{
    ARENA, Access, Addr, Advice, Backing, Break, DEVICE_PAGES, Len, Move, PAGE, PAGES, Prot,
};

/// The errno of the last call of this thread.
pub fn errno() -> i32 {
    io::Error::last_os_error()
        .raw_os_error()
        .unwrap_or(libc::EIO)
}

/// Address of a page of the arena.
pub fn address(page: usize) -> usize {
    ARENA + page * PAGE
}

/// Start and bytes of a range, cut at the end of the arena.
fn span(at: Addr, len: Len) -> (*mut c_void, usize) {
    let pages = len.pages().min(PAGES - at.page());
    (address(at.page()) as *mut c_void, pages * PAGE)
}

fn check(result: c_int) -> i32 {
    if result == 0 { 0 } else { errno() }
}

fn prot_bits(prot: Prot) -> c_int {
    match prot {
        Prot::None => libc::PROT_NONE,
        Prot::Read => libc::PROT_READ,
        Prot::Write => libc::PROT_READ | libc::PROT_WRITE,
    }
}

/// `mmap` with MAP_FIXED; `file` is the stamped file.
pub fn mmap(at: Addr, len: Len, prot: Prot, backing: Backing, file: c_int) -> i32 {
    let (start, bytes) = span(at, len);
    let (flags, fd) = match backing {
        Backing::Anon => (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1),
        Backing::Populated => (
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_POPULATE,
            -1,
        ),
        Backing::Shared => (libc::MAP_SHARED | libc::MAP_ANONYMOUS, -1),
        Backing::File | Backing::PfnPrivate => (libc::MAP_PRIVATE, file),
        Backing::PfnRemap | Backing::PfnPte | Backing::PfnPmd => (libc::MAP_SHARED, file),
    };
    let offset = if backing.is_device() {
        at.page() % DEVICE_PAGES * PAGE
    } else {
        0
    };
    // SAFETY: maps over the arena only.
    let result = unsafe {
        libc::mmap(
            start,
            bytes,
            prot_bits(prot),
            flags | libc::MAP_FIXED | libc::MAP_NORESERVE,
            fd,
            offset as libc::off_t,
        )
    };
    match result {
        libc::MAP_FAILED => errno(),
        found if found == start => 0,
        _ => libc::EFAULT,
    }
}

/// `munmap`.
pub fn munmap(at: Addr, len: Len) -> i32 {
    let (start, bytes) = span(at, len);
    // SAFETY: unmaps in the arena only.
    check(unsafe { libc::munmap(start, bytes) })
}

/// `brk` over a range, as if the break had come from the start of the arena.
pub fn brk(heap: Start, at: Addr, len: Len, how: Break) -> i32 {
    let (start, bytes) = span(at, len);
    let (low, high) = (start as usize, start as usize + bytes);
    let (from, to) = match how {
        Break::Grow => (low, high),
        Break::Shrink => (high, low),
    };
    // SAFETY: maps and unmaps in the arena only; the one thread of this process that may
    // run beside this one answers a userfaultfd, and allocates nothing.
    let moved = unsafe { heap.move_from(ARENA, from, to) };
    moved.err().map_or(0, |errno| errno as i32)
}

/// `mprotect`.
pub fn mprotect(at: Addr, len: Len, prot: Prot) -> i32 {
    let (start, bytes) = span(at, len);
    // SAFETY: changes the arena only.
    check(unsafe { libc::mprotect(start, bytes, prot_bits(prot)) })
}

/// `mremap`; source and destination lie in the arena (`Model::skips`).
pub fn mremap(at: Addr, len: Len, to: Addr, new: Len, how: Move) -> i32 {
    let fixed = libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED;
    let (flags, wanted) = match how {
        Move::Inplace => (0, address(at.page())),
        Move::Fixed => (fixed, address(to.page())),
        Move::Dontunmap => (fixed | libc::MREMAP_DONTUNMAP, address(to.page())),
    };
    let (old, new) = (len.pages() * PAGE, new.pages() * PAGE);
    // SAFETY: moves inside the arena only.
    let result = unsafe {
        libc::mremap(
            address(at.page()) as *mut c_void,
            old,
            new,
            flags,
            wanted as *mut c_void,
        )
    };
    match result {
        libc::MAP_FAILED => errno(),
        found if found as usize == wanted => 0,
        _ => libc::EFAULT,
    }
}

/// The number of an advice (include/uapi/asm-generic/mman-common.h).
pub fn advice_number(advice: Advice) -> c_int {
    match advice {
        Advice::Hugepage => libc::MADV_HUGEPAGE,
        Advice::Nohugepage => libc::MADV_NOHUGEPAGE,
        Advice::Collapse => libc::MADV_COLLAPSE,
        Advice::Dontneed => libc::MADV_DONTNEED,
        Advice::DontneedLocked => 24,
        Advice::Free => libc::MADV_FREE,
        Advice::Cold => libc::MADV_COLD,
        Advice::Pageout => libc::MADV_PAGEOUT,
        Advice::PopulateRead => libc::MADV_POPULATE_READ,
        Advice::PopulateWrite => libc::MADV_POPULATE_WRITE,
        Advice::Remove => libc::MADV_REMOVE,
        Advice::GuardInstall => 102,
        Advice::GuardRemove => 103,
        Advice::Wipeonfork => libc::MADV_WIPEONFORK,
        Advice::Keeponfork => libc::MADV_KEEPONFORK,
        Advice::Dontfork => libc::MADV_DONTFORK,
        Advice::Dofork => libc::MADV_DOFORK,
        Advice::Mergeable => libc::MADV_MERGEABLE,
        Advice::Unmergeable => libc::MADV_UNMERGEABLE,
        Advice::SoftOffline => 101,
        Advice::Hwpoison => libc::MADV_HWPOISON,
    }
}

/// `madvise`.
pub fn madvise(at: Addr, len: Len, advice: Advice) -> i32 {
    let (start, mut bytes) = span(at, len);
    if advice == Advice::SoftOffline {
        bytes = bytes.min(2 * PAGE);
    }
    if advice == Advice::Hwpoison {
        let start = start as usize;
        // SAFETY: nothing of Rust lies in the arena; a thread that answers a userfaultfd
        // touches none of it.
        let result = unsafe { memory_failure::inject(&(start..start + PAGE)) };
        return result.map_or_else(|errno| errno as i32, |()| 0);
    }
    // SAFETY: advises about the arena only.
    check(unsafe { libc::madvise(start, bytes, advice_number(advice)) })
}

/// `mlock2` with or without MLOCK_ONFAULT.
pub fn mlock(at: Addr, len: Len, on_fault: bool) -> i32 {
    let (start, bytes) = span(at, len);
    let flags = if on_fault { libc::MLOCK_ONFAULT } else { 0 };
    // SAFETY: locks pages of the arena.
    check(unsafe { libc::syscall(libc::SYS_mlock2, start, bytes, flags) } as c_int)
}

/// `munlock`.
pub fn munlock(at: Addr, len: Len) -> i32 {
    let (start, bytes) = span(at, len);
    // SAFETY: unlocks pages of the arena.
    check(unsafe { libc::munlock(start, bytes) })
}

/// Whether anything is mapped at the page, by `mincore`.
pub fn mapped(page: usize) -> bool {
    let mut resident = 0;
    // SAFETY: one page, one byte of result.
    let result = unsafe { libc::mincore(address(page) as *mut c_void, PAGE, &raw mut resident) };
    result == 0 || errno() != libc::ENOMEM
}

/// Copies four words between here and the same page of another process, at the
/// given offsets. Returns 0, an errno, or EIO for a short transfer.
pub fn remote(
    pid: i32,
    page: usize,
    offsets: [usize; 4],
    words: &mut [u64; 4],
    access: Access,
) -> i32 {
    match remote_bytes(pid, page, offsets, words, access) {
        32 => 0,
        errno if errno < 0 => -errno as i32,
        _ => libc::EIO,
    }
}

/// The same; returns how many bytes were copied, or an errno, negated.
pub fn remote_bytes(
    pid: i32,
    page: usize,
    offsets: [usize; 4],
    words: &mut [u64; 4],
    access: Access,
) -> isize {
    let local = libc::iovec {
        iov_base: words.as_mut_ptr().cast(),
        iov_len: 32,
    };
    let there = offsets.map(|offset| libc::iovec {
        iov_base: (address(page) + offset) as *mut c_void,
        iov_len: 8,
    });
    // SAFETY: the local side is `words`, the remote side lies in the other's arena.
    let count = unsafe {
        match access {
            Access::Load => libc::process_vm_readv(pid, &raw const local, 1, there.as_ptr(), 4, 0),
            Access::Store => {
                libc::process_vm_writev(pid, &raw const local, 1, there.as_ptr(), 4, 0)
            }
        }
    };
    if count < 0 { -errno() as isize } else { count }
}

/// `fork`, but the new process is a child of our parent, which reaps all, and
/// shares our descriptors: they are closed when the last process has ended.
/// Returns 0 in the child, the child's pid, or an errno, negated.
pub fn fork_sibling() -> i32 {
    let flags = libc::CLONE_PARENT | libc::CLONE_FILES | libc::SIGCHLD;
    // SAFETY: without CLONE_VM this is fork; the process has one thread that
    // matters, and the child goes on with a copy of everything.
    let pid = unsafe { libc::syscall(libc::SYS_clone, flags, 0, 0, 0, 0) };
    if pid < 0 { -errno() } else { pid as i32 }
}

/// Forks a child that ends at once, and waits for that. Returns 0 or an errno.
pub fn fork_and_reap() -> i32 {
    let flags = libc::CLONE_FILES | libc::SIGCHLD;
    // SAFETY: without CLONE_VM this is fork; the child only ends.
    let pid = unsafe { libc::syscall(libc::SYS_clone, flags, 0, 0, 0, 0) } as i32;
    match pid {
        0 => exit(0),
        pid if pid > 0 => {
            // SAFETY: our child, not reaped yet.
            unsafe { libc::waitpid(pid, std::ptr::null_mut(), 0) };
            0
        }
        _ => errno(),
    }
}

/// A counter that takes any number of additions without waiting, for `refuses_load`.
pub fn bell() -> io::Result<c_int> {
    // SAFETY: a new descriptor.
    let fd = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) };
    if fd < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(fd)
    }
}

/// Whether the kernel gets EFAULT when it loads the first word of a page; `bell`
/// adds it to a count that nobody reads.
pub fn refuses_load(bell: c_int, page: usize) -> bool {
    // SAFETY: the kernel reads eight bytes of the arena, or fails.
    let result = unsafe { libc::write(bell, address(page) as *const c_void, 8) };
    result < 0 && errno() == libc::EFAULT
}

/// Whether the kernel gets EFAULT when it stores to a page. If it does not, the
/// time stands there now.
pub fn refuses_store(page: usize) -> bool {
    // SAFETY: the kernel writes sixteen bytes of the arena, or fails; a system call,
    // because the vDSO would write by itself.
    let result = unsafe {
        libc::syscall(
            libc::SYS_clock_gettime,
            libc::CLOCK_MONOTONIC,
            address(page),
        )
    };
    result < 0 && errno() == libc::EFAULT
}

/// Compacts the memory of the node that this CPU belongs to, where programs have
/// most of theirs: all nodes cost twice as much. Returns 0 or an errno.
pub fn compact() -> i32 {
    let mut node = 0u32;
    // SAFETY: writes one number.
    unsafe {
        libc::syscall(
            libc::SYS_getcpu,
            std::ptr::null_mut::<u32>(),
            &raw mut node,
            0,
        )
    };
    let file = format!("/sys/devices/system/node/node{node}/compact");
    let done = std::fs::write(file, "1");
    let done = done.or_else(|_| std::fs::write("/proc/sys/vm/compact_memory", "1"));
    done.map_or_else(|error| error.raw_os_error().unwrap_or(libc::EIO), |()| 0)
}

/// Ends the process at once.
pub fn exit(code: i32) -> ! {
    // SAFETY: always allowed.
    unsafe { libc::_exit(code) }
}
