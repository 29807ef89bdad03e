// SPDX-License-Identifier: GPL-2.0-only
//! Ties programs to libFuzzer: inputs are programs in text form, mutation works
//! on programs, and coverage is the kernel's.
//!
//! Each kernel call site gets a counter and an entry of the PC table when it is
//! first seen, so libFuzzer's `cov:` counts call sites of the kernel exactly.
//! New coverage only counts if a second run of the same program shows it too.

pub mod plain;

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, HashSet};
use std::fmt::Write as _;
use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use crate::avoid::Known;
use crate::decode;
use crate::exec::Session;
use crate::harm::Harm;
use crate::lines;
use crate::mailbox::Mailbox;
use crate::mutate;
use crate::outcomes;
use crate::program::{Program, Target};
use crate::recall::Recall;
use crate::text;

/// Call sites that have a counter; the kernel's mm/ has about 47000.
const COUNTERS: usize = 1 << 17;
/// A call site that was new this often and did not repeat comes by chance: of
/// interrupts, or of what other programs left behind. Each would cost a run again.
const DOUBTS: u8 = 4;

#[repr(C)]
#[derive(Clone, Copy)]
struct Pc {
    address: usize,
    flags: usize,
}

static mut COUNTS: [u8; COUNTERS] = [0; COUNTERS];
static mut PCS: [Pc; COUNTERS] = [Pc {
    address: 0,
    flags: 0,
}; COUNTERS];

unsafe extern "C" {
    fn __sanitizer_cov_8bit_counters_init(start: *mut u8, stop: *mut u8);
    fn __sanitizer_cov_pcs_init(start: *const usize, stop: *const usize);
}

/// The fuzzer of one target, in libFuzzer's process.
struct Fuzzer {
    target: Target,
    session: Session,
    mailbox: Option<Mailbox>,
    known: Known,
    harm: Option<Harm>,
    programs: u64,
    said: Instant,
    /// Counter of each cell of the coverage, 0 for none yet, else index + 1.
    counter_of: Vec<u32>,
    used: usize,
    /// How often a second run did not reach a call site that was new.
    doubts: HashMap<usize, u8>,
    /// Where call sites are written down as they get a counter.
    pcs: Option<File>,
    /// What inputs reached in this or another machine.
    recall: Option<Recall>,
}

thread_local! {
    static FUZZER: RefCell<Option<Fuzzer>> = const { RefCell::new(None) };
    /// Whether the next input is one that was just made; else it is one of the corpus.
    static MADE: Cell<bool> = const { Cell::new(false) };
}

/// Starts the executor and tells libFuzzer of the counters. Ends the process
/// if that is not possible.
pub fn init(target: Target) {
    keep_memory();
    let consent =
        std::env::var_os("HUGEPROBE_YES_FUZZ_THIS_KERNEL").is_some_and(|value| value == "1");
    let session = match Session::start(consent) {
        Ok(session) => session,
        Err(error) => {
            eprintln!("{error}");
            std::process::exit(75);
        }
    };
    if !session.has_kcov() {
        eprintln!("hugeprobe: the kernel has no KCOV: fuzzing without coverage");
    }
    let recall = Recall::wanted(COUNTERS).filter(|_| session.has_kcov());
    let fuzzer = Fuzzer {
        target,
        session,
        recall,
        mailbox: Mailbox::find(),
        known: Known::load(),
        harm: Harm::wanted(),
        programs: 0,
        said: Instant::now(),
        counter_of: vec![0; crate::exec::cover::CELLS],
        used: 0,
        doubts: HashMap::new(),
        pcs: std::env::var_os("HUGEPROBE_PCS").and_then(|path| {
            let file = OpenOptions::new().append(true).create(true).open(path);
            file.ok()
        }),
    };
    FUZZER.with_borrow_mut(|slot| *slot = Some(fuzzer));
    // SAFETY: both tables are static and of the same number of entries.
    unsafe {
        let counts = (&raw mut COUNTS).cast::<u8>();
        __sanitizer_cov_8bit_counters_init(counts, counts.add(COUNTERS));
        let pcs = (&raw const PCS).cast::<usize>();
        __sanitizer_cov_pcs_init(pcs, pcs.add(2 * COUNTERS));
    }
}

/// Keeps freed memory. Mutation makes a model, of half a megabyte, for every
/// change: fresh from the kernel each time, its page faults cost more than the program.
fn keep_memory() {
    const ALL: i32 = 1 << 28;
    // SAFETY: tunes the allocator; the process has one thread yet.
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, ALL);
        libc::mallopt(libc::M_TRIM_THRESHOLD, ALL);
    }
}

