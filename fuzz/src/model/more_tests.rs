// SPDX-License-Identifier: GPL-2.0-only
//! Rules of userfaultfd, device memory and debugger's accesses, one by one.

use super::*;
use crate::program::{Addr, Len, Step};
use crate::text;

pub(super) const BASE: &str =
    "p0 mmap at=0.0 len=1024 prot=rw backing=anon\np0 write at=0.0 len=512\n";

/// What an operation says of itself, and what was there before it.
#[derive(Default)]
pub(super) struct Told {
    amount: Option<usize>,
    populated: Vec<usize>,
}

impl Facts for Told {
    fn mapped(&self, _: usize) -> bool {
        true
    }

    fn locked(&self, _: usize) -> bool {
        true
    }

    fn populated_before(&self, page: usize) -> Option<bool> {
        Some(self.populated.contains(&page))
    }

    fn amount(&self) -> Option<usize> {
        self.amount
    }
}

pub(super) fn run(source: &str) -> Box<Model> {
    let mut model = Model::boxed();
    model.start();
    let program = text::parse(source).unwrap();
    program.steps.iter().for_each(|step| model.assume(step));
    model
}

pub(super) fn step(source: &str) -> Step {
    text::parse(source).unwrap().steps[0]
}

/// Applies a step that returned `got`; whether that was right.
fn right(model: &mut Model, source: &str, got: i32, facts: &Told) -> bool {
    model.apply(&step(source), got, facts).is_ok()
}

fn watched(track: &str, kind: &str) -> Box<Model> {
    run(&format!(
        "{BASE}p0 uffd-watch at=0.0 len=1024 track={track} kind={kind}\n"
    ))
}

#[test]
fn a_move_takes_content_and_leaves_zeros() {
    let model = run(&format!(
        "{BASE}p0 uffd-watch at=1.0 len=512 track=async kind=missing\np0 uffd-move at=0.3 len=2 to=1.7\n"
    ));
    assert_eq!(model.content(0, 3), (0, false));
    assert_eq!(model.content(0, 519).0, stamp(4, 0, 3));
    assert!(model.pages(0)[519].flags.has(Flags::DIRTY));
    assert!(!model.pages(0)[3].flags.has(Flags::DIRTY));
}

#[test]
fn a_move_ends_at_the_page_at_which_it_says_so() {
    let mut model = watched("async", "missing");
    let told = Told {
        amount: Some(1),
        populated: vec![3, 4],
    };
    assert!(right(
        &mut model,
        "p0 uffd-move at=0.3 len=2 to=1.7",
        libc::EAGAIN,
        &told
    ));
    assert_eq!(model.content(0, 3).0, 0);
    assert_ne!(model.content(0, 4).0, 0);
    assert_eq!(model.content(0, 520).0, 0);
}

#[test]
fn a_move_over_a_page_that_is_there_is_wrong() {
    let mut model = watched("async", "missing");
    let told = Told {
        amount: None,
        populated: vec![3, 519],
    };
    let source = "p0 uffd-move at=0.3 len=1 to=1.7";
    assert!(!right(&mut model, source, 0, &told));
    assert!(right(&mut model, source, libc::EEXIST, &told));
}

#[test]
fn a_move_of_a_pinned_page_is_wrong() {
    let mut model = run(&format!(
        "{BASE}p0 uffd-watch at=1.0 len=512 track=async kind=missing\np0 pin at=0.3 len=1\n"
    ));
    assert!(!right(
        &mut model,
        "p0 uffd-move at=0.3 len=1 to=1.7",
        0,
        &Told::default()
    ));
}

#[test]
fn a_move_to_memory_of_another_permission_fails() {
    let mut model = watched("async", "missing");
    model.assume(&step("p0 mprotect at=1.0 len=512 prot=r"));
    let source = "p0 uffd-move at=0.0 len=1 to=1.0";
    assert!(!right(&mut model, source, 0, &Told::default()));
    assert!(right(&mut model, source, libc::EINVAL, &Told::default()));
}

