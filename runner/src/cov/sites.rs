// SPDX-License-Identifier: GPL-2.0-only
//! Every place in a `vmlinux` that tells KCOV it was reached.

use std::path::Path;

use anyhow::{Context, bail};
use object::{Object, ObjectSection, ObjectSymbol, SectionKind};

/// What instrumented code calls at the start of each block.
const CALLBACK: &str = "__sanitizer_cov_trace_pc";
/// Opcode and length of a near call (`call rel32`).
const CALL: u8 = 0xe8;
const CALL_BYTES: usize = 5;

/// The addresses that KCOV reports, one for each call site, in order: those
/// behind the calls, as linked.
///
/// # Errors
/// When the file is no kernel with KCOV.
pub fn of(vmlinux: &Path) -> anyhow::Result<Vec<u64>> {
    let bytes = fs_err::read(vmlinux)?;
    let file = object::File::parse(&*bytes)
        .with_context(|| format!("{} is no ELF file", vmlinux.display()))?;
    let Some(callback) = address_of(&file, CALLBACK) else {
        bail!(
            "{} has no {CALLBACK}: build it with the profile kcov",
            vmlinux.display()
        );
    };
    let mut sites = Vec::new();
    for section in file.sections().filter(|s| s.kind() == SectionKind::Text) {
        in_text(section.data()?, section.address(), callback, &mut sites);
    }
    sites.sort_unstable();
    Ok(sites)
}

/// The address of a symbol of a kernel, if it has it.
///
/// # Errors
/// When the file is no ELF file.
pub fn symbol(vmlinux: &Path, name: &str) -> anyhow::Result<Option<u64>> {
    let bytes = fs_err::read(vmlinux)?;
    let file = object::File::parse(&*bytes)
        .with_context(|| format!("{} is no ELF file", vmlinux.display()))?;
    Ok(address_of(&file, name))
}

fn address_of(file: &object::File, name: &str) -> Option<u64> {
    let symbol = file.symbols().find(|symbol| symbol.name() == Ok(name));
    symbol.map(|symbol| symbol.address())
}

/// Adds the call sites of one section. Instructions are not decoded: that four
/// bytes inside another one are the distance to the callback by chance is one
/// in four thousand million for each byte.
fn in_text(text: &[u8], address: u64, callback: u64, sites: &mut Vec<u64>) {
    for (at, window) in text.windows(CALL_BYTES).enumerate() {
        let [CALL, distance @ ..] = window else {
            continue;
        };
        let distance = i32::from_le_bytes(distance.try_into().expect("four bytes"));
        let behind = address + (at + CALL_BYTES) as u64;
        if behind.wrapping_add_signed(distance.into()) == callback {
            sites.push(behind);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_calls_of_the_callback_are_call_sites() {
        let mut text = vec![0x90; 32];
        let mut call = |at: usize, target: i64| {
            let distance = i32::try_from(target - (at as i64 + 5)).unwrap();
            text[at] = CALL;
            text[at + 1..at + 5].copy_from_slice(&distance.to_le_bytes());
        };
        call(3, 0x100);
        call(10, 0x200);
        call(20, -0x40);
        let mut sites = Vec::new();
        in_text(&text, 0x1000, 0x1100, &mut sites);
        in_text(&text, 0x1000, 0x1000 - 0x40, &mut sites);
        assert_eq!(sites, [0x1008, 0x1019]);
    }
}
