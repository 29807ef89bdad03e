// SPDX-License-Identifier: GPL-2.0-only
//! 1 GiB mapped by one PUD entry, and its split. Anonymous memory where the
//! kernel can do that, each test with a fallback twin that does the same calls
//! on 1 GiB of PMD-mapped huge pages; device-dax on any kernel.

mod anon;
mod dax;
mod gigabyte;
mod split;
