// SPDX-License-Identifier: GPL-2.0-only
//! A device whose memory is mapped in one of the ways that drivers have, with a
//! mark in every page of it, and what its mappings must look like.

use std::ops::Range;

use selftests::guard;
use selftests::mapping::{self, PAGE, PMD, PUD, Prot, Region};
use selftests::pagetable::{self, Leaves, Level};
use selftests::pfndev::{Cache, Mode, PfnFile};
use selftests::release::release;
use selftests::settings::{Setting, THP};
use selftests::skip;

/// Bytes that tests of PTE and PMD leaves map: four PMDs.
pub const FOUR_PMDS: usize = 4 * PMD;

/// How the device maps its memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// `/dev/mem`: `remap_pfn_range()`, no module needed.
    DevMem,
    /// `remap_pfn_range()`.
    Remap,
    /// `remap_pfn_range()` in a VMA with a fault handler.
    RemapWithHandler,
    /// A fault handler that inserts PTEs.
    FaultPte,
    /// A fault handler that inserts PMDs.
    FaultPmd,
    /// A fault handler that inserts PUDs.
    FaultPud,
}

/// An open device, its memory marked.
#[derive(Debug)]
pub struct Device {
    pub file: PfnFile,
    pub way: Way,
    cache: Cache,
    _settings: Option<Setting>,
}

impl Device {
    /// Opens the device with write-back mappings, or skips the test.
    pub fn open(way: Way) -> Self {
        Self::open_with(way, Cache::WriteBack)
    }

    /// Opens the device, or skips the test where it cannot be had.
    pub fn open_with(way: Way, cache: Cache) -> Self {
        // A VMA that is split inside a PUD leaf stops mainline, so the module
        // refuses that, as device-dax does.
        Self::open_splitting(way, cache, (way == Way::FaultPud).then_some(Level::Pud))
    }

    /// As [`Self::open`]; VMAs can be split anywhere, also inside PUD leaves.
    pub fn open_unaligned(way: Way) -> Self {
        Self::open_splitting(way, Cache::WriteBack, None)
    }

    fn open_splitting(way: Way, cache: Cache, split: Option<Level>) -> Self {
        let file = open_file(way);
        let settings = huge_faults(way);
        let bytes = if way == Way::FaultPud { PUD } else { FOUR_PMDS };
        if file.len() < bytes {
            skip!(
                "{:#x} bytes reserved, {bytes:#x} needed (memmap=SIZE$START, start= and size= of the module)",
                file.len()
            );
        }
        mark_memory(way, bytes);
        if let Some(mode) = way.mode()
            && let Err(errno) = file.setup(mode, cache, split)
        {
            skip!("the module cannot map {way:?} {cache:?} here: {errno}");
        }
        Self {
            file,
            way,
            cache,
            _settings: settings,
        }
    }

    /// Bytes to map: one PUD, or four PMDs.
    pub fn bytes(&self) -> usize {
        match self.way {
            Way::FaultPud => PUD,
            _ => FOUR_PMDS,
        }
    }

    /// Maps the first [`Self::bytes`] of the memory, aligned; every leaf of it
    /// present.
    #[track_caller]
    pub fn map(&self) -> Region {
        let mut region = Region::reserved(self.bytes()).expect("address space");
        self.map_at(&mut region, 0..self.bytes(), 0, Prot::READ_WRITE);
        touch(&region, 0..self.bytes(), self.leaf().bytes());
        region
    }

    /// Maps the memory from `offset` over `at` of `region`.
    #[track_caller]
    pub fn map_at(&self, region: &mut Region, at: Range<usize>, offset: usize, prot: Prot) {
        let (file, offset) = self.file.at(offset);
        region
            .map_file(at, file, offset, prot)
            .unwrap_or_else(|errno| panic!("mmap of {:?}: {errno}", self.way));
    }

    /// Whether entries appear at the first touch instead of at mmap().
    pub fn is_lazy(&self) -> bool {
        matches!(self.way, Way::FaultPte | Way::FaultPmd | Way::FaultPud)
    }

