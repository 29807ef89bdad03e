// SPDX-License-Identifier: GPL-2.0-only
//! Known reports that are not the fault of the kernel under test, each with
//! its reason. A report is allowed when it contains all the words of an entry.

use super::kind::Kind;

struct Allowed {
    /// All of these must occur in the report.
    words: &'static [&'static str],
    reason: &'static str,
}

const KNOWN: [Allowed; 5] = [
    Allowed {
        words: &[
            "VM_WARN_ON_FOLIO(!folio_is_device_private(folio))",
            "include/linux/memremap.h:",
            "dmirror_",
        ],
        reason: "test_hmm reads the driver data of coherent folios with a helper \
                 that is meant for private ones",
    },
    Allowed {
        words: &[
            "WARNING: ",
            "Conflicting mapping in same section",
            "dmirror_allocate_chunk+",
        ],
        reason: "test_hmm owns one range for each coherent device and tries to \
                 map it a second time when it has no free large folio",
    },
    Allowed {
        words: &["remove_migration_pmd+", "Comm: hp-shared-dirty"],
        reason: "up to 7.3 the kernel takes the soft-dirty bit of a device-private \
                 huge entry for a permission to write; one test goes there on \
                 purpose and has this name",
    },
    Allowed {
        words: &["migrate_device_coherent_folio+", "Comm: hp-coherent-pin"],
        reason: "up to 7.3 the kernel warns when a long-term pin meets a coherent \
                 huge page, and then refuses it; one test goes there on purpose \
                 and has this name",
    },
    Allowed {
        words: &["pudp_invalidate+", "Comm: hp-pud-none"],
        reason: "up to 7.3 pud_present() denies an inaccessible PUD entry, so that \
                 making it accessible warns; one test goes there on purpose and \
                 has this name",
    },
];

/// Why the report `lines` of `kind` does not count, if it does not.
pub fn reason(kind: Kind, lines: &[&str]) -> Option<&'static str> {
    if kind == Kind::OutOfMemory {
        return Some("the guest ran out of memory; killing is what the kernel must do");
    }
    // Every entry is about a warning: a kernel that stops is another matter.
    if kind != Kind::Warn {
        return None;
    }
    let contains = |word: &&str| lines.iter().any(|line| line.contains(word));
    let mut known = KNOWN.iter();
    let entry = known.find(|entry| entry.words.iter().all(contains))?;
    Some(entry.reason)
}
