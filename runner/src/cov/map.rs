// SPDX-License-Identifier: GPL-2.0-only
//! All call sites of a kernel and where they stand: what coverage is a share of.

use std::path::Path;

use super::source::{Lines, Place};

/// The call sites of one kernel.
#[derive(Debug, Default)]
pub struct Map {
    /// Each address that KCOV can report, with its place in the source; `None`
    /// for the few without line numbers.
    pub sites: Vec<(u64, Option<Place>)>,
}

impl Map {
    /// Reads the map of a kernel with KCOV out of its `vmlinux`. Takes some
    /// seconds.
    ///
    /// # Errors
    /// When it has no KCOV or no line numbers.
    pub fn of(vmlinux: &Path) -> anyhow::Result<Self> {
        let pcs = super::sites::of(vmlinux)?;
        let mut lines = Lines::open(vmlinux)?;
        let sites = pcs.into_iter().map(|pc| Ok((pc, lines.place(pc)?)));
        Ok(Self {
            sites: sites.collect::<anyhow::Result<_>>()?,
        })
    }
}
