// SPDX-License-Identifier: GPL-2.0-only
//! What a set of addresses covers of a kernel, by file, function and line. Pure.

use std::collections::{BTreeMap, HashSet};
use std::rc::Rc;

use serde::{Deserialize, Serialize};

use super::source::{Frame, Place};
use super::{HUGE_CORE, Map};

/// So many of so many.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Share {
    /// How many were reached.
    pub hit: u32,
    /// How many there are.
    pub all: u32,
}

impl Share {
    fn count(&mut self, hit: bool) {
        self.all += 1;
        self.hit += u32::from(hit);
    }

    /// Both together.
    pub fn and(self, other: Self) -> Self {
        Self {
            hit: self.hit + other.hit,
            all: self.all + other.all,
        }
    }

    /// In percent; 0 of nothing.
    pub fn percent(self) -> f64 {
        100.0 * f64::from(self.hit) / f64::from(self.all.max(1))
    }
}

/// What is covered of a kernel.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Coverage {
    /// Call sites of the whole kernel.
    pub sites: Share,
    /// Addresses that are no call site of this kernel; they come from another
    /// one, or from modules.
    pub unknown: u32,
    /// Files with call sites, the huge-page ones first, headers last, by name.
    pub files: Vec<File>,
}

/// What is covered of a file.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct File {
    /// Below the top of the kernel's tree.
    pub name: String,
    /// Call sites in the code of its functions, with what was inlined there.
    pub sites: Share,
    /// Functions by name, those inlined somewhere included.
    pub functions: Vec<Function>,
    /// Lines on which a call site stands, or a call that was inlined, and
    /// whether one of theirs was reached.
    pub lines: BTreeMap<u32, bool>,
}

/// What is covered of a function.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Function {
    /// Its name.
    pub name: String,
    /// Its first line with a call site.
    pub line: u32,
    /// The call sites of all its copies, with what was inlined from headers.
    pub sites: Share,
}

impl File {
    /// Its lines as a share.
    pub fn line_share(&self) -> Share {
        let mut share = Share::default();
        self.lines.values().for_each(|hit| share.count(*hit));
        share
    }
}

impl Coverage {
    /// What `pcs` cover of the kernel of `map`.
    pub fn of(map: &Map, pcs: &HashSet<u64>) -> Self {
        let mut files = Files::default();
        let mut sites = Share::default();
        for (pc, place) in &map.sites {
            let hit = pcs.contains(pc);
            sites.count(hit);
            if let Some(place) = place {
                files.add(place, hit);
            }
        }
        Self {
            sites,
            unknown: u32::try_from(pcs.len()).unwrap_or(u32::MAX) - sites.hit,
            files: files.sorted(),
        }
    }

    /// The files that the project is about, together.
    pub fn huge_core(&self) -> Share {
        let core = self.files.iter().filter(|file| is_core(&file.name));
        core.fold(Share::default(), |sum, file| sum.and(file.sites))
    }

    /// Call sites of one file, such as `mm/huge_memory.c`.
    pub fn file(&self, name: &str) -> Share {
        let file = self.files.iter().find(|file| file.name == name);
        file.map_or(Share::default(), |file| file.sites)
    }
}

/// Whether a file is one of [`HUGE_CORE`].
pub fn is_core(name: &str) -> bool {
    HUGE_CORE.contains(&name)
}

/// A file whose functions are still being counted, by name.
type Open = (File, BTreeMap<Rc<str>, Function>);

#[derive(Default)]
struct Files(BTreeMap<Rc<str>, Open>);

impl Files {
    fn add(&mut self, place: &Place, hit: bool) {
        self.of(&place.file).0.sites.count(hit);
        for frame in &place.frames {
            let reached = self.of(&frame.file).0.lines.entry(frame.line).or_default();
            *reached |= hit;
        }
        let owner = owner(place);
        if let Some(Frame {
            file,
            line,
            function,
        }) = owner
        {
            let functions = &mut self.of(file).1;
            let counted = functions.entry(Rc::clone(function)).or_default();
            let first = counted.sites.all == 0;
            counted.line = if first {
                *line
            } else {
                counted.line.min(*line)
            };
            counted.sites.count(hit);
        }
    }

