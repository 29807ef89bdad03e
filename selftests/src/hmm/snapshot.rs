// SPDX-License-Identifier: GPL-2.0-only
//! What a SNAPSHOT says about a page: where it is, what the device may do with
//! it, and how large the page-table entry is. Pure: bytes in, states out.

use std::fmt;

use thiserror::Error;

/// Where a page is, seen from one device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Place {
    /// Nothing that this device could reach without a fault: unpopulated, or
    /// private memory of *another* device.
    Nowhere,
    /// No page-table entry is possible: no VMA, or a special entry.
    Error,
    /// System memory.
    System,
    /// The shared 4 KiB zero page.
    ZeroPage,
    /// Memory of the device that was asked.
    Device,
    /// Coherent memory of another device.
    OtherDevice,
}

/// What a device may do with a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Access {
    /// Neither read nor write.
    Nothing,
    /// Read only.
    Read,
    /// Read and write.
    Write,
}

/// The level of the page-table entry that maps a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Level {
    /// A 4 KiB entry, or nothing.
    Pte,
    /// A 2 MiB entry.
    Pmd,
    /// A 1 GiB entry.
    Pud,
}

/// One page as a SNAPSHOT shows it.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct PageState {
    /// Where it is.
    pub place: Place,
    /// What the device may do.
    pub access: Access,
    /// How it is mapped.
    pub level: Level,
}

/// A snapshot byte that the interface does not describe.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("snapshot byte {0:#04x} has no meaning")]
pub struct UnknownState(pub u8);

const READ: u8 = 0x01;
const WRITE: u8 = 0x02;
const PMD: u8 = 0x04;
const PUD: u8 = 0x08;
const PLACE: u8 = 0xf0;

impl PageState {
    /// Nothing mapped, or nothing the device can see.
    pub const NOWHERE: Self = Self {
        place: Place::Nowhere,
        access: Access::Nothing,
        level: Level::Pte,
    };
    /// No entry possible.
    pub const ERROR: Self = Self {
        place: Place::Error,
        access: Access::Nothing,
        level: Level::Pte,
    };

    /// System memory.
    pub const fn system(access: Access, level: Level) -> Self {
        Self {
            place: Place::System,
            access,
            level,
        }
    }

    /// Memory of the device that is asked.
    pub const fn device(access: Access, level: Level) -> Self {
        Self {
            place: Place::Device,
            access,
            level,
        }
    }

    /// Decodes one byte of a SNAPSHOT.
    ///
    /// # Errors
    /// When the byte is no combination of bits that the driver can make.
    pub fn decode(byte: u8) -> Result<Self, UnknownState> {
        match byte {
            0xff => return Ok(Self::ERROR),
            0x00 => return Ok(Self::NOWHERE),
            _ => {}
        }
        let access = match byte & (READ | WRITE) {
            READ => Access::Read,
            WRITE => Access::Write,
            _ => return Err(UnknownState(byte)),
        };
        let level = match byte & (PMD | PUD) {
            0 => Level::Pte,
            PMD => Level::Pmd,
            PUD => Level::Pud,
            _ => return Err(UnknownState(byte)),
        };
        let place = match byte & PLACE {
            0x00 => Place::System,
            0x10 => Place::ZeroPage,
            0x20 | 0x40 => Place::Device,
            0x30 | 0x50 => Place::OtherDevice,
            _ => return Err(UnknownState(byte)),
        };
        Ok(Self {
            place,
            access,
            level,
        })
    }
}

impl fmt::Debug for PageState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.place {
            Place::Nowhere | Place::Error => write!(f, "{:?}", self.place),
            place => write!(f, "{place:?}/{:?}/{:?}", self.access, self.level),
        }
    }
}

/// Writes states as runs, `0..512 Device/Write/Pmd`, so that a failure stays
/// readable when there are thousands of pages.
pub fn runs(states: &[PageState]) -> String {
    let mut text = Vec::new();
    let mut first = 0;
    for page in 1..=states.len() {
        if page == states.len() || states[page] != states[first] {
            text.push(format!("{first}..{page} {:?}", states[first]));
            first = page;
        }
    }
    text.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_of_the_driver_decode() {
        let dev_thp = PageState::device(Access::Write, Level::Pmd);
        assert_eq!(PageState::decode(0x20 | WRITE | PMD), Ok(dev_thp));
        assert_eq!(PageState::decode(0x40 | WRITE | PMD), Ok(dev_thp));
        assert_eq!(PageState::decode(0), Ok(PageState::NOWHERE));
        assert_eq!(PageState::decode(0xff), Ok(PageState::ERROR));
        assert_eq!(
            PageState::decode(READ),
            Ok(PageState::system(Access::Read, Level::Pte))
        );
        let remote = PageState::decode(0x50 | READ).expect("a documented byte");
        assert_eq!(remote.place, Place::OtherDevice);
    }

    #[test]
    fn bytes_the_driver_cannot_make_are_refused() {
        for byte in [0x03, 0x04, 0x10, 0x60 | READ, 0x20 | READ | PMD | PUD] {
            assert_eq!(PageState::decode(byte), Err(UnknownState(byte)));
        }
    }

    #[test]
    fn runs_join_equal_neighbours() {
        let system = PageState::system(Access::Write, Level::Pte);
        let text = runs(&[system, system, PageState::NOWHERE]);
        assert_eq!(text, "0..2 System/Write/Pte, 2..3 Nowhere");
        assert_eq!(runs(&[]), "");
    }
}