#[test]
fn a_fill_must_succeed_where_nothing_is_and_fail_elsewhere() {
    let mut model = watched("sigbus", "missing");
    let fill = step("p0 uffd-fill at=1.0 len=1 how=copy");
    model.reserve_fill(0, crate::program::Addr(512), crate::program::Len(1));
    assert!(model.apply(&fill, libc::EEXIST, &Told::default()).is_err());
    let there = Told {
        amount: None,
        populated: vec![512],
    };
    assert!(model.apply(&fill, 0, &there).is_err());
    assert!(model.apply(&fill, 0, &Told::default()).is_ok());
    assert_eq!(model.content(0, 512).0, stamp(513, 0, 512));
}

#[test]
fn what_is_not_there_gives_sigbus_where_that_is_watched() {
    let model = watched("sigbus", "missing");
    let effect = |page, seen| model.effect_seen(0, page, false, seen);
    assert_eq!(effect(600, (false, false)), Effect::Bus);
    assert_eq!(effect(600, (true, false)), Effect::Done);
    let answered = watched("async", "missing");
    assert_eq!(
        answered.effect_seen(0, 600, false, (false, false)),
        Effect::Done
    );
}

#[test]
fn a_shmem_page_that_is_there_gives_sigbus_until_it_is_mapped() {
    let model = run(
        "p0 mmap at=0.0 len=2 prot=rw backing=shared\np0 write at=0.0 len=1\n\
                     p0 uffd-watch at=0.0 len=2 track=sigbus kind=minor\n",
    );
    let effect = |page, populated| model.effect_seen(0, page, false, (populated, false));
    assert_eq!(effect(0, false), Effect::Bus);
    assert_eq!(effect(0, true), Effect::Done);
    assert_eq!(effect(1, false), Effect::DoneOrBus);
}

#[test]
fn a_closed_page_refuses_loads_too_or_opens() {
    let mut refusing = watched("sigbus", "rwp");
    refusing.assume(&step("p0 uffd-close at=0.0 len=512 on=on"));
    assert_eq!(refusing.effect(0, 5, false), Effect::Bus);
    assert_eq!(refusing.effect(0, 600, false), Effect::Done);
    let mut opening = watched("async", "rwp");
    opening.assume(&step("p0 uffd-close at=0.0 len=512 on=on"));
    assert_eq!(opening.effect(0, 5, false), Effect::Done);
    opening.loaded(0, 5);
    assert!(!opening.is_closed(0, 5));
    assert!(opening.pages(0)[6].flags.has(Flags::PROTECTED_UNSURE));
    let mut populating = watched("async", "rwp");
    populating.assume(&step("p0 uffd-close at=0.0 len=512 on=on"));
    populating.assume(&step("p0 madvise at=0.256 len=32 advice=populate-read"));
    assert!(populating.pages(0)[0].flags.has(Flags::PROTECTED_UNSURE));
}

#[test]
fn closing_is_all_or_nothing() {
    let mut model = run(&format!(
        "{BASE}p0 uffd-watch at=0.0 len=10 track=async kind=rwp\n"
    ));
    let source = "p0 uffd-close at=0.0 len=11 on=on";
    assert!(!right(&mut model, source, 0, &Told::default()));
    assert!(right(&mut model, source, libc::ENOENT, &Told::default()));
    assert!(!right(&mut model, source, libc::EINVAL, &Told::default()));
    assert!(!model.is_closed(0, 0));
}

#[test]
fn a_kernel_that_cannot_close_registers_nothing_and_says_so() {
    let mut model = run(BASE);
    let watch = "p0 uffd-watch at=0.0 len=10 track=async kind=rwp";
    assert!(right(&mut model, watch, libc::EINVAL, &Told::default()));
    let source = "p0 uffd-close at=0.0 len=10 on=on";
    assert!(right(&mut model, source, libc::EINVAL, &Told::default()));
}