    fn of(&mut self, name: &Rc<str>) -> &mut Open {
        self.0.entry(Rc::clone(name)).or_default()
    }

    fn sorted(self) -> Vec<File> {
        let whole = |(name, (file, functions)): (Rc<str>, Open)| {
            let functions = functions.into_iter().map(|(name, function)| Function {
                name: name.to_string(),
                ..function
            });
            File {
                name: name.to_string(),
                functions: functions.collect(),
                ..file
            }
        };
        let mut files: Vec<File> = self.0.into_iter().map(whole).collect();
        files.retain(|file| file.sites.all > 0 || is_ours(&file.name));
        let rank = |file: &File| {
            let core = HUGE_CORE.iter().position(|name| *name == file.name);
            (core.unwrap_or(HUGE_CORE.len()), !file.name.ends_with(".c"))
        };
        files.sort_by_key(rank);
        files
    }
}

/// Headers of mm/ have lines of interest; those of the rest of the kernel are
/// everywhere and tell nothing.
fn is_ours(file: &str) -> bool {
    file.starts_with("mm/") || file.starts_with("lib/")
}

/// The function that a call site counts for: the innermost of a `.c` file, so
/// that helpers from headers count for who uses them.
fn owner(place: &Place) -> Option<&Frame> {
    let in_c = place.frames.iter().find(|frame| frame.file.ends_with(".c"));
    in_c.or(place.frames.last())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(file: &str, line: u32, function: &str) -> Frame {
        Frame {
            file: file.into(),
            line,
            function: function.into(),
        }
    }

    fn place(frames: &[Frame]) -> Option<Place> {
        Some(Place {
            file: Rc::clone(&frames.last().unwrap().file),
            frames: frames.to_vec(),
        })
    }

    fn map() -> Map {
        let zap = frame("mm/memory.c", 20, "zap");
        let split = frame("mm/huge_memory.c", 100, "split");
        Map {
            sites: vec![
                (1, place(std::slice::from_ref(&zap))),
                (2, place(&[frame("include/linux/mm.h", 9, "test"), zap])),
                (
                    3,
                    place(&[frame("mm/memory.c", 30, "inlined"), split.clone()]),
                ),
                (4, place(&[split])),
                (5, None),
            ],
        }
    }

    #[test]
    fn call_sites_count_for_the_file_and_the_innermost_c_function() {
        let coverage = Coverage::of(&map(), &HashSet::from([2, 3, 77]));
        assert_eq!(coverage.sites, Share { hit: 2, all: 5 });
        assert_eq!(coverage.unknown, 1);
        let names: Vec<_> = coverage.files.iter().map(|f| f.name.as_str()).collect();
        assert_eq!(names, ["mm/huge_memory.c", "mm/memory.c"]);
        assert_eq!(coverage.file("mm/huge_memory.c"), Share { hit: 1, all: 2 });
        assert_eq!(coverage.huge_core(), Share { hit: 2, all: 4 });
        let memory = &coverage.files[1];
        let functions: Vec<_> = memory
            .functions
            .iter()
            .map(|f| (f.name.as_str(), f.line, f.sites.hit, f.sites.all))
            .collect();
        assert_eq!(functions, [("inlined", 30, 1, 1), ("zap", 20, 1, 2)]);
    }

    #[test]
    fn a_line_is_covered_by_any_of_its_call_sites_and_by_what_is_inlined_there() {
        let coverage = Coverage::of(&map(), &HashSet::from([3]));
        assert_eq!(coverage.files[0].lines, BTreeMap::from([(100, true)]));
        assert_eq!(
            coverage.files[1].lines,
            BTreeMap::from([(20, false), (30, true)])
        );
        assert_eq!(coverage.files[1].line_share(), Share { hit: 1, all: 2 });
    }

    #[test]
    fn percent_of_nothing_is_nothing() {
        assert_eq!(Share::default().percent(), 0.0);
        assert_eq!(Share { hit: 1, all: 4 }.percent(), 25.0);
    }
}
