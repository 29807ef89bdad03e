// SPDX-License-Identifier: GPL-2.0-only
//! The whole way from a program that is instrumented as a kernel is.

use std::collections::HashSet;
use std::path::Path;
use std::process::Command;

use super::{Coverage, Map, sites};
use crate::cov::coverage::Share;

const FILES: [(&str, &str); 5] = [
    (
        "init/main.c",
        "int zap(int);\nint counter;\nvoid start_kernel(void)\n{\n\tzap(counter);\n}\n",
    ),
    (
        "kernel/kcov.c",
        "void __sanitizer_cov_trace_pc(void)\n{\n\t__asm__ volatile(\"\");\n}\n",
    ),
    (
        "include/linux/mm.h",
        "static inline __attribute__((always_inline)) int large(int x)\n{\n\
         \tif (x & 4)\n\t\treturn x + counter;\n\treturn 1;\n}\n",
    ),
    (
        "mm/memory.c",
        "extern int counter;\n#include \"../include/linux/mm.h\"\n\
         static __attribute__((always_inline)) int wp(int x)\n{\n\
         \tif (x > 10)\n\t\tcounter = 3;\n\treturn large(x);\n}\n\
         int zap(int x)\n{\n\treturn wp(x) + 1;\n}\n",
    ),
    ("mm/plain.S", ".globl plain\nplain:\tret\n"),
];

/// Builds the files below `top`; the path of the program.
fn build(top: &Path) -> std::path::PathBuf {
    let gcc = |arguments: &[&str]| {
        let output = Command::new("gcc")
            .current_dir(top)
            .args(arguments)
            .output();
        let output = output.expect("gcc, which builds kernels, is there");
        assert!(output.status.success(), "{output:?}");
    };
    let mut objects = Vec::new();
    for (name, text) in FILES {
        let file = top.join(name);
        fs_err::create_dir_all(file.parent().unwrap()).unwrap();
        fs_err::write(&file, text).unwrap();
        if name.ends_with(".h") {
            continue;
        }
        let object = file.with_extension("o").display().to_string();
        let mut arguments = vec![
            "-g",
            "-O1",
            "-ffreestanding",
            "-fno-pie",
            "-fcf-protection=none",
        ];
        if name.starts_with("mm/") {
            arguments.push("-fsanitize-coverage=trace-pc");
        }
        let file = file.display().to_string();
        arguments.extend(["-c", &file, "-o", &object]);
        gcc(&arguments);
        objects.push(object);
    }
    let mut link = vec!["-nostdlib", "-static", "-no-pie", "-Wl,-e,start_kernel"];
    link.extend(["-o", "vmlinux"]);
    link.extend(objects.iter().map(String::as_str));
    gcc(&link);
    top.join("vmlinux")
}

#[test]
fn call_sites_are_those_of_the_disassembler_and_stand_where_the_source_says() {
    let folder = tempfile::tempdir().unwrap();
    let top = fs_err::canonicalize(folder.path()).unwrap();
    let vmlinux = build(&top);
    let found = sites::of(&vmlinux).unwrap();

    let listing = Command::new("objdump")
        .arg("-d")
        .arg(&vmlinux)
        .output()
        .unwrap();
    let listing = String::from_utf8(listing.stdout).unwrap();
    let calls: Vec<&str> = listing
        .lines()
        .filter(|line| line.contains("call") && line.contains("<__sanitizer_cov_trace_pc>"))
        .collect();
    let address = |line: &&str| {
        let address = line.trim_start().split(':').next().unwrap();
        u64::from_str_radix(address, 16).unwrap() + 5
    };
    assert_eq!(found, calls.iter().map(address).collect::<Vec<_>>());
    assert!(found.len() >= 4, "{listing}");

    let map = Map::of(&vmlinux).unwrap();
    let all = Coverage::of(&map, &found.iter().copied().collect());
    let number = u32::try_from(found.len()).unwrap();
    let whole = Share {
        hit: number,
        all: number,
    };
    assert_eq!((all.sites, all.file("mm/memory.c")), (whole, whole));
    let memory = &all.files[0];
    let functions: Vec<&str> = memory.functions.iter().map(|f| f.name.as_str()).collect();
    // `large` stands in a header: what is inlined from there counts for `wp`.
    assert_eq!(functions, ["wp", "zap"]);
    assert_eq!(memory.functions[1].line, 11);
    // The store, the call of what was inlined, and zap's own.
    for line in [6, 7, 11] {
        assert_eq!(memory.lines.get(&line), Some(&true), "{:?}", memory.lines);
    }
    // Each site alone counts once, for the innermost function of this file; the
    // compiler gives the entry of `zap` to what it inlined first.
    let mut hits = [0, 0];
    for site in &found {
        let one = Coverage::of(&map, &HashSet::from([*site]));
        assert_eq!(one.sites.hit, 1);
        for (hit, function) in hits.iter_mut().zip(&one.files[0].functions) {
            *hit += function.sites.hit;
        }
    }
    let counts = [0, 1].map(|index: usize| memory.functions[index].sites.all);
    assert_eq!(hits, counts);
    assert_eq!(hits.iter().sum::<u32>(), number);
    let entry = Coverage::of(&map, &HashSet::from([found[0]]));
    let lines = &entry.files[0].lines;
    assert_eq!((lines.get(&11), lines.get(&6)), (Some(&true), Some(&false)));
}

#[test]
fn a_program_without_kcov_is_refused_with_what_to_do() {
    let error = sites::of(Path::new("/proc/self/exe")).unwrap_err();
    assert!(error.to_string().contains("profile kcov"), "{error}");
}
