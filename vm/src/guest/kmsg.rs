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
    /// The lines of one message, without priority and time stamp.
    Lines(Vec<String>),
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
                    if let Some(lines) = lines_of(&text) {
                        return Some(Record::Lines(lines));
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

/// The lines of a record: what stands after the first `;`, without the
/// dictionary that follows on lines of its own. The kernel writes everything
/// but printable ASCII as `\xNN`, line ends within a message among it.
fn lines_of(record: &str) -> Option<Vec<String>> {
    let (_, text) = record.split_once(';')?;
    let mut bytes = Vec::new();
    let mut rest = text.lines().next()?;
    while let Some((before, escape)) = rest.split_once("\\x") {
        bytes.extend(before.bytes());
        let code = escape
            .get(..2)
            .and_then(|code| u8::from_str_radix(code, 16).ok());
        match code {
            Some(code) => bytes.push(code),
            None => bytes.extend(b"\\x"),
        }
        rest = if code.is_some() { &escape[2..] } else { escape };
    }
    bytes.extend(rest.bytes());
    let text = String::from_utf8_lossy(&bytes);
    Some(text.split('\n').map(str::to_owned).collect())
}

#[cfg(test)]
mod tests {
    use super::lines_of;

    #[test]
    fn text_is_between_header_and_dictionary() {
        let record = "6,339,5140900,-;NET: a; b\n SUBSYSTEM=net\n DEVICE=n1\n";
        assert_eq!(lines_of(record), Some(vec!["NET: a; b".into()]));
        assert_eq!(lines_of("garbage"), None);
    }

    #[test]
    fn escapes_become_what_they_were() {
        let record = "4,1,2,-;a\\x0ab\\x5cc\\xzz\n";
        assert_eq!(lines_of(record), Some(vec!["a".into(), "b\\c\\xzz".into()]));
    }
}
