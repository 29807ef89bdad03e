// SPDX-License-Identifier: GPL-2.0-only
//! What smaps shows of the arena.

use super::sys;
use crate::model::page::Flags;
use crate::program::{PAGE, PAGES};

/// What is mapped at each page of the arena, from the text of smaps.
pub fn areas(smaps: &str) -> Vec<Option<(Flags, u16)>> {
    let mut found = vec![None; PAGES];
    let mut area = 0..0;
    for line in smaps.lines() {
        if let Some((pages, flags, offset)) = head(line) {
            area = pages;
            for (i, page) in found[area.clone()].iter_mut().enumerate() {
                *page = Some((flags, offset.wrapping_add(i as u16)));
            }
        } else if let Some(words) = line.strip_prefix("VmFlags:") {
            let flags = vm_flags(words);
            for page in found[area.clone()].iter_mut().flatten() {
                page.0.set(flags);
            }
        }
    }
    found
}

/// The first line of an area: its pages of the arena, attributes, page number.
fn head(line: &str) -> Option<(std::ops::Range<usize>, Flags, u16)> {
    let mut words = line.split_whitespace();
    let (start, end) = words.next()?.split_once('-')?;
    let start = usize::from_str_radix(start, 16).ok()?;
    let end = usize::from_str_radix(end, 16).ok()?;
    let prot = words.next()?.as_bytes();
    let offset = u64::from_str_radix(words.next()?, 16).ok()? / PAGE as u64;
    let inode: u64 = words.nth(1)?.parse().ok()?;
    let page = |address: usize| (address.saturating_sub(sys::address(0)) / PAGE).min(PAGES);
    let mut flags = Flags::MAPPED;
    for (index, letter, flag) in [
        (0, b'r', Flags::READ),
        (1, b'w', Flags::WRITE),
        (3, b's', Flags::SHARED),
    ] {
        if prot.get(index) == Some(&letter) {
            flags.set(flag);
        }
    }
    let file = inode != 0 || flags.has(Flags::SHARED);
    if file && !flags.has(Flags::SHARED) {
        flags.set(Flags::FILE);
    }
    let offset = if file { offset as u16 } else { 0 };
    Some((page(start)..page(end), flags, offset))
}

fn vm_flags(words: &str) -> Flags {
    let mut flags = Flags(0);
    for word in words.split_whitespace() {
        flags.set(match word {
            "lo" => Flags::LOCKED,
            "hg" => Flags::HUGEPAGE,
            "nh" => Flags::NOHUGEPAGE,
            "dc" => Flags::DONTFORK,
            "wf" => Flags::WIPEONFORK,
            "uw" => Flags::TRACKED,
            _ => Flags(0),
        });
    }
    flags
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn areas_are_read_from_smaps() {
        let (a, b, c) = (sys::address(2), sys::address(4), sys::address(5));
        let smaps = format!(
            "{a:x}-{b:x} rw-p 00000000 00:00 0 \nSize: 8 kB\nVmFlags: rd wr mr lo uw \n\
             {b:x}-{c:x} r--p 00003000 00:01 77  /memfd:stamped\nVmFlags: rd dc \n\
             7f0000000000-7f0000001000 rw-p 00000000 00:00 0\nVmFlags: rd lo\n"
        );
        let found = areas(&smaps);
        let rw = Flags::MAPPED.with(Flags::READ).with(Flags::WRITE);
        let locked = rw.with(Flags::LOCKED).with(Flags::TRACKED);
        assert_eq!(found[1], None);
        assert_eq!(found[3].map(|(flags, _)| flags), Some(locked));
        let file = Flags::MAPPED.with(Flags::READ).with(Flags::FILE);
        assert_eq!(found[4], Some((file.with(Flags::DONTFORK), 3)));
        assert_eq!(found.iter().flatten().count(), 3);
    }
}
