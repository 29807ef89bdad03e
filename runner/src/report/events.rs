// SPDX-License-Identifier: GPL-2.0-only
//! `events.jsonl`: one event per line, written as it happens.

use std::io::{self, BufRead, BufReader, Write};
use std::path::Path;

use fs_err::File;
use hugeprobe_vm::event::Stamped;

/// Name of the file in a results folder.
pub const FILE: &str = "events.jsonl";

/// Appends events to the file of a results folder.
pub struct Recorder {
    file: File,
}

impl Recorder {
    /// Starts the file anew.
    pub fn create(dir: &Path) -> io::Result<Self> {
        Ok(Self {
            file: File::create(dir.join(FILE))?,
        })
    }

    /// Appends one event. It goes to the system in one write, so that a killed
    /// runner leaves at most one torn line.
    pub fn record(&mut self, event: &Stamped) -> io::Result<()> {
        let mut line = serde_json::to_vec(event)?;
        line.push(b'\n');
        self.file.write_all(&line)
    }
}

/// Reads the events of a results folder. A torn last line is what a killed
/// runner leaves, and is dropped; any other line that does not parse is an error.
pub fn read(dir: &Path) -> io::Result<Vec<Stamped>> {
    let path = dir.join(FILE);
    let mut reader = BufReader::new(File::open(&path)?);
    let mut events = Vec::new();
    let mut line = String::new();
    let mut number = 0;
    while reader.read_line(&mut line)? > 0 {
        number += 1;
        match serde_json::from_str(&line) {
            Ok(event) => events.push(event),
            Err(_) if !line.ends_with('\n') => break,
            Err(error) => {
                let message = format!("{}:{number}: {error}", path.display());
                return Err(io::Error::new(io::ErrorKind::InvalidData, message));
            }
        }
        line.clear();
    }
    Ok(events)
}

#[cfg(test)]
mod tests {
    use hugeprobe_vm::event::Event;

    use super::*;

    #[test]
    fn a_torn_last_line_loses_only_itself() {
        let dir = tempfile::tempdir().unwrap();
        let events = [
            Stamped {
                ms: 1,
                event: Event::Heartbeat,
            },
            Stamped {
                ms: 2,
                event: Event::GuestDone,
            },
        ];
        let mut recorder = Recorder::create(dir.path()).unwrap();
        for event in &events {
            recorder.record(event).unwrap();
        }
        recorder.file.write_all(b"{\"ms\":3,\"ev").unwrap();
        assert_eq!(read(dir.path()).unwrap(), events);
        recorder.file.write_all(b"\n").unwrap();
        let error = read(dir.path()).unwrap_err().to_string();
        assert!(error.contains("events.jsonl:3:"), "{error}");
    }
}
