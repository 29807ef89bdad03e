// SPDX-License-Identifier: GPL-2.0-only
//! QEMU's monitor (QMP): makes a silent guest say where it is, and saves and
//! restores the state of machines.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

/// The kernel's answer to an NMI that nobody claims: a panic with the stack of
/// the CPU that took it (`Documentation/admin-guide/kernel-parameters.txt`).
pub const KERNEL_WORD: &str = "unknown_nmi_panic";

/// How long the guest may take to print its stack.
pub const ANSWER_LIMIT: Duration = Duration::from_secs(5);

/// How long QEMU may take to answer a command, on a busy host.
const COMMAND_LIMIT: Duration = Duration::from_secs(20);

/// Our end of QEMU's monitor.
#[derive(Debug)]
pub struct Monitor {
    socket: UnixStream,
    partial: Vec<u8>,
    negotiated: bool,
}

impl Monitor {
    /// Wraps our end of the socket whose other end QEMU has.
    pub fn new(socket: UnixStream) -> Self {
        // A QEMU that does not read or answer must not stop us.
        let _ = socket.set_write_timeout(Some(Duration::from_secs(1)));
        let _ = socket.set_read_timeout(Some(Duration::from_millis(200)));
        Self {
            socket,
            partial: Vec::new(),
            negotiated: false,
        }
    }

    /// Sends a non-maskable interrupt to each CPU. Whether it arrived shows on
    /// the console.
    pub fn inject_nmi(&mut self) {
        let _ = self.command("inject-nmi", json!({}));
    }

    /// Executes a command and returns what it returned.
    ///
    /// # Errors
    /// What QEMU says against it, or that it does not answer.
    pub fn command(&mut self, name: &str, arguments: Value) -> io::Result<Value> {
        if !self.negotiated {
            self.negotiated = true;
            self.command("qmp_capabilities", json!({}))?;
        }
        let line = json!({"execute": name, "arguments": arguments}).to_string();
        self.socket.write_all(format!("{line}\n").as_bytes())?;
        let deadline = Instant::now() + COMMAND_LIMIT;
        loop {
            let answer = self.line(deadline)?;
            // Others are the greeting and events.
            if let Some(value) = answer.get("return") {
                return Ok(value.clone());
            }
            if let Some(error) = answer.get("error") {
                return Err(io::Error::other(format!("QEMU: {name}: {error}")));
            }
        }
    }

    /// The next line that QEMU sends.
    fn line(&mut self, deadline: Instant) -> io::Result<Value> {
        loop {
            if let Some(end) = self.partial.iter().position(|&byte| byte == b'\n') {
                let line: Vec<u8> = self.partial.drain(..=end).collect();
                return serde_json::from_slice(&line).map_err(io::Error::other);
            }
            let mut buffer = [0; 4096];
            match self.socket.read(&mut buffer) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(n) => self.partial.extend_from_slice(&buffer[..n]),
                Err(error) if is_temporary(&error) && Instant::now() < deadline => {}
                Err(error) => return Err(error),
            }
        }
    }
}

fn is_temporary(error: &io::Error) -> bool {
    use io::ErrorKind::{Interrupted, TimedOut, WouldBlock};
    matches!(error.kind(), Interrupted | TimedOut | WouldBlock)
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader, Write};
    use std::os::unix::net::UnixStream;

    use serde_json::json;

    use super::Monitor;

    #[test]
    fn answers_are_told_from_events_and_refusals_from_answers() {
        let (ours, theirs) = UnixStream::pair().expect("a pair");
        let qemu = std::thread::spawn(move || {
            let mut out = theirs.try_clone().expect("cloned");
            let mut lines = BufReader::new(theirs).lines();
            let mut heard = Vec::new();
            out.write_all(b"{\"QMP\": {}}\n").expect("written");
            for reply in [
                "{\"return\": {}}\n",
                "{\"event\": \"STOP\"}\n{\"return\": 7}\n",
                "{\"error\": {\"desc\": \"no such thing\"}}\n",
            ] {
                heard.push(lines.next().expect("a line").expect("read"));
                out.write_all(reply.as_bytes()).expect("written");
            }
            heard
        });
        let mut monitor = Monitor::new(ours);
        assert_eq!(monitor.command("stop", json!({})).expect("answered"), 7);
        let refused = monitor.command("cont", json!({})).expect_err("refused");
        assert!(refused.to_string().contains("no such thing"), "{refused}");
        let heard = qemu.join().expect("no panic");
        assert!(heard[0].contains("qmp_capabilities") && heard[1].contains("stop"));
    }
}
