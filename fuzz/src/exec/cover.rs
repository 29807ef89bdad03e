// SPDX-License-Identifier: GPL-2.0-only
//! Coverage of one program: how often each kernel call site was seen.

/// Bytes of kernel text that have a cell of their own each four bytes; a call
/// instruction is five bytes long, so no two call sites share a cell.
const TEXT_BYTES: usize = 64 << 20;
/// Cells for addresses outside, by hash (modules).
const OUTSIDE: usize = 1 << 16;
/// Cells in all.
pub const CELLS: usize = TEXT_BYTES / 4 + OUTSIDE;
/// Distinct call sites that one program may reach.
const MAX_SEEN: usize = 1 << 17;

/// Counts by cell; all zeros is a valid, empty value.
#[repr(C)]
pub struct Cover {
    /// First address of the kernel's text.
    pub text: u64,
    seen: u32,
    list: [u32; MAX_SEEN],
    pcs: [u64; MAX_SEEN],
    counts: [u8; CELLS],
}

impl Cover {
    /// Counts addresses; counts stop at 255.
    pub fn add_all(&mut self, pcs: &[u64]) {
        for pc in pcs {
            let cell = self.cell(*pc);
            // most are seen again and again
            match self.counts[cell] {
                u8::MAX => {}
                0 => self.add_first(cell, *pc),
                count => self.counts[cell] = count + 1,
            }
        }
    }

    #[cold]
    fn add_first(&mut self, cell: usize, pc: u64) {
        let seen = self.seen as usize;
        if seen < MAX_SEEN {
            self.list[seen] = cell as u32;
            self.pcs[seen] = pc;
            self.seen += 1;
            self.counts[cell] = 1;
        }
    }

    /// The cell of an address.
    #[inline]
    pub fn cell(&self, pc: u64) -> usize {
        let offset = pc.wrapping_sub(self.text);
        if offset < TEXT_BYTES as u64 {
            return (offset / 4) as usize;
        }
        let hash = pc.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 48;
        TEXT_BYTES / 4 + hash as usize % OUTSIDE
    }

    /// Every call site seen: its cell, address and count.
    pub fn iter(&self) -> impl Iterator<Item = (usize, u64, u8)> + '_ {
        (0..self.seen as usize).map(|i| {
            let cell = self.list[i] as usize;
            (cell, self.pcs[i], self.counts[cell])
        })
    }

    /// Distinct call sites seen.
    pub fn len(&self) -> usize {
        self.seen as usize
    }

    /// Whether nothing was seen.
    pub fn is_empty(&self) -> bool {
        self.seen == 0
    }

    /// Forgets everything but the start of the text.
    pub fn clear(&mut self) {
        for i in 0..self.seen as usize {
            self.counts[self.list[i] as usize] = 0;
        }
        self.seen = 0;
    }
}
