// SPDX-License-Identifier: GPL-2.0-only
//! The same operations, chosen at random, on a huge page and on small pages:
//! both must end with the same content, answers and places.

use selftests::hmm::Memory::Private;
use selftests::hmm::{Dmirror, Node, Place, Span};
use selftests::mapping::{Advice, Prot, Region, pages};
use selftests::pattern::{Content, Stamp};
use selftests::{child, enter, guard};
use std::ops::Range;
use test_case::test_case;

use crate::scene::{self, Baseline, HUGE, words};

const STEPS: usize = 40;

/// A generator that is the same everywhere (Knuth's MMIX constants).
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % limit
    }

    /// A range of pages: often the whole, one page, or ending at an edge.
    fn range(&mut self) -> Range<usize> {
        match self.below(5) {
            0 => 0..HUGE,
            1 => {
                let page = self.below(HUGE);
                page..page + 1
            }
            2 => 0..1 + self.below(HUGE - 1),
            3 => self.below(HUGE)..HUGE,
            _ => {
                let start = self.below(HUGE - 64);
                start..start + 1 + self.below(63)
            }
        }
    }
}

/// One operation.
#[derive(Clone, Debug)]
enum Step {
    CpuWrite(Range<usize>),
    CpuRead(Range<usize>),
    ToDev(Range<usize>),
    ToSys(Range<usize>),
    OtherReads(Range<usize>),
    OtherWrites(Range<usize>),
    DontNeed(Range<usize>),
    Protect(Range<usize>),
    Allow,
    Fork(Range<usize>),
}

fn choose(random: &mut Random) -> Step {
    let range = random.range();
    match random.below(14) {
        0 | 1 => Step::CpuWrite(range),
        2 => Step::CpuRead(range),
        3..=6 => Step::ToDev(range),
        7 | 8 => Step::ToSys(range),
        9 => Step::OtherReads(range),
        10 => Step::OtherWrites(range),
        11 => Step::DontNeed(range),
        12 => match random.below(2) {
            0 => Step::Protect(range),
            _ => Step::Allow,
        },
        _ => Step::Fork(range),
    }
}

/// Memory under test with what it must contain.
struct Subject {
    region: Region,
    model: Vec<Content>,
    writable: bool,
}

impl Subject {
    fn set(&mut self, range: Range<usize>, content: Content) {
        self.model[range].fill(content);
    }

    #[track_caller]
    fn check(&self, range: Range<usize>, when: &str) {
        for number in range {
            let wrong = self.model[number].mismatches(self.region.addr(), number..number + 1);
            assert!(wrong.is_empty(), "{when}: page {number}: {}", wrong[0].1);
        }
    }

    /// Does one step and says how it was answered.
    fn run(&mut self, step: &Step, stamp: Stamp, dev: &Dmirror, other: &Dmirror) -> String {
        let span = |range: &Range<usize>| Span::of(&self.region, range.clone());
        let answer = |answer: Result<selftests::hmm::Reply, selftests::hmm::Refusal>| match answer {
            Ok(_) => "ok".to_string(),
            Err(refusal) => refusal.errno.to_string(),
        };
        match step.clone() {
            Step::CpuWrite(range) => self.write(range, stamp),
            Step::CpuRead(range) => {
                self.check(range, "read");
                "ok".to_string()
            }
            Step::ToDev(range) => answer(dev.to_dev(span(&range))),
            Step::ToSys(range) => answer(dev.to_sys(span(&range))),
            Step::OtherReads(range) => answer(other.read(span(&range))),
            Step::OtherWrites(range) => {
                let result = other.write(span(&range), &words(stamp, range.clone()));
                if result.is_ok() {
                    self.set(range, Content::Stamped(stamp));
                }
                answer(result)
            }
            Step::DontNeed(range) => {
                let done = self.region.madvise(pages(range.clone()), Advice::DontNeed);
                self.set(range, Content::Zero);
                format!("{done:?}")
            }
            Step::Protect(range) => {
                self.writable = false;
                format!("{:?}", self.region.mprotect(pages(range), Prot::READ))
            }
            Step::Allow => {
                self.writable = true;
                let all = self.region.all();
                format!("{:?}", self.region.mprotect(all, Prot::READ_WRITE))
            }
            Step::Fork(range) => self.fork(range, stamp),
        }
    }

    fn write(&mut self, range: Range<usize>, stamp: Stamp) -> String {
        for number in range {
            let written = guard::write_words(self.region.page_addr(number), &stamp.page(number));
            match written {
                Ok(()) => self.set(number..number + 1, Content::Stamped(stamp)),
                Err(fault) => return format!("{:?} at page {number}", fault.signal),
            }
        }
        "ok".to_string()
    }

    /// A child checks everything and writes a part, which must stay its own.
    fn fork(&mut self, range: Range<usize>, stamp: Stamp) -> String {
        child::run_to_end(|_| {
            self.check(0..HUGE, "in a child");
            if self.writable {
                self.write(range, stamp);
                self.check(0..HUGE, "in a child that wrote");
            }
        });
        "ok".to_string()
    }
}

/// Forty random operations have the same answers, content and places on a huge
/// page and on small pages.
#[test_case(1; "seed_1")]
#[test_case(2; "seed_2")]
#[test_case(3; "seed_3")]
#[test_case(4; "seed_4")]
#[test_case(5; "seed_5")]
#[test_case(6; "seed_6")]
fn dpthp_diff_thp_vs_4k(seed: u64) {
    enter!();
    let _end = Baseline::new();
    let (dev, other) = (
        Dmirror::open(Private),
        Dmirror::open_node(Node::second(Private)),
    );
    let first = Content::Stamped(selftests::pattern::FIRST);
    let mut subjects = [scene::huge(1), scene::small(HUGE)].map(|region| Subject {
        region,
        model: vec![first; HUGE],
        writable: true,
    });
    let mut random = Random(seed);
    let mut done: Vec<String> = Vec::new();
    for number in 0..STEPS {
        let step = choose(&mut random);
        let stamp = Stamp {
            owner: 2,
            version: number as u16,
        };
        done.push(format!("{step:?}"));
        println!("step {number}: {step:?}");
        let answers = subjects
            .each_mut()
            .map(|subject| subject.run(&step, stamp, &dev, &other));
        assert_eq!(answers[0], answers[1], "huge, small; after {done:#?}");
        let places = subjects.each_ref().map(|subject| {
            let states = dev.snapshot(Span::of(&subject.region, 0..HUGE));
            // A fault on one page of a huge page brings all of it back.
            states.iter().any(|state| state.place == Place::Error)
        });
        assert_eq!(places, [false, false], "after {done:#?}");
    }
    for subject in &subjects {
        subject.check(0..HUGE, "at the end");
    }
}