#[test]
fn a_child_has_no_registration_of_its_parent() {
    let mut model = watched("sigbus", "missing-rwp");
    model.assume(&step("p0 uffd-close at=0.0 len=512 on=on"));
    model.assume(&step("p0 fork child=p1"));
    assert_eq!(model.effect(1, 5, true), Effect::Done);
    assert!(!model.pages(1)[5].flags.any(Flags::WATCHED));
}

#[test]
fn a_debugger_stores_to_private_memory_whatever_its_permission() {
    let model = run("p0 mmap at=0.0 len=1 prot=r backing=anon\n\
                     p0 mmap at=0.1 len=1 prot=r backing=shared\np0 mmap at=0.2 len=1 prot=none backing=file\n");
    let effect = |page, store| model.forced_effect(0, page, store);
    assert_eq!(effect(0, true), Effect::Done);
    assert_eq!(effect(1, true), Effect::Segv);
    assert_eq!(effect(1, false), Effect::Done);
    assert_eq!(effect(2, true), Effect::Done);
    assert_eq!(effect(3, false), Effect::Segv);
}

#[test]
fn device_memory_is_seen_by_all_who_map_it() {
    let model = run("p0 mmap at=0.0 len=2 prot=rw backing=pfn-remap\n\
                     p0 mmap at=2.0 len=2 prot=rw backing=pfn-private\n\
                     p0 write at=2.1 len=1\np0 write at=0.0 len=2\n");
    assert_eq!(model.content(0, 1024), model.content(0, 0));
    assert_ne!(model.content(0, 1025), model.content(0, 1));
    assert_ne!(model.content(0, 1025).0, 0);
}

#[test]
fn what_a_driver_takes_back_comes_again_only_by_a_fault_handler() {
    let model = run("p0 mmap at=0.0 len=2 prot=rw backing=pfn-remap\n\
                     p0 mmap at=2.0 len=2 prot=rw backing=pfn-pmd\np0 write at=0.0 len=2\n\
                     p0 fork child=p1\np0 zap at=0.1 len=1\n");
    for process in 0..2 {
        assert_eq!(model.effect(process, 0, true), Effect::Done);
        assert_eq!(model.effect(process, 1, true), Effect::Bus);
        assert_eq!(model.effect(process, 1025, true), Effect::Done);
        assert_ne!(model.content(process, 1025).0, 0);
    }
}

#[test]
fn what_works_on_pages_refuses_device_memory() {
    let mut model = run("p0 mmap at=0.0 len=512 prot=rw backing=pfn-pte\n");
    let told = Told::default();
    for source in [
        "p0 madvise at=0.0 len=1 advice=dontneed",
        "p0 madvise at=0.0 len=1 advice=free",
        "p0 madvise at=0.0 len=1 advice=guard-install",
        "p0 mremap at=0.0 len=512 to=2.0 new=513 how=fixed",
        "p0 mremap at=0.0 len=512 to=2.0 new=512 how=dontunmap",
        "p0 uffd-watch at=0.0 len=512 track=async kind=missing",
    ] {
        assert!(!right(&mut model, source, 0, &told), "{source}");
    }
    model.assume(&step("p0 mlock at=0.0 len=512"));
    assert_eq!(model.locked(0), Some(0));
    assert_eq!(model.kernel_effect(0, 0, false), Effect::Segv);
}

#[test]
fn a_killed_process_is_gone() {
    let model =
        run("p0 mmap at=0.0 len=2 prot=rw backing=anon\np0 fork child=p1\np0 kill peer=p1\n");
    assert!(!model.alive(1));
    assert!(model.alive(0));
}

#[test]
fn a_device_does_not_touch_what_somebody_has_to_answer_for() {
    let watched = run(
        "p0 mmap at=0.0 len=8 prot=rw backing=anon\np0 uffd-watch at=0.4 len=4 track=async kind=missing\n",
    );
    assert!(watched.all_done(0, Addr(0), Len(4), true));
    assert!(!watched.all_done(0, Addr(0), Len(5), true));
    assert!(!watched.all_done(0, Addr(0), Len(5), false));
}

