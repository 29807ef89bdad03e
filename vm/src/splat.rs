// SPDX-License-Identifier: GPL-2.0-only
//! Kernel log lines.

/// The line without the kernel's time stamp and caller id.
pub fn without_stamp(line: &str) -> &str {
    let mut rest = line.trim_start();
    while let Some(inner) = rest.strip_prefix('[') {
        let Some((stamp, after)) = inner.split_once(']') else {
            break;
        };
        let stamp = stamp.trim();
        let is_time = stamp.contains('.') && stamp.bytes().all(|b| b.is_ascii_digit() || b == b'.');
        let is_caller = stamp.len() > 1
            && stamp.starts_with(['T', 'C'])
            && stamp[1..].bytes().all(|b| b.is_ascii_digit());
        if !is_time && !is_caller {
            break;
        }
        rest = after.strip_prefix(' ').unwrap_or(after);
    }
    rest
}

/// The title of the panic in `console`, if there is one.
pub fn panic_title(console: &[String]) -> Option<String> {
    let line = console
        .iter()
        .find(|line| line.contains("Kernel panic - not syncing"))?;
    Some(line.clone())
}