/// Runs an input. False if it must not enter the corpus.
pub fn run(data: &[u8]) -> bool {
    FUZZER.with_borrow_mut(|fuzzer| fuzzer.as_mut().is_some_and(|fuzzer| fuzzer.run(data)))
}

/// libFuzzer's custom mutator; the new size.
pub fn mutate(data: &mut [u8], size: usize, max_size: usize, seed: u32, target: Target) -> usize {
    MADE.set(true);
    let mut program = program_of(&data[..size], target);
    mutate::mutate(&mut program, &entropy(seed), target);
    one_at_a_time(&mut program);
    put(&program, data, max_size)
}

/// libFuzzer's custom crossover; the new size.
pub fn cross(a: &[u8], b: &[u8], out: &mut [u8], seed: u32, target: Target) -> usize {
    MADE.set(true);
    let (a, b) = (program_of(a, target), program_of(b, target));
    let program = mutate::cross(&a, &b, &entropy(seed));
    let limit = out.len();
    put(&program, out, limit)
}

/// The program of an input.
fn program_of(data: &[u8], target: Target) -> Program {
    let mut program = decode::from_input(data, target);
    one_at_a_time(&mut program);
    program
}

/// Takes the schedules out, unless `HUGEPROBE_RACING=1` lets steps race. A race costs
/// as much as ten programs without one.
fn one_at_a_time(program: &mut Program) {
    static RACING: LazyLock<bool> =
        LazyLock::new(|| std::env::var_os("HUGEPROBE_RACING").is_some_and(|value| value == "1"));
    if !*RACING {
        program.steps.iter_mut().for_each(|step| step.race = None);
    }
}

/// Writes the text form, without the last steps if it is too long.
fn put(program: &Program, out: &mut [u8], limit: usize) -> usize {
    let text = text::print(program);
    let limit = limit.min(out.len());
    let end = if text.len() <= limit {
        text.len()
    } else {
        text[..limit].rfind('\n').map_or(0, |at| at + 1)
    };
    out[..end].copy_from_slice(&text.as_bytes()[..end]);
    end
}

/// Bytes for the mutator, from libFuzzer's seed.
fn entropy(seed: u32) -> [u8; 256] {
    let mut state = u64::from(seed).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    std::array::from_fn(|_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 32) as u8
    })
}

impl Fuzzer {
    fn run(&mut self, data: &[u8]) -> bool {
        let made = MADE.replace(false);
        let program = program_of(data, self.target);
        if program.steps.is_empty() {
            return true;
        }
        if self.known.avoids(&program) {
            return false;
        }
        if !made && self.remember(data) {
            return true;
        }
        let first = self.once(&program);
        let mut fresh: Vec<usize> = first
            .iter()
            .map(|(cell, ..)| *cell)
            .filter(|c| self.counter_of[*c] == 0)
            .collect();
        fresh.sort_unstable();
        // what only one of two runs reaches does not count as new
        let ran_twice = !fresh.iter().all(|cell| self.is_doubtful(*cell));
        let repeated = if !ran_twice {
            first
        } else {
            let second = self.once(&program);
            self.doubt(&fresh, &second);
            second
        };
        let mut reached = String::new();
        let mut kept = false;
        for (cell, pc, count) in &repeated {
            if ran_twice
                && self.counter_of[*cell] == 0
                && fresh.binary_search(cell).is_ok()
                && self.used < COUNTERS
            {
                self.assign(*cell, *pc);
                let _ = writeln!(reached, "{pc:#x}");
            }
            if let Some(index) = (self.counter_of[*cell] as usize).checked_sub(1) {
                // SAFETY: index < COUNTERS; libFuzzer reads the table between runs only.
                unsafe { (&raw mut COUNTS).cast::<u8>().add(index).write(*count) };
                kept |= self.is_new(index, *count);
            }
        }
        if let Some(recall) = self.recall.as_ref().filter(|_| kept) {
            // what has no counter came by chance
            let counted = repeated
                .iter()
                .filter(|(cell, ..)| self.counter_of[*cell] != 0);
            recall.keep(data, counted.map(|(_, pc, count)| (*pc, *count)));
        }
        if let Some(file) = self.pcs.as_mut().filter(|_| !reached.is_empty()) {
            // What is lost here is missing in a report, and nowhere else.
            let _ = file.write_all(reached.as_bytes());
        }
        if self.said.elapsed() >= Duration::from_secs(1) {
            self.said = Instant::now();
            println!(
                "{}",
                lines::stats(self.programs, &self.session.stats(), self.used)
            );
        }
        true
    }

