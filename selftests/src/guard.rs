// SPDX-License-Identifier: GPL-2.0-only
//! Loads and stores that may fault: a fault is a result, not the end.
//!
//! The accesses are a few instructions of our own assembly. A handler for
//! SIGSEGV and SIGBUS recognises a fault at one of them by its address and lets
//! the access return which signal it was. No state is shared, so any number of
//! threads may use it at once; any other fault kills the process as usual.

use std::arch::global_asm;
use std::fmt;
use std::sync::Once;

mod series;

pub use self::series::Series;

global_asm!(
    ".pushsection .text.hugeprobe_guard, \"ax\", @progbits",
    ".globl hugeprobe_guard_begin, hugeprobe_guard_end, hugeprobe_guard_fault",
    ".globl hugeprobe_guard_load, hugeprobe_guard_store, hugeprobe_guard_copy, hugeprobe_guard_words",
    ".globl hugeprobe_guard_gather, hugeprobe_guard_fill, hugeprobe_guard_differ",
    "hugeprobe_guard_begin:",
    // (address, out): one byte
    "hugeprobe_guard_load:",
    "movzx eax, byte ptr [rdi]",
    "mov byte ptr [rsi], al",
    "xor eax, eax",
    "ret",
    // (address, value): one byte
    "hugeprobe_guard_store:",
    "mov byte ptr [rdi], sil",
    "xor eax, eax",
    "ret",
    // (to, from, bytes)
    "hugeprobe_guard_copy:",
    "mov rcx, rdx",
    "rep movsb",
    "xor eax, eax",
    "ret",
    // (to, from, words of 8 bytes)
    "hugeprobe_guard_words:",
    "mov rcx, rdx",
    "rep movsq",
    "xor eax, eax",
    "ret",
    // (from, bytes from one to the next, to, words of 8 bytes)
    "hugeprobe_guard_gather:",
    "test rcx, rcx",
    "jz 2f",
    "3:",
    "mov rax, qword ptr [rdi]",
    "mov qword ptr [rdx], rax",
    "add rdi, rsi",
    "add rdx, 8",
    "dec rcx",
    "jnz 3b",
    "2:",
    "xor eax, eax",
    "ret",
    // (to, first word, from one word to the next, blocks of 8 words)
    "hugeprobe_guard_fill:",
    ".irp at, 0, 8, 16, 24, 32, 40, 48, 56",
    "mov qword ptr [rdi + \\at], rsi",
    "add rsi, rdx",
    ".endr",
    "add rdi, 64",
    "dec rcx",
    "jnz hugeprobe_guard_fill",
    "xor eax, eax",
    "ret",
    // (from, first word, from one word to the next, blocks of 8 words): in rdx how many
    // blocks are left from the first that differs. One jump for a block, as jumps are what
    // an emulated CPU is slow at.
    "hugeprobe_guard_differ:",
    "xor r8d, r8d",
    ".irp at, 0, 8, 16, 24, 32, 40, 48, 56",
    "mov r9, qword ptr [rdi + \\at]",
    "xor r9, rsi",
    "or r8, r9",
    "add rsi, rdx",
    ".endr",
    "test r8, r8",
    "jnz 4f",
    "add rdi, 64",
    "dec rcx",
    "jnz hugeprobe_guard_differ",
    "4:",
    "mov rdx, rcx",
    "xor eax, eax",
    "ret",
    "hugeprobe_guard_end:",
    // The handler has put signal and code into rax, the address into rdx.
    "hugeprobe_guard_fault:",
    "ret",
    ".popsection",
);

/// What the accesses return in rax and rdx: zero and what the access says, or signal and code,
/// and address.
#[repr(C)]
struct Raw {
    cause: u64,
    address: u64,
}

unsafe extern "C" {
    safe static hugeprobe_guard_begin: u8;
    safe static hugeprobe_guard_end: u8;
    safe static hugeprobe_guard_fault: u8;
    fn hugeprobe_guard_load(address: usize, out: *mut u8) -> Raw;
    fn hugeprobe_guard_store(address: usize, value: u8) -> Raw;
    fn hugeprobe_guard_copy(to: usize, from: usize, bytes: usize) -> Raw;
    fn hugeprobe_guard_words(to: usize, from: usize, words: usize) -> Raw;
    fn hugeprobe_guard_gather(from: usize, stride: usize, to: *mut u64, words: usize) -> Raw;
}

/// Which signal an access was answered with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Signal {
    /// No mapping, or none that permits the access.
    Segv,
    /// A mapping without memory behind it: end of file, poison, failed paging.
    Bus,
}

