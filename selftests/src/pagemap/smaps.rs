// SPDX-License-Identifier: GPL-2.0-only
//! `/proc/self/smaps`: what the mappings of a range consist of.

use std::collections::BTreeMap;
use std::fs;
use std::ops::Range;

use crate::mapping::Region;

/// One mapping of smaps.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Vma {
    /// Its addresses.
    pub range: Range<usize>,
    /// `rw-p` and the like.
    pub perms: String,
    /// Its fields in kB, such as `Rss` and `AnonHugePages`.
    pub kib: BTreeMap<String, u64>,
    /// Its two-letter flags, such as `hg` and `lo`.
    pub flags: Vec<String>,
}

/// Parses the text of smaps.
pub fn parse(text: &str) -> Vec<Vma> {
    let mut all: Vec<Vma> = Vec::new();
    for line in text.lines() {
        if let Some(vma) = parse_header(line) {
            all.push(vma);
            continue;
        }
        let (Some(vma), Some((name, value))) = (all.last_mut(), line.split_once(':')) else {
            continue;
        };
        if name == "VmFlags" {
            vma.flags = value.split_whitespace().map(str::to_string).collect();
        } else if let Some(number) = value.trim().strip_suffix(" kB")
            && let Ok(number) = number.trim().parse()
        {
            vma.kib.insert(name.to_string(), number);
        }
    }
    all
}

/// `7f00-7f10 rw-p 0 0:0 0 name`.
fn parse_header(line: &str) -> Option<Vma> {
    let mut words = line.split_whitespace();
    let (start, end) = words.next()?.split_once('-')?;
    let perms = words.next()?;
    Some(Vma {
        range: usize::from_str_radix(start, 16).ok()?..usize::from_str_radix(end, 16).ok()?,
        perms: perms.to_string(),
        ..Vma::default()
    })
}

/// The mappings of this process that overlap `range` of `region`, in order.
///
/// # Panics
/// When smaps cannot be read.
#[track_caller]
pub fn vmas(region: &Region, range: &Range<usize>) -> Vec<Vma> {
    vmas_of("self", &region.absolute(range))
}

/// As [`vmas`], of a process by its id (or `self`) and addresses.
///
/// # Panics
/// As [`vmas`].
#[track_caller]
pub fn vmas_of(pid: &str, at: &Range<usize>) -> Vec<Vma> {
    let path = format!("/proc/{pid}/smaps");
    let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
    let overlap = |vma: &Vma| vma.range.start < at.end && at.start < vma.range.end;
    parse(&text).into_iter().filter(overlap).collect()
}

/// Sum of field `name`, in kB, over the mappings that overlap `range`.
///
/// # Panics
/// As [`vmas`].
#[track_caller]
pub fn kib(region: &Region, range: &Range<usize>, name: &str) -> u64 {
    vmas(region, range)
        .iter()
        .filter_map(|vma| vma.kib.get(name))
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAMPLE: &str = "\
7f5d40000000-7f5d40200000 rw-p 00000000 00:00 0 
Size:               2048 kB
KernelPageSize:        4 kB
Rss:                2048 kB
AnonHugePages:      2048 kB
Locked:                0 kB
THPeligible:           1
VmFlags: rd wr mr mw me ac sd hg 
7ffd1b9e5000-7ffd1ba07000 r--p 00000000 00:00 0          [stack]
Rss:                  12 kB
VmFlags: rd mr
";

    #[test]
    fn mappings_fields_and_flags_are_parsed() {
        let all = parse(SAMPLE);
        assert_eq!(all.len(), 2);
        assert_eq!(all[0].range, 0x7f5d_4000_0000..0x7f5d_4020_0000);
        assert_eq!(all[0].kib["AnonHugePages"], 2048);
        assert!(!all[0].kib.contains_key("THPeligible"));
        assert!(all[0].flags.contains(&"hg".to_string()));
        assert_eq!((all[1].perms.as_str(), all[1].kib["Rss"]), ("r--p", 12));
    }

    #[test]
    fn a_region_finds_itself() {
        let region = Region::private(16 * 4096).unwrap();
        crate::pattern::FIRST.fill(&region, 0..3);
        assert_eq!(kib(&region, &region.all(), "Rss"), 12);
    }
}