    /// Level of the leaves that map aligned memory on this kernel. What
    /// `remap_pfn_range()` does is found out by looking.
    #[track_caller]
    pub fn leaf(&self) -> Level {
        match self.way {
            Way::FaultPte | Way::RemapWithHandler => Level::Pte,
            Way::FaultPmd => Level::Pmd,
            Way::FaultPud => Level::Pud,
            Way::DevMem | Way::Remap => {
                let mut probe = Region::reserved(PMD).expect("address space");
                self.map_at(&mut probe, 0..PMD, 0, Prot::READ);
                pagetable::leaves(&probe.absolute(&(0..PMD)))
                    .first()
                    .expect("remap_pfn_range() maps at mmap() time")
                    .level
            }
        }
    }

    /// Checks that `window` of `region` is mapped exactly as `parts` say, to
    /// the frames of the device's memory from `offset` (which is behind byte 0
    /// of the region, mapped or not), with the device's cache attribute.
    #[track_caller]
    pub fn expect(&self, region: &Region, window: Range<usize>, offset: isize, parts: &[Part]) {
        let found = pagetable::leaves(&region.absolute(&window));
        // The kernel's dump, which serves without the module, has no frames.
        let frames = found.iter().any(|leaf| leaf.pfn.is_some());
        let first = self.file.phys().start;
        let wanted = pagetable::merged(parts.iter().map(|part| {
            let byte = part.at.start as i64 + offset as i64;
            Leaves {
                range: region.absolute(&part.at),
                level: part.level,
                pfn: frames.then(|| first.wrapping_add_signed(byte) / PAGE as u64),
                writable: part.writable,
                cache: self.cache,
            }
        }));
        assert!(
            found == wanted,
            "{:?}: page tables of {window:x?}:\n  expected {wanted:x?}\n  found    {found:x?}",
            self.way
        );
    }

    /// As [`Self::expect`] for a region that is mapped from byte 0 of the
    /// memory by leaves of one level, all writable.
    #[track_caller]
    pub fn expect_all(&self, region: &Region, level: Level) {
        let all = region.all();
        self.expect(region, all.clone(), 0, &[Part::rw(all, level)]);
    }
}

/// A part of a region that equal leaves map.
#[derive(Clone, Debug)]
pub struct Part {
    at: Range<usize>,
    level: Level,
    writable: bool,
}

impl Part {
    /// Readable and writable.
    pub fn rw(at: Range<usize>, level: Level) -> Self {
        Self {
            at,
            level,
            writable: true,
        }
    }

    /// Whether it has no bytes.
    pub fn is_empty(&self) -> bool {
        self.at.is_empty()
    }

    /// Read-only.
    pub fn ro(at: Range<usize>, level: Level) -> Self {
        Self {
            at,
            level,
            writable: false,
        }
    }
}

impl Way {
    fn mode(self) -> Option<Mode> {
        match self {
            Self::DevMem => None,
            Self::Remap => Some(Mode::Remap),
            Self::RemapWithHandler => Some(Mode::RemapWithHandler),
            Self::FaultPte => Some(Mode::FaultPte),
            Self::FaultPmd => Some(Mode::FaultPmd),
            Self::FaultPud => Some(Mode::FaultPud),
        }
    }
}

/// Why a driver cannot take back parts of a PUD leaf on older kernels.
pub const ZAP_OF_A_PART: &str =
    "zap_pud_range() warns that mmap_lock is not held, which a driver that zaps need not hold";

/// The oldest release whose PFN mappings these tests know.
const FIRST_KNOWN: (u32, u32) = (6, 12);

/// The first release that asks a driver for huge leaves whatever the setting of THP is.
const FIRST_WITHOUT_SETTING: (u32, u32) = (7, 0);

/// Lets older kernels ask drivers for huge leaves.
fn huge_faults(way: Way) -> Option<Setting> {
    let huge = matches!(way, Way::FaultPmd | Way::FaultPud) && release() < FIRST_WITHOUT_SETTING;
    huge.then(|| Setting::set(format!("{THP}/enabled"), "always"))
}

