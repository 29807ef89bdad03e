// SPDX-License-Identifier: GPL-2.0-only
//! Files of addresses, as the guest writes them: one a line, in hexadecimal;
//! a line that begins with `#` names the test that comes next, or says that a
//! buffer was full.

use std::collections::HashSet;
use std::fmt::Write;
use std::path::Path;

use anyhow::Context;
use fs_err as fs;

/// What the guest writes when it may have missed something.
const FULL: &str = "# full";

/// Addresses that were reached.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pcs {
    /// The addresses.
    pub reached: HashSet<u64>,
    /// How often a buffer was full, so that some may be missing.
    pub full: u64,
}

impl Pcs {
    /// Adds those of a file.
    ///
    /// # Errors
    /// When it cannot be read, or holds anything else.
    pub fn read(&mut self, path: &Path) -> anyhow::Result<()> {
        let text = fs::read_to_string(path)?;
        self.parse(&text)
            .with_context(|| format!("{} is no list of addresses", path.display()))
    }

    fn parse(&mut self, text: &str) -> anyhow::Result<()> {
        for line in text.lines() {
            if line == FULL {
                self.full += 1;
            } else if !line.starts_with('#') {
                let digits = line.trim_start_matches("0x");
                let pc = u64::from_str_radix(digits, 16).with_context(|| format!("`{line}`"))?;
                self.reached.insert(pc);
            }
        }
        Ok(())
    }

    /// The same as text, in order.
    pub fn to_text(&self) -> String {
        let mut sorted: Vec<&u64> = self.reached.iter().collect();
        sorted.sort_unstable();
        let mut text = String::new();
        for pc in sorted {
            let _ = writeln!(text, "{pc:#x}");
        }
        for _ in 0..self.full {
            let _ = writeln!(text, "{FULL}");
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_is_read_as_it_was_written() {
        let mut pcs = Pcs::default();
        pcs.parse("# hmm.a\n0xffffffff81000005\n0xffffffff81000005\n# full\n0x9\n")
            .unwrap();
        assert_eq!((pcs.reached.len(), pcs.full), (2, 1));
        let mut again = Pcs::default();
        again.parse(&pcs.to_text()).unwrap();
        assert_eq!(again, pcs);
        assert!(again.parse("0x12\nhello\n").is_err());
    }
}
