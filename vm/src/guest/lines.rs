// SPDX-License-Identifier: GPL-2.0-only
//! Cuts a stream of bytes into lines of text. Pure.

/// Longest line, in bytes; a longer one is cut into several.
const LONGEST: usize = 4096;

/// Collects bytes until a line is complete.
#[derive(Default)]
pub struct LineBuffer {
    partial: Vec<u8>,
}

impl LineBuffer {
    /// Adds `bytes`; returns the lines they complete.
    pub fn add(&mut self, bytes: &[u8]) -> Vec<String> {
        let mut lines = Vec::new();
        for &byte in bytes {
            if byte != b'\n' {
                self.partial.push(byte);
            }
            if byte == b'\n' || self.partial.len() >= LONGEST {
                lines.extend(self.take());
            }
        }
        lines
    }

    /// The last line, when the stream ended without completing it.
    pub fn finish(&mut self) -> Option<String> {
        if self.partial.is_empty() {
            None
        } else {
            self.take()
        }
    }

    fn take(&mut self) -> Option<String> {
        let bytes = std::mem::take(&mut self.partial);
        Some(
            String::from_utf8_lossy(&bytes)
                .trim_end_matches('\r')
                .to_owned(),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::{LONGEST, LineBuffer};

    #[test]
    fn lines_come_out_whole() {
        let mut buffer = LineBuffer::default();
        assert!(buffer.add(b"a").is_empty());
        assert_eq!(buffer.add(b"b\r\n\nc\xff"), ["ab", ""]);
        assert_eq!(buffer.finish().as_deref(), Some("c\u{fffd}"));
        assert_eq!(buffer.finish(), None);
    }

    #[test]
    fn endless_lines_are_cut() {
        let mut buffer = LineBuffer::default();
        let lines = buffer.add(&[b'x'; LONGEST + 1]);
        assert_eq!(lines.len(), 1);
        assert_eq!(buffer.finish().as_deref(), Some("x"));
    }
}
