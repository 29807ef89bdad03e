// SPDX-License-Identifier: GPL-2.0-only
//! Huge pages of every size outside of what the other targets look at: how a fault makes them,
//! how debugfs splits the pages themselves, and how they go through swap, reclaim and locking.

mod deferred;
mod dirty;
mod fault;
mod files;
mod guards;
mod hinting;
mod holes;
mod locked;
mod moves;
mod rwp;
mod sizes;
mod split;
mod split_files;
mod swap;
mod uffd_swap;