    /// Counts what the input reached when it ran before, if that is known, instead of running it.
    fn remember(&mut self, data: &[u8]) -> bool {
        let Some(reached) = self.recall.as_ref().and_then(|recall| recall.find(data)) else {
            return false;
        };
        for (pc, count) in reached {
            let cell = self.session.cover().cell(pc);
            if self.counter_of[cell] == 0 && self.used < COUNTERS {
                self.assign(cell, pc);
            }
            if let Some(index) = (self.counter_of[cell] as usize).checked_sub(1) {
                // SAFETY: index < COUNTERS; libFuzzer reads the table between runs only.
                unsafe { (&raw mut COUNTS).cast::<u8>().add(index).write(count) };
                self.is_new(index, count);
            }
        }
        true
    }

    fn is_new(&mut self, counter: usize, count: u8) -> bool {
        self.recall
            .as_mut()
            .is_some_and(|recall| recall.is_new(counter, count))
    }

    /// Whether a call site was new so often without a second run that reached it
    /// again that it is no reason for one. It still counts once two runs reach it.
    fn is_doubtful(&self, cell: usize) -> bool {
        self.doubts.get(&cell).is_some_and(|times| *times >= DOUBTS)
    }

    fn doubt(&mut self, fresh: &[usize], second: &[(usize, u64, u8)]) {
        let again: HashSet<usize> = second.iter().map(|(cell, ..)| *cell).collect();
        for cell in fresh.iter().filter(|cell| !again.contains(cell)) {
            let times = self.doubts.entry(*cell).or_default();
            *times = times.saturating_add(1);
        }
    }

    fn assign(&mut self, cell: usize, pc: u64) {
        // SAFETY: used < COUNTERS; libFuzzer reads the table between runs only.
        unsafe {
            (&raw mut PCS).cast::<Pc>().add(self.used).write(Pc {
                address: pc as usize,
                flags: 0,
            });
        }
        self.used += 1;
        self.counter_of[cell] = self.used as u32;
    }

    /// Runs the program once. A violation that is not known ends the process
    /// by abort, so that libFuzzer keeps the input.
    fn once(&mut self, program: &Program) -> Vec<(usize, u64, u8)> {
        if let Some(mailbox) = &mut self.mailbox {
            mailbox.begin(&text::print(program));
        }
        self.programs += 1;
        if let Some(harm) = self.harm {
            harm.strike(self.programs);
        }
        let lie = self.harm.and_then(|harm| harm.claim(program));
        let lie = lie.map(|violation| (violation, program.clone()));
        let found = self.session.run_in_row(program);
        match found.map(|found| found.or(lie)) {
            Ok(Some((violation, _))) if self.known.has_title(&violation.full_title()) => {
                println!("{}", lines::known(&violation.full_title()));
            }
            Ok(Some((violation, shown_by))) => {
                println!("{}", lines::violation(&violation, &shown_by));
                println!(
                    "{}",
                    lines::stats(self.programs, &self.session.stats(), self.used)
                );
                std::process::abort();
            }
            Ok(None) => {}
            Err(error) => {
                eprintln!("{error}");
                std::process::exit(75);
            }
        }
        let mut seen: Vec<_> = self.session.cover().iter().collect();
        if !self.session.has_kcov() {
            seen.extend(outcomes::of(program, &self.session.results()));
        }
        seen
    }
}

/// Defines the entry points of a fuzz target.
#[macro_export]
macro_rules! libfuzzer_target {
    ($target:expr) => {
        /// What libFuzzer finds the functions of libc with that it stands before.
        ///
        /// # Safety
        /// `name` is a C string.
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn dlsym(
            _: *mut std::ffi::c_void,
            name: *const std::ffi::c_char,
        ) -> *mut std::ffi::c_void {
            // SAFETY: by the contract.
            unsafe { $crate::libfuzzer::plain::find(name) }
        }

        libfuzzer_sys::fuzz_target!(
            init: $crate::libfuzzer::init($target),
            |data: &[u8]| -> libfuzzer_sys::Corpus {
                if $crate::libfuzzer::run(data) {
                    libfuzzer_sys::Corpus::Keep
                } else {
                    libfuzzer_sys::Corpus::Reject
                }
            }
        );

        libfuzzer_sys::fuzz_mutator!(|data: &mut [u8], size: usize, max_size: usize, seed: u32| {
            $crate::libfuzzer::mutate(data, size, max_size, seed, $target)
        });

        libfuzzer_sys::fuzz_crossover!(|a: &[u8], b: &[u8], out: &mut [u8], seed: u32| {
            $crate::libfuzzer::cross(a, b, out, seed, $target)
        });
    };
}