/// A fault that an access met.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The signal.
    pub signal: Signal,
    /// `si_code`: [`SEGV_MAPERR`], [`SEGV_ACCERR`] and others of sigaction(2).
    pub code: i32,
    /// `si_addr`.
    pub address: usize,
}

/// Nothing is mapped at the address.
pub const SEGV_MAPERR: i32 = 1;
/// The mapping does not permit the access.
pub const SEGV_ACCERR: i32 = 2;

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let signal = match self.signal {
            Signal::Segv => "SIGSEGV",
            Signal::Bus => "SIGBUS",
        };
        let code = match (self.signal, self.code) {
            (Signal::Segv, SEGV_MAPERR) => "SEGV_MAPERR",
            (Signal::Segv, SEGV_ACCERR) => "SEGV_ACCERR",
            (Signal::Bus, libc::BUS_ADRERR) => "BUS_ADRERR",
            _ => "si_code",
        };
        write!(f, "{signal} {code}({}) at {:#x}", self.code, self.address)
    }
}

impl std::error::Error for Fault {}

/// Loads one byte.
///
/// # Errors
/// The fault that the load met.
pub fn load(address: usize) -> Result<u8, Fault> {
    install();
    let mut byte = 0;
    // SAFETY: a load that faults is caught by the handler; `byte` is ours.
    let raw = unsafe { hugeprobe_guard_load(address, &raw mut byte) };
    result(raw).map(|()| byte)
}

/// Stores one byte. The address must lie in a mapping that the caller made
/// for tests (see [`crate::mapping::Region`]), or in none.
///
/// # Errors
/// The fault that the store met.
pub fn store(address: usize, value: u8) -> Result<(), Fault> {
    install();
    // SAFETY: a store that faults is caught by the handler; by the contract
    // above it reaches no memory that Rust knows of.
    result(unsafe { hugeprobe_guard_store(address, value) })
}

/// Copies `buffer.len()` bytes from `address`; after a fault a beginning of
/// `buffer` may have been written.
///
/// # Errors
/// The first fault.
pub fn read(address: usize, buffer: &mut [u8]) -> Result<(), Fault> {
    copy(buffer.as_mut_ptr() as usize, address, buffer.len())
}

/// Copies `bytes` to `address`, which must lie where [`store`] may write.
///
/// # Errors
/// The first fault; a beginning may have been written.
pub fn write(address: usize, bytes: &[u8]) -> Result<(), Fault> {
    copy(address, bytes.as_ptr() as usize, bytes.len())
}

/// As [`read`], by words of eight bytes: several times faster under emulation.
///
/// # Errors
/// The first fault.
pub fn read_words(address: usize, words: &mut [u64]) -> Result<(), Fault> {
    copy_words(words.as_mut_ptr() as usize, address, words.len())
}

/// Loads one word of eight bytes every `stride` bytes, from `address` on.
///
/// # Errors
/// The first fault; its address says how far the loads came.
pub fn gather_words(address: usize, stride: usize, words: &mut [u64]) -> Result<(), Fault> {
    install();
    // SAFETY: a load that faults is caught by the handler; `words` is ours.
    let raw = unsafe { hugeprobe_guard_gather(address, stride, words.as_mut_ptr(), words.len()) };
    result(raw)
}

/// As [`write`], by words of eight bytes.
///
/// # Errors
/// The first fault.
pub fn write_words(address: usize, words: &[u64]) -> Result<(), Fault> {
    copy_words(address, words.as_ptr() as usize, words.len())
}

fn copy(to: usize, from: usize, bytes: usize) -> Result<(), Fault> {
    install();
    // SAFETY: one side is a borrowed slice of that length, the other an
    // address as `load` and `store` take it; a fault is caught by the handler.
    result(unsafe { hugeprobe_guard_copy(to, from, bytes) })
}

fn copy_words(to: usize, from: usize, words: usize) -> Result<(), Fault> {
    install();
    // SAFETY: as in `copy`.
    result(unsafe { hugeprobe_guard_words(to, from, words) })
}

fn result(raw: Raw) -> Result<(), Fault> {
    if raw.cause == 0 {
        return Ok(());
    }
    let signal = match (raw.cause >> 32) as i32 {
        libc::SIGBUS => Signal::Bus,
        _ => Signal::Segv,
    };
    Err(Fault {
        signal,
        code: raw.cause as u32 as i32,
        address: raw.address as usize,
    })
}

fn address_of(symbol: &u8) -> i64 {
    &raw const *symbol as i64
}

