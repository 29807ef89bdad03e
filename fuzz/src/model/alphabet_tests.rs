// SPDX-License-Identifier: GPL-2.0-only
//! Rules of poison, failed memory, limits of memory and fixed buffers, one by one.

use super::more_tests::{BASE, Told, run, step};
use super::*;

#[test]
fn poison_keeps_all_out_until_it_is_discarded_and_a_child_may_lack_it() {
    let source = format!(
        "{BASE}p0 uffd-watch at=0.0 len=1024 track=async kind=missing\np0 uffd-fill at=1.0 len=4 how=poison\n"
    );
    let effects = |more: &str, who: usize, pages: [usize; 4]| {
        let model = run(&format!("{source}{more}"));
        pages.map(|page| model.effect(who, page, false))
    };
    let (bus, done) = (Effect::Bus, Effect::Done);
    let more = "p0 madvise at=1.1 len=1 advice=dontneed\np0 madvise at=1.2 len=1 advice=free\n\
                p0 uffd-fill at=1.3 len=1 how=copy\n";
    let there = [512, 513, 514, 515];
    assert_eq!(effects("", 0, there), [bus; 4]);
    assert_eq!(effects(more, 0, there), [bus, done, done, done]);
    let moved = "p0 mremap at=1.0 len=4 to=3.0 new=4 how=fixed\n";
    let closed = "p0 mprotect at=3.0 len=1 prot=none\n";
    let gone = [1536, 1537, 512, 0];
    let found = effects(&format!("{moved}{closed}"), 0, gone);
    assert_eq!(found, [Effect::Segv, bus, Effect::Segv, done]);
    let child = effects("p0 fork child=p1\np1 write at=1.0 len=1\n", 1, there);
    assert_eq!(child, [Effect::DoneOrBus; 4]);
    let mut model = run(&format!("{source}p0 fork child=p1\n"));
    assert_eq!(model.effect_seen(1, 512, true, (true, false)), done);
    model.stored(1, 512, 77);
    assert_eq!(model.effect(1, 512, false), done);
}

#[test]
fn under_a_limit_nothing_that_was_seen_of_a_page_lasts() {
    let watched = "p0 mmap at=2.0 len=4 prot=rw backing=shared\n\
                   p0 uffd-watch at=2.0 len=4 track=sigbus kind=minor\n";
    let seen = |more: &str| {
        let model = run(&format!("{BASE}{watched}{more}"));
        let fork = step("p0 fork child=p1");
        let effect = model.effect_seen(0, 1024, false, (true, false));
        (effect, model.fate(&fork, 0))
    };
    assert_eq!(seen(""), (Effect::Done, huge::Fate::Kept));
    let limited = seen("p0 limit room=max-2m\n");
    assert_eq!(limited, (Effect::DoneOrBus, huge::Fate::Open));
    let mut model = run(&format!("{BASE}p0 limit room=high-4m\n"));
    assert!(model.skips(&step("p0 mlock at=0.0 len=1")));
    model.start();
    assert!(!model.skips(&step("p0 mlock at=0.0 len=1")) && !model.is_limited());
}

#[test]
fn data_through_a_buffer_comes_past_the_page_table_and_only_where_the_page_stayed() {
    let source = format!(
        "{BASE}p0 uffd-register at=0.0 len=1024 track=async\np0 buffer at=0.0 len=4\n\
         p0 uffd-protect at=0.0 len=512\np0 clear-refs what=soft-dirty\n"
    );
    let whole = run(&source);
    let changed = run(&format!(
        "{source}p0 mprotect at=0.0 len=4 prot=r\np0 fixed access=store\n"
    ));
    for page in 0..4 {
        assert_ne!(whole.content(0, page), changed.content(0, page));
        let flags = changed.pages(0)[page].flags;
        assert!(
            flags.has(Flags::PROTECTED) && !flags.any(Flags::DIRTY.with(Flags::PROTECTED_UNSURE))
        );
    }
    assert_eq!(whole.content(0, 4), changed.content(0, 4));
    let torn = format!("{source}p0 madvise at=0.3 len=1 advice=dontneed\np0 fixed access=store\n");
    assert_eq!(run(&torn).content(0, 0), whole.content(0, 0));
    let fixed = step("p0 fixed access=load");
    assert!(!whole.skips(&fixed));
    for end in ["p0 unpin\n", "p0 pin at=0.0 len=1\n"] {
        assert!(run(&format!("{source}{end}")).skips(&fixed));
    }
}

