// SPDX-License-Identifier: GPL-2.0-only
//! The kernel's log as `/dev/kmsg` gives it (Documentation/ABI/testing/dev-kmsg).

use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::OpenOptionsExt;

/// Longest record the kernel hands out (`PRINTK_MESSAGE_MAX`) and some.
const RECORD: usize = 8192;

/// What was read from the log.
#[derive(Debug, PartialEq, Eq)]
pub enum Record {
    /// One line, without priority and time stamp.
    Line(String),
    /// The kernel overwrote records before we read them.
    Lost,
}

/// The kernel's log, from its oldest record on.
pub struct KernelLog {
    file: File,
}

impl KernelLog {
    /// Opens the log for reading and writing.
    pub fn open() -> Result<Self, String> {
        let file = File::options()
            .read(true)
            .write(true)
            .custom_flags(libc::O_NONBLOCK)
            .open("/dev/kmsg")
            .map_err(|error| format!("cannot open /dev/kmsg: {error}; CONFIG_PRINTK is needed"))?;
        Ok(Self { file })
    }

    /// To poll on.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }

    /// The next record, if there is one.
    pub fn next(&mut self) -> Option<Record> {
        let mut buffer = [0; RECORD];
        loop {
            match self.file.read(&mut buffer) {
                Ok(n) => {
                    let text = String::from_utf8_lossy(&buffer[..n]);
                    if let Some(line) = line_of(&text) {
                        return Some(Record::Line(line.to_owned()));
                    }
                }
                Err(error) if error.kind() == ErrorKind::BrokenPipe => return Some(Record::Lost),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => return None,
            }
        }
    }

    /// Writes a notice into the log.
    pub fn note(&mut self, text: &str) {
        let _ = self.file.write_all(format!("<5>{text}").as_bytes());
    }
}

/// The text of a record: after the first `;`, without the dictionary that
/// follows on lines of their own.
fn line_of(record: &str) -> Option<&str> {
    let (_, text) = record.split_once(';')?;
    text.lines().next()
}

#[cfg(test)]
mod tests {
    use super::line_of;

    #[test]
    fn text_is_between_header_and_dictionary() {
        let record = "6,339,5140900,-;NET: a; b\n SUBSYSTEM=net\n DEVICE=n1\n";
        assert_eq!(line_of(record), Some("NET: a; b"));
        assert_eq!(line_of("garbage"), None);
    }
}
