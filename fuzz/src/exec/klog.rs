// SPDX-License-Identifier: GPL-2.0-only
//! What the kernel logged while a program ran, by the same rules as on the
//! host, so that a report has one title.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::fs::OpenOptionsExt;

use hugeprobe_vm::splat;

use super::violation::{Oracle, Violation};

/// The kernel log from a point in time on.
pub struct KernelLog(Option<File>);

impl KernelLog {
    /// Starts at the end of what was logged so far.
    pub fn open() -> Self {
        let file = OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_NONBLOCK)
            .open("/dev/kmsg");
        Self(
            file.ok()
                .and_then(|mut file| file.seek(SeekFrom::End(0)).is_ok().then_some(file)),
        )
    }

    /// The first report since the last call that counts.
    pub fn complaint(&mut self) -> Option<Violation> {
        let lines = self.lines();
        if lines.is_empty() {
            return None;
        }
        let mut reports = splat::parse(&lines).into_iter();
        let first = reports.find(|report| report.allowed.is_none())?;
        Some(Violation {
            oracle: Oracle::Log,
            step: None,
            title: first.title,
            detail: first.lines.join("\n"),
        })
    }

    fn lines(&mut self) -> Vec<String> {
        let Some(file) = &mut self.0 else {
            return Vec::new();
        };
        let mut lines = Vec::new();
        let mut record = [0u8; 8192];
        loop {
            match file.read(&mut record) {
                Ok(0) => return lines,
                Ok(count) => {
                    let text = String::from_utf8_lossy(&record[..count]);
                    let line = text.split_once(';').map_or(&*text, |(_, line)| line);
                    lines.push(line.lines().next().unwrap_or_default().to_owned());
                }
                // records were overwritten before they were read: go on with the next
                Err(error) if error.raw_os_error() == Some(libc::EPIPE) => {}
                Err(_) => return lines,
            }
        }
    }
}
