// SPDX-License-Identifier: GPL-2.0-only
//! What the test programs share: mappings, counters, page state, faults.
