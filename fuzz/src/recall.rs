// SPDX-License-Identifier: GPL-2.0-only
//! What inputs of the corpus reached, kept between the machines of a campaign: one
//! that takes another's place, or another's finds, need not run them again.

use std::collections::hash_map::DefaultHasher;
use std::fs;
use std::hash::{Hash, Hasher};
use std::path::PathBuf;

/// The byte of an address that all of the kernel's have in common; its place takes the count.
const TOP: u64 = 0xff << 56;

/// A folder with a file for each input.
pub struct Recall {
    folder: PathBuf,
    /// libFuzzer's classes of counts that each counter has had, a bit each.
    classes: Vec<u8>,
}

impl Recall {
    /// The folder that `HUGEPROBE_SIGNALS` names, if it is there. It is one kernel's: the host empties it when a
    /// campaign starts.
    pub fn wanted(counters: usize) -> Option<Self> {
        let folder = PathBuf::from(std::env::var_os("HUGEPROBE_SIGNALS")?);
        folder.is_dir().then(|| Self {
            folder,
            classes: vec![0; counters],
        })
    }

    fn file(&self, input: &[u8]) -> PathBuf {
        // the same for all machines: they run the same program
        let mut hasher = DefaultHasher::new();
        input.hash(&mut hasher);
        self.folder.join(format!("{:016x}", hasher.finish()))
    }

    /// Address and count of each call site that the input reached when it ran before.
    pub fn find(&self, input: &[u8]) -> Option<Vec<(u64, u8)>> {
        let bytes = fs::read(self.file(input)).ok()?;
        let (words, []) = bytes.as_chunks::<8>() else {
            return None;
        };
        let unpacked = words.iter().map(|word| {
            let word = u64::from_ne_bytes(*word);
            (word | TOP, (word >> 56) as u8)
        });
        Some(unpacked.collect())
    }

    /// Notes that a counter has a count. True if it never had one of its class: then libFuzzer keeps the input.
    pub fn is_new(&mut self, counter: usize, count: u8) -> bool {
        let class = match count {
            0 => return false,
            1..=3 => count - 1,
            4..=7 => 3,
            8..=15 => 4,
            16..=31 => 5,
            32..=127 => 6,
            128.. => 7,
        };
        let had = self.classes[counter];
        self.classes[counter] |= 1 << class;
        had & 1 << class == 0
    }

    /// Keeps what an input reached.
    pub fn keep(&self, input: &[u8], reached: impl Iterator<Item = (u64, u8)>) {
        let packed: Vec<u8> = reached
            .flat_map(|(address, count)| (address & !TOP | u64::from(count) << 56).to_ne_bytes())
            .collect();
        // whole or not at all: another machine may look for it
        let file = self.file(input);
        let part = file.with_extension(std::process::id().to_string());
        // without it the input runs again, no more
        let _ = fs::write(&part, packed).and_then(|()| fs::rename(part, file));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn recall(folder: &std::path::Path) -> Recall {
        Recall {
            folder: folder.to_owned(),
            classes: vec![0; 2],
        }
    }

    #[test]
    fn what_an_input_reached_is_found_by_the_input_alone() {
        let folder = tempfile::tempdir().unwrap();
        let recall = recall(folder.path());
        let reached = vec![(0xffff_ffff_8100_0004, 1), (0xffff_ffff_c000_0000, 255)];
        recall.keep(b"p0 verify\n", reached.iter().copied());
        assert_eq!(recall.find(b"p0 verify\n"), Some(reached));
        assert_eq!(recall.find(b"p1 verify\n"), None);
    }

    #[test]
    fn a_count_is_new_once_for_its_class_and_counter() {
        let folder = tempfile::tempdir().unwrap();
        let mut recall = recall(folder.path());
        let new = [(0, 4), (0, 7), (0, 8), (1, 8), (0, 128), (0, 255), (1, 0)]
            .map(|(counter, count)| recall.is_new(counter, count));
        assert_eq!(new, [true, false, true, true, true, false, false]);
    }
}