#[test]
fn a_store_to_a_page_of_shmem_that_is_there_may_be_a_minor_fault() {
    let model = run(
        "p0 mmap at=0.0 len=4 prot=rw backing=shared\np0 write at=0.0 len=4\n\
         p0 uffd-watch at=0.0 len=4 track=sigbus kind=minor\n",
    );
    let there = (true, false);
    assert_eq!(model.effect_seen(0, 0, false, there), Effect::Done);
    assert_eq!(model.effect_seen(0, 0, true, there), Effect::DoneOrBus);
}

#[test]
fn failed_memory_is_gone_for_who_lost_it_and_perhaps_for_those_who_shared_it() {
    let fail = "p0 madvise at=0.7 len=1 advice=hwpoison\n";
    let model = run(&format!("{BASE}p0 fork child=p1\n{fail}"));
    let effects = |who| [6, 7].map(|page| model.effect(who, page, false));
    assert_eq!(effects(0), [Effect::Done, Effect::Bus]);
    assert_eq!(effects(1), [Effect::Done, Effect::DoneOrBus]);
    assert_eq!(
        model.effect_seen(1, 7, false, (true, false)),
        Effect::DoneOrBus
    );
    let spared = |source: &str| run(source).skips(&step(fail));
    assert!(spared("p0 mmap at=0.0 len=8 prot=rw backing=anon\n"));
    assert!(!spared(BASE) && spared(&format!("{BASE}{fail}")));
    let mut busy = run(BASE);
    busy.apply(&step(fail), libc::EBUSY, &Told::default())
        .unwrap();
    assert_eq!(busy.effect(0, 7, false), Effect::DoneOrBus);
    busy.assume(&step("p0 madvise at=0.0 len=512 advice=dontneed"));
    assert_eq!(busy.effect(0, 7, false), Effect::Done);
}

#[test]
fn closed_pages_refuse_unless_the_kernel_opens_them() {
    let source = format!(
        "{BASE}p0 uffd-watch at=0.0 len=512 track=sigbus kind=rwp\np0 uffd-close at=0.0 len=512 on=on\n"
    );
    let effect = |more: &str| run(&format!("{source}{more}")).effect(0, 3, false);
    assert_eq!(effect(""), Effect::Bus);
    assert_eq!(effect("p0 uffd-mode on=on\n"), Effect::Done);
    assert_eq!(
        effect("p0 uffd-mode on=on\np0 uffd-mode on=off\n"),
        Effect::Bus
    );
    let other = "p0 uffd-watch at=0.0 len=1 track=async kind=rwp\n";
    assert!(run(&format!("{BASE}{other}")).skips(&step("p0 uffd-mode on=on")));
}

#[test]
fn who_asks_for_merging_keeps_its_protection_and_others_may_lose_it() {
    let source = format!(
        "{BASE}p0 madvise at=0.0 len=4 advice=mergeable\np0 uffd-register at=0.0 len=8 track=async\n\
         p0 uffd-protect at=0.0 len=8\np0 fork child=p1\n"
    );
    let unsure = |who: &str| {
        let model = run(&format!("{source}{who} system pulse=ksm\n"));
        [0, 5].map(|page| model.pages(0)[page].flags.has(Flags::PROTECTED_UNSURE))
    };
    assert_eq!(unsure("p0"), [false, false]);
    assert_eq!(unsure("p1"), [true, false]);
}
