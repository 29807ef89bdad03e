// SPDX-License-Identifier: GPL-2.0-only
//! Which kernel this is, for behaviour that cannot be asked for in another way.

use std::fs;

/// Major and minor number of the running kernel: 7.3.4 is `(7, 3)`.
///
/// # Panics
/// When the kernel does not say.
pub fn release() -> (u32, u32) {
    let text = fs::read_to_string("/proc/sys/kernel/osrelease").expect("procfs is mounted");
    parse(&text).unwrap_or_else(|| panic!("`{}` is no kernel release", text.trim()))
}

fn parse(text: &str) -> Option<(u32, u32)> {
    let (major, rest) = text.split_once('.')?;
    let digits = rest
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(rest.len());
    Some((major.trim().parse().ok()?, rest[..digits].parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn releases_of_all_forms_are_parsed() {
        assert_eq!(parse("7.3.4\n"), Some((7, 3)));
        assert_eq!(parse("6.12.48+deb13-amd64\n"), Some((6, 12)));
        assert_eq!(parse("7.4-rc1\n"), Some((7, 4)));
        assert_eq!(parse("unknown"), None);
    }
}