fn open_file(way: Way) -> PfnFile {
    mapping::keep_heap_out_of_holes();
    if release() < FIRST_KNOWN {
        skip!("what these tests expect was worked out on 6.12 and newer kernels");
    }
    let file = match way {
        Way::DevMem => PfnFile::dev_mem(),
        _ => PfnFile::module(),
    };
    file.unwrap_or_else(|reason| skip!("{reason}"))
}

/// Loads one byte of every `step` bytes.
#[track_caller]
pub fn touch(region: &Region, at: Range<usize>, step: usize) {
    for offset in at.step_by(step) {
        if let Err(fault) = guard::load(region.addr() + offset) {
            panic!("offset {offset:#x}: {fault}");
        }
    }
}

/// Writes a mark into every page of the memory, through small entries of
/// another open file; never in the way that is tested.
fn mark_memory(way: Way, bytes: usize) {
    let file = open_file(way);
    let witness = match way {
        Way::DevMem => None,
        Way::Remap | Way::RemapWithHandler => Some(Mode::FaultPte),
        // A quarter of a million faults would take longer than the test.
        Way::FaultPte | Way::FaultPmd | Way::FaultPud => Some(Mode::Remap),
    };
    if let Some(mode) = witness {
        file.setup(mode, Cache::WriteBack, None)
            .unwrap_or_else(|errno| panic!("the module refuses plain PTEs: {errno}"));
    }
    let mut region = Region::reserved(bytes).expect("address space");
    let (source, offset) = file.at(0);
    region
        .map_file(0..bytes, source, offset, Prot::READ_WRITE)
        .unwrap_or_else(|errno| skip!("cannot map the reserved memory: {errno}"));
    mark(&region, 0..bytes / PAGE, 0);
    let first = guard::load(region.addr() + MARK).expect("the page was just written");
    if first != mark_of(0)[0] {
        skip!("there is no memory behind the reserved range; give the guest more");
    }
}

/// The mark of page `number` of the memory.
fn word(number: usize) -> u64 {
    (number as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x6870_7066_6e00_0001
}

/// The bytes of the mark of page `number` of the memory.
pub fn mark_of(number: usize) -> [u8; 8] {
    word(number).to_ne_bytes()
}

/// Where in a page its mark is. One word does: a mapping is right or wrong for
/// whole pages.
pub const MARK: usize = 0x7f8;

/// Marks pages `numbers` of `region` as those of the device's memory `by` pages
/// further on.
#[track_caller]
pub fn mark(region: &Region, numbers: Range<usize>, by: isize) {
    for number in numbers {
        let mark = [word(number.wrapping_add_signed(by))];
        if let Err(fault) = guard::write_words(region.page_addr(number) + MARK, &mark) {
            panic!("page {number} cannot be written: {fault}");
        }
    }
}

/// Checks that each of pages `numbers` of `region` is the page of the device's
/// memory `by` pages further on.
#[track_caller]
pub fn check(region: &Region, numbers: Range<usize>, by: isize) {
    let mut wrong = Vec::new();
    let count = numbers.len();
    for number in numbers {
        let wanted = number.wrapping_add_signed(by);
        let mut found = [0];
        match guard::read_words(region.page_addr(number) + MARK, &mut found) {
            Err(fault) => wrong.push(format!("page {number}: {fault}")),
            Ok(()) if found == [word(wanted)] => {}
            Ok(()) => wrong.push(format!(
                "page {number}: is not page {wanted} of the device but {}",
                origin(found[0])
            )),
        }
    }
    assert!(
        wrong.is_empty(),
        "{} of {count} pages are wrong:\n  {}",
        wrong.len(),
        wrong[..wrong.len().min(8)].join("\n  ")
    );
}

/// Which page a mark is of, in words.
fn origin(found: u64) -> String {
    (0..PUD / PAGE)
        .find(|number| word(*number) == found)
        .map_or_else(|| format!("{found:#x}"), |number| format!("page {number}"))
}
