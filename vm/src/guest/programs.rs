// SPDX-License-Identifier: GPL-2.0-only
//! Copies of the test programs in the guest's memory: read once through 9p,
//! then started from there for each of their tests.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use super::channel::Channel;

/// Where the copies are.
pub const FOLDER: &str = "/run/hugeprobe";

/// Bytes read at once; more than 9p takes in one message.
const CHUNK: usize = 1 << 20;

/// The copies made so far, by original.
#[derive(Default)]
pub struct Programs {
    copies: HashMap<PathBuf, PathBuf>,
}

impl Programs {
    /// The copy of `program`, made when it is first asked for; `program` itself
    /// when it cannot be copied, so that starting it tells why.
    pub fn local(&mut self, program: &Path, channel: &mut Channel) -> &Path {
        let number = self.copies.len();
        self.copies
            .entry(program.to_owned())
            .or_insert_with(|| copy(program, number, channel).unwrap_or_else(|| program.to_owned()))
    }
}

fn copy(program: &Path, number: usize, channel: &mut Channel) -> Option<PathBuf> {
    let name = program.file_name()?.to_str()?;
    let folder = Path::new(FOLDER).join(number.to_string());
    fs::create_dir(&folder).ok()?;
    let path = folder.join(name);
    let mut from = File::open(program).ok()?;
    let mut to = File::options()
        .write(true)
        .create_new(true)
        .mode(0o755)
        .open(&path)
        .ok()?;
    // `fs::copy` would go through a pipe, with a message over 9p for each 64 KiB.
    let mut buffer = vec![0; CHUNK];
    loop {
        // The host's disk may be slow.
        channel.heartbeat();
        match from.read(&mut buffer) {
            Ok(0) => return Some(path),
            Ok(n) => to.write_all(&buffer[..n]).ok()?,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(_) => return None,
        }
    }
}
