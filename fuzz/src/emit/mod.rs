// SPDX-License-Identifier: GPL-2.0-only
//! Programs as reproducers: `repro.c`, which needs a C compiler alone, and
//! `repro.rs`, a selftest. Both are written from one [`listing::Listing`]; each
//! operation has a form in both, or does not compile.

mod c;
mod call;
mod known;
mod listing;
mod prune;
mod rust;
mod rust_statement;
mod statement;

use crate::program::{Addr, Len, PAGES};

pub use c::c_source;
pub use known::Run;
pub use rust::rust_source;

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
        c_source(&text::parse(source).unwrap())
    }

    fn rust(source: &str) -> String {
        rust_source(&text::parse(source).unwrap(), "bug")
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
        assert!(text.contains("before = huge();\n\t\tspawn(1);\n\t\tkept(before, 0, 0);"));
        assert!(!text.contains('@') && !text.contains("uffd_open"));
        let text = rust(source);
        assert!(text.contains("p.check(0, 2, 0x0, 0x0, 0);"));
        assert!(text.contains("p.spawn(1);\n            p.kept(before, 0, 0);"));
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
        assert_eq!(text.matches("arm(").count(), 4, "no other is armed: {text}");
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

    #[test]
    fn every_seed_compiles_as_c() {
        let folder = std::env::temp_dir().join(format!("emit-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let mut files = Vec::new();
        for (number, (_, source)) in seeds().iter().enumerate() {
            let file = folder.join(format!("{number}.c"));
            std::fs::write(&file, c(source)).unwrap();
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
