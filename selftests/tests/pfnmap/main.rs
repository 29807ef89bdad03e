// SPDX-License-Identifier: GPL-2.0-only
//! PFN mappings: memory that user space maps by frame number, as drivers do.
//! `/dev/mem` and our module over memory reserved at boot, mapped by
//! `remap_pfn_range()` or by a fault handler at each page table level.

mod access;
mod advice;
mod cache;
mod driver_zap;
mod fixture;
mod fork;
mod levels;
mod mremap;
mod nomem;
mod protect;
mod unmap;