/// Runs for every SIGSEGV and SIGBUS of the process: only touches its own
/// arguments and the disposition of the signal.
extern "C" fn on_fault(
    signal: libc::c_int,
    info: *mut libc::siginfo_t,
    context: *mut libc::c_void,
) {
    // SAFETY: the kernel passes valid pointers to a handler with SA_SIGINFO,
    // and nobody else uses them while the handler runs.
    let (registers, info) = unsafe {
        let context = &mut *context.cast::<libc::ucontext_t>();
        (&mut context.uc_mcontext.gregs, &*info)
    };
    let at = registers[libc::REG_RIP as usize];
    let ours = address_of(&hugeprobe_guard_begin)..address_of(&hugeprobe_guard_end);
    if !ours.contains(&at) {
        // SAFETY: resets one signal to its default, which is always allowed;
        // the access is then repeated and ends the process.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
        return;
    }
    let cause = (i64::from(signal) << 32) | i64::from(info.si_code as u32);
    registers[libc::REG_RAX as usize] = cause;
    // SAFETY: both signals carry an address.
    registers[libc::REG_RDX as usize] = unsafe { info.si_addr() } as i64;
    registers[libc::REG_RIP as usize] = address_of(&hugeprobe_guard_fault);
}

/// Installs the handlers once for the process (children inherit them).
fn install() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        for signal in [libc::SIGSEGV, libc::SIGBUS] {
            // SAFETY: an all-zero sigaction is valid and is then filled in;
            // the handler has the signature that SA_SIGINFO asks for.
            let status = unsafe {
                let mut action: libc::sigaction = std::mem::zeroed();
                action.sa_sigaction = on_fault as *const () as usize;
                action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
                libc::sigaction(signal, &raw const action, std::ptr::null_mut())
            };
            assert_eq!(status, 0, "sigaction refused a valid signal");
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mapping::{PAGE, Prot, Region, page};

    #[test]
    fn an_unmapped_address_faults_with_maperr() {
        let fault = load(0x10).unwrap_err();
        assert_eq!((fault.signal, fault.code), (Signal::Segv, SEGV_MAPERR));
        assert_eq!(fault.address, 0x10);
    }

    #[test]
    fn a_store_to_a_read_only_page_faults_with_accerr() {
        let region = Region::private(2 * PAGE).unwrap();
        region.mprotect(page(1), Prot::READ).unwrap();
        let at = region.addr() + PAGE;
        assert_eq!(load(at), Ok(0));
        let fault = store(at + 5, 1).unwrap_err();
        assert_eq!((fault.code, fault.address), (SEGV_ACCERR, at + 5));
        assert_eq!(store(region.addr(), 7), Ok(()));
        assert_eq!(load(region.addr()), Ok(7));
    }

    #[test]
    fn a_copy_over_the_end_reports_where_it_stopped() {
        let mut region = Region::private(2 * PAGE).unwrap();
        region.munmap(page(1)).unwrap();
        let mut words = [0; 2 * PAGE / 8];
        let fault = read_words(region.addr(), &mut words).unwrap_err();
        assert_eq!(fault.address, region.addr() + PAGE);
    }

    #[test]
    fn gathered_words_are_one_of_each_page_up_to_the_first_fault() {
        let mut region = Region::private(4 * PAGE).unwrap();
        for page in 0..4 {
            write_words(region.addr() + page * PAGE + 8, &[page as u64 + 1]).unwrap();
        }
        let mut words = [0; 4];
        assert_eq!(gather_words(region.addr() + 8, PAGE, &mut words), Ok(()));
        assert_eq!(words, [1, 2, 3, 4]);
        region.munmap(page(2)).unwrap();
        let fault = gather_words(region.addr() + 8, PAGE, &mut words).unwrap_err();
        assert_eq!(fault.address, region.addr() + 2 * PAGE + 8);
        assert_eq!(gather_words(0, PAGE, &mut []), Ok(()));
    }

    #[test]
    fn threads_fault_independently() {
        std::thread::scope(|scope| {
            for thread in 1..4_usize {
                scope.spawn(move || {
                    for _ in 0..1000 {
                        assert_eq!(load(thread * 16).unwrap_err().address, thread * 16);
                    }
                });
            }
        });
    }

    #[test]
    fn beyond_the_end_of_a_file_is_sigbus() {
        let file = tempfile_of(PAGE);
        let region = Region::shared_file(&file, 0, 2 * PAGE).unwrap();
        assert_eq!(load(region.addr()), Ok(0));
        assert_eq!(load(region.addr() + PAGE).unwrap_err().signal, Signal::Bus);
    }

    fn tempfile_of(len: usize) -> std::fs::File {
        crate::mapping::memfd("guard", len).unwrap()
    }
}
