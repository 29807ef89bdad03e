// SPDX-License-Identifier: GPL-2.0-only
//! How much memory the guest gets, and how much the host has to give.

use std::io;

/// What the host keeps for itself, in MiB.
const HOST_KEEPS_MIB: u64 = 1024;

/// Why a size is no size.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("memory {0:?} is not a size; write one like 6G or 6144M")]
pub struct BadSize(String);

/// MiB from `6G`, `6144M` or `6144`.
pub fn parse(text: &str) -> Result<u64, BadSize> {
    let bad = || BadSize(text.to_owned());
    let (number, unit) = match text.strip_suffix(['G', 'g']) {
        Some(number) => (number, 1024),
        None => (text.strip_suffix(['M', 'm']).unwrap_or(text), 1),
    };
    let number: u64 = number.parse().map_err(|_| bad())?;
    number
        .checked_mul(unit)
        .filter(|&mib| mib > 0)
        .ok_or_else(bad)
}

/// What the host can give to a guest, in MiB: `MemAvailable` of /proc/meminfo
/// (Documentation/filesystems/proc.rst), less what the host keeps.
pub fn of_host() -> io::Result<u64> {
    let meminfo = fs_err::read_to_string("/proc/meminfo")?;
    let kib = available_kib(&meminfo)
        .ok_or_else(|| io::Error::other("/proc/meminfo has no MemAvailable"))?;
    Ok((kib / 1024).saturating_sub(HOST_KEEPS_MIB))
}

fn available_kib(meminfo: &str) -> Option<u64> {
    let line = meminfo
        .lines()
        .find_map(|line| line.strip_prefix("MemAvailable:"))?;
    line.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        assert_eq!(parse("6G"), Ok(6144));
        assert_eq!(parse("512M"), Ok(512));
        assert_eq!(parse("2048"), Ok(2048));
        for bad in ["", "G", "0", "-1G", "6GB", "99999999999999999999G"] {
            assert_eq!(parse(bad), Err(BadSize(bad.into())));
        }
    }

    #[test]
    fn meminfo() {
        let text = "MemTotal:       24689764 kB\nMemAvailable:   20971520 kB\n";
        assert_eq!(available_kib(text), Some(20_971_520));
        assert_eq!(available_kib("MemTotal: 1 kB\n"), None);
    }
}
