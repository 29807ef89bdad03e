// SPDX-License-Identifier: GPL-2.0-only
//! Programs as reproducers: `repro.c`, which needs a C compiler alone, and
//! `repro.rs`, a selftest. Both are written from one [`listing::Listing`]; each
//! operation has a form in both, or does not compile.

mod access;
mod c;
mod c_race;
mod c_statement;
mod call;
mod known;
mod listing;
mod prune;
mod race;
mod rust;
mod rust_statement;
mod shows;
mod source;
mod thinker;

use crate::program::{Addr, Len, PAGES, Room};

pub use c::c_source;
pub use known::Run;
pub use rust::rust_source;
pub use shows::Shows;

/// `memory.max` and `memory.high` of a group.
fn limits(room: Room) -> (&'static str, &'static str) {
    match room {
        Room::Max2M => ("2M", "max"),
        Room::Max4M => ("4M", "max"),
        Room::High4M => ("max", "4M"),
        Room::Unlimited => ("max", "max"),
    }
}

fn range(at: Addr, len: Len) -> std::ops::Range<usize> {
    at.page()..at.page() + cut(at, len)
}

/// Pages of a range, cut at the end of the arena.
fn cut(at: Addr, len: Len) -> usize {
    len.pages().min(PAGES - at.page())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::text;

    fn c(source: &str) -> String {
        c_source(&text::parse(source).unwrap(), &Shows::Nothing)
    }

    fn rust(source: &str) -> String {
        rust_source(&text::parse(source).unwrap(), "bug", &Shows::Nothing)
    }

    /// Every seed, with its path.
    fn seeds() -> Vec<(String, String)> {
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("seeds");
        let mut seeds = Vec::new();
        for target in std::fs::read_dir(folder).unwrap() {
            for seed in std::fs::read_dir(target.unwrap().path()).unwrap() {
                let path = seed.unwrap().path();
                let text = std::fs::read_to_string(&path).unwrap();
                seeds.push((path.display().to_string(), text));
            }
        }
        seeds
    }

    #[test]
    fn contents_are_checked_by_runs() {
        let source = "p0 mmap at=0.0 len=8 prot=rw backing=anon\np0 write at=0.2 len=2\np0 fork child=p1\np1 verify\n";
        let text = c(source);
        assert!(text.contains("check(0, 2, 0x0UL, 0x0UL, 0);"));
        assert!(text.contains("store(2, 2, 0x108002UL, 0x100001UL);"));
        assert!(text.contains("look(2, 2, 0x108002UL, 0x100001UL, DIRTY | READABLE);"));
        assert!(text.contains("before = huge();\n\t\tspawn(1);\n\t\tlook("));
        assert!(!text.contains('@') && !text.contains("uffd_open"));
        let text = rust(source);
        assert!(text.contains("p.check(0, 2, 0x0, 0x0, 0);"));
        assert!(text.contains("p.kept(before, 0, 0);"));
    }

    #[test]
    fn a_step_without_effect_is_left_out_in_both() {
        let source = "p1 verify\np0 device mirror=a what=write at=0.0 len=1\n";
        for text in [c(source), rust(source)] {
            assert!(text.contains("what it needs is not there"), "{text}");
            assert!(text.contains("the device may not store there"), "{text}");
        }
    }

    #[test]
    fn a_failure_is_injected_into_the_next_call_that_may_fail() {
        let source = "p0 mmap at=0.0 len=4 prot=rw backing=anon\np0 fail nth=2\np0 munmap at=0.1 len=1\n\
                      p0 fail nth=3\np0 verify\np0 munmap at=0.2 len=1\n";
        let text = c(source);
        let armed =
            "arm(2);\n\t\tsay(munmap(P(1), 1 * SIZE));\n\t\tdisarm();\n\t\tsettle(1, 1, 1);";
        assert!(text.contains(armed), "{text}");
        assert_eq!(text.matches("\tarm(").count(), 1, "no other: {text}");
        let text = rust(source);
        assert!(text.contains("p.fail_nth(2);\n            p.munmap(1, 1);"));
        assert!(text.contains("injects: true") && !text.contains("fail_nth(3)"));
    }

    #[test]
    fn what_a_device_stores_counts_only_if_it_did() {
        let source = "p0 mmap at=0.0 len=4 prot=rw backing=anon\np0 write at=0.0 len=2\n\
                      p0 device mirror=b what=write at=0.0 len=4\np0 verify\n";
        let text = c(source);
        // Two pages that were written before, and two of zeros.
        let rows: Vec<&str> = text
            .lines()
            .filter(|line| line.starts_with("\t{ 2, 2, "))
            .collect();
        assert_eq!(rows.len(), 2, "{text}");
        assert!(rows[1].ends_with("0x0UL, 0x0UL },"), "{rows:?}");
        assert!(text.contains("device_store(1, 0, 4);"));
        assert_eq!(rust(source).matches("Stored {").count(), 2);
    }

    /// A finding of each kind that has checks of its own, and the calls that are those.
    const CHECKS: [(&str, &[&str]); 6] = [
        ("O1 content: wrong content after write", &["mark_memory();"]),
        (
            "WARNING in f",
            &["open_log();", "mark_memory();", "complaint()"],
        ),
        (
            "O3 resources: nr_mlock not back at its baseline",
            &["baseline();", "unlike();"],
        ),
        ("O3 resources: page tables leaked", &["leaks(1);"]),
        (
            "O4 counters: thp_split_pmd wrong after munmap",
            &["splits = split_pmds();", "split(before, splits, 1);"],
        ),
        (
            "O5 bits: moved page not soft-dirty after mremap fixed",
            &["has_moved(1024, 1);", "huge_has_moved(before, 0, 3);"],
        ),
    ];

    #[test]
    fn a_finding_has_the_checks_that_show_it_and_no_others() {
        let program = text::parse(
            "p0 mmap at=0.0 len=512 prot=rw backing=anon\np0 write at=0.0 len=512\n\
             p0 mremap at=0.0 len=512 to=3.0 new=512 how=fixed\n\
             p0 mmap at=0.0 len=512 prot=rw backing=anon\np0 write at=0.0 len=512\n\
             p0 munmap at=0.1 len=1\np0 mremap at=0.2 len=1 to=2.0 new=1 how=fixed\n",
        );
        let program = program.unwrap();
        for (title, _) in CHECKS {
            let text = c_source(&program, &Shows::of(title));
            for (other, calls) in CHECKS {
                // marks are in memory for findings of two kinds
                let calls = calls.iter().filter(|call| !call.starts_with("mark"));
                for call in calls {
                    assert_eq!(text.contains(call), title == other, "{title}: {call}");
                }
            }
            let marked = title.starts_with("O1") || title.starts_with("WARNING");
            assert_eq!(text.contains("mark_memory"), marked, "{title}");
        }
        let rust = |title: &str| rust_source(&program, "bug", &Shows::of(title));
        assert!(rust(CHECKS[2].0).contains("baseline: true"));
        assert!(rust(CHECKS[4].0).contains("p.split(before, splits, 1);"));
        assert!(rust(CHECKS[5].0).contains("p.has_moved(1024, 1);"));
    }

    #[test]
    fn splits_are_counted_only_where_each_is_known() {
        let after = |title: &str, source: &str| {
            let shows = Shows::of(&format!("O4 counters: thp_split_pmd wrong after {title}"));
            c_source(&text::parse(source).unwrap(), &shows).contains("split_pmds()")
        };
        let map = "p0 mmap at=0.0 len=512 prot=rw backing=anon\np0 write at=0.0 len=512\n";
        assert!(after("munmap", &format!("{map}p0 munmap at=0.1 len=1\n")));
        assert!(!after("write", &format!("{map}p0 write at=0.1 len=1\n")));
        let device = format!("{map}p0 device mirror=a what=to-dev at=0.0 len=1\n");
        assert!(!after(
            "munmap",
            &format!("{device}p0 munmap at=0.1 len=1\n")
        ));
    }

    /// A page moves to and fro while another thread stores to it.
    const MOVES: &str = "p0 mmap at=0.0 len=512 prot=rw backing=anon\np0 write at=0.0 len=512\n\
        p0 mremap at=0.0 len=512 to=2.0 new=512 how=fixed lane=0 times=40 wait=7\n\
        p0 mremap at=2.0 len=512 to=0.0 new=512 how=fixed lane=0 times=40\n\
        p0 write at=0.0 len=33 lane=1 times=100\np0 verify\n";

    #[test]
    fn steps_that_race_are_threads_that_know_what_each_call_changes() {
        let text = c(MOVES);
        let has = |wanted: &str| assert!(text.contains(wanted), "no {wanted}: {text}");
        has(
            "\t[2] = { 5, 0, 40, 7, 0 },\n\t[3] = { 0, 0, 40, 0, 0 },\n\t[4] = { 0, 1, 100, 0, 1 },",
        );
        // what was stored is at one place or the other, and nothing else is
        has(
            "{ 2, 0, 0, 512, 0x108000UL, 0x100001UL, KEPT | ELSEWHERE | TRACKED, 0x11, 0x33, 1024 },",
        );
        has(
            "{ 2, 0, 1024, 512, 0x108000UL, 0x100001UL, KEPT | ELSEWHERE | TRACKED, 0x22, 0x33, -1024 },",
        );
        has("know(0, 512, 0x22);\n\t\tknow(1024, 512, 0x11);\n\t\tchanged();");
        has("case 4: /* p0 write at=0.0 len=33 lane=1 times=100 */\n\t\trace_store(0, 33);");
        has("for (int n = 1; n < 20 && !result; n++)");
        assert!(
            !c("p0 verify\n").contains("races["),
            "others have nothing of it"
        );
        assert!(rust(MOVES).contains("//! are done one after another here"));
    }

    #[test]
    fn a_race_of_which_less_is_known_promises_less() {
        let dropped = MOVES.replace("verify", "madvise at=0.0 len=1 advice=dontneed lane=2");
        let text = c(&dropped);
        let wanted =
            "{ 2, 0, 0, 1, 0x108000UL, 0x0UL, LAZY | ELSEWHERE | TRACKED, 0x11, 0x33, 0 },";
        assert!(text.contains(wanted), "{text}");
        // two threads change areas: nobody knows what is mapped
        let both = MOVES.replace("verify", "mprotect at=0.0 len=512 prot=r lane=2");
        let text = c(&both);
        assert!(
            !text.contains("know(0,") && !text.contains("\t\tchange();"),
            "{text}"
        );
        assert!(
            text.contains("ELSEWHERE | TRACKED, 0x0, 0x33, 0 },"),
            "{text}"
        );
    }

    #[test]
    fn every_seed_compiles_as_c() {
        let folder = std::env::temp_dir().join(format!("emit-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let mut files = Vec::new();
        for (number, (_, source)) in seeds().iter().enumerate() {
            let file = folder.join(format!("{number}.c"));
            let title = CHECKS.get(number % 7).map_or("", |(title, _)| title);
            let program = text::parse(source).unwrap();
            std::fs::write(&file, c_source(&program, &Shows::of(title))).unwrap();
            files.push(file);
        }
        let gcc = |arguments: &[&str], files: &[std::path::PathBuf]| {
            let output = std::process::Command::new("gcc")
                .args(["-Wall", "-Wextra", "-Werror"])
                .args(arguments)
                .args(files)
                .output()
                .expect("gcc, which builds kernels, is there");
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            assert!(output.status.success(), "{said}");
        };
        gcc(&["-fsyntax-only"], &files);
        // what is not used is only told where code is made
        for file in files.iter().step_by(10) {
            gcc(&["-S", "-o", "/dev/null"], std::slice::from_ref(file));
        }
        std::fs::remove_dir_all(&folder).unwrap();
    }
}