#[test]
fn exclusive_access_ends_with_an_access() {
    let taken = format!("{BASE}p0 device mirror=a what=exclusive at=0.3 len=1\n");
    let mut model = run(&taken);
    let check = "p0 device mirror=a what=check-exclusive at=0.0 len=10";
    assert!(right(&mut model, check, libc::EPERM, &Told::default()));
    model.stored(0, 3, 1);
    assert!(!right(&mut model, check, libc::EPERM, &Told::default()));
}

#[test]
fn a_page_in_a_pipe_is_what_it_was_or_what_was_stored_later() {
    let mut model = run(&format!("{BASE}p0 splice at=0.3 len=2\n"));
    let words = |stamp| [0, 1, 2, 3].map(|i| page::word(stamp, i));
    let (there, other) = (model.content(0, 3).0, model.content(0, 4).0);
    assert!(model.spliced_right(0, 0, &words(there)));
    assert!(!model.spliced_right(0, 0, &words(other)));
    assert!(!model.spliced_right(0, 0, &words(0)));
    assert!(!model.spliced_right(0, 0, &[there, 0, 0, 0]));
    let later = model.next_stamp(0, 3);
    assert!(model.spliced_right(0, 0, &words(later)));
}

#[test]
fn a_pipe_must_take_what_may_be_loaded() {
    let mut model = run(BASE);
    let told = Told::default();
    assert!(!right(
        &mut model,
        "p0 splice at=0.0 len=2",
        libc::EFAULT,
        &told
    ));
    model.assume(&step("p0 mprotect at=0.1 len=1 prot=none"));
    assert!(!right(&mut model, "p0 splice at=0.0 len=2", 0, &told));
}

#[test]
fn locked_memory_that_becomes_writable_may_lose_its_protection() {
    let protected = |lock: &str| {
        run(&format!(
            "{BASE}p0 uffd-register at=0.0 len=1024 track=async\n{lock}\
             p0 uffd-protect at=0.0 len=512\np0 mprotect at=0.0 len=9 prot=r\n\
             p0 mprotect at=0.0 len=9 prot=rw\n"
        ))
    };
    let unsure =
        |model: &Model, page: usize| model.pages(0)[page].flags.has(Flags::PROTECTED_UNSURE);
    let locked = protected("p0 mlock at=0.0 len=512\n");
    assert!(unsure(&locked, 8) && !unsure(&locked, 9));
    assert!(!unsure(&protected(""), 8));
}

#[test]
fn what_moves_page_by_page_has_to_be_soft_dirty_once() {
    let mut model = run("p0 mmap at=0.0 len=512 prot=rw backing=anon\np0 write at=0.0 len=4\n");
    let told = Told::default();
    let there = "p0 mremap at=0.0 len=2 to=1.7 new=2 how=fixed\n";
    assert!(right(&mut model, there, 0, &told));
    assert!(model.take_moved(0, 512 + 7) && model.take_moved(0, 512 + 8));
    assert!(!model.take_moved(0, 512 + 7), "only once");
    let with_table = "p0 mremap at=0.2 len=2 to=2.2 new=2 how=fixed\n";
    assert!(right(&mut model, with_table, 0, &told));
    assert!(
        !model.take_moved(0, 1024 + 2),
        "that may be a move of the table"
    );
}

#[test]
fn protection_of_memory_that_is_given_up_is_never_sure() {
    let mut model = run(&format!(
        "{BASE}p0 uffd-register at=0.0 len=1024 track=async\np0 uffd-protect at=0.0 len=2\n\
         p0 madvise at=0.0 len=1 advice=free\n"
    ));
    let unsure =
        |model: &Model, page: usize| model.pages(0)[page].flags.has(Flags::PROTECTED_UNSURE);
    assert!(unsure(&model, 0) && !unsure(&model, 1));
    model.settle_protection(0, 0, true);
    assert!(unsure(&model, 0));
    model.assume(&step("p0 uffd-protect at=0.0 len=2"));
    assert!(unsure(&model, 0) && !unsure(&model, 1));
    model.settle_protection(0, 0, false);
    assert!(!unsure(&model, 0));
}
