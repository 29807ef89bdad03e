// SPDX-License-Identifier: GPL-2.0-only
//! The guest's end of the event channel: the second serial port.

use std::fs::File;
use std::io::{Read, Write};
use std::time::{Duration, Instant};

use nix::sys::termios::{self, SetArg};

use crate::event::Event;

/// The device behind QEMU's second `-serial`.
const PORT: &str = "/dev/ttyS1";

/// How often the host hears from us at least.
const HEARTBEAT: Duration = Duration::from_secs(1);

/// Sends events to the host.
pub struct Channel {
    port: File,
    last_sent: Instant,
}

impl Channel {
    /// Opens the port and turns off everything a terminal does to bytes.
    pub fn open() -> Result<Self, String> {
        let port = File::options()
            .read(true)
            .write(true)
            .open(PORT)
            .map_err(|error| {
                format!("cannot open {PORT}: {error}; the kernel needs CONFIG_SERIAL_8250_NR_UARTS and RUNTIME_UARTS of at least 2")
            })?;
        let mut settings = termios::tcgetattr(&port).map_err(|e| format!("{PORT}: {e}"))?;
        termios::cfmakeraw(&mut settings);
        termios::tcsetattr(&port, SetArg::TCSANOW, &settings)
            .map_err(|error| format!("{PORT}: {error}"))?;
        Ok(Self {
            port,
            last_sent: Instant::now(),
        })
    }

    /// Sends one event. Blocks while the host does not read; that the host is
    /// gone cannot happen, it takes us with it.
    pub fn send(&mut self, event: &Event) {
        let mut line = serde_json::to_vec(event).expect("an event is always serialisable");
        line.push(b'\n');
        let _ = self.port.write_all(&line);
        self.last_sent = Instant::now();
    }

    /// Waits until all that was sent has left.
    pub fn drain(&self) {
        // Where it cannot be waited for, it leaves all the same.
        let _ = termios::tcdrain(&self.port);
    }

    /// Waits for a line from the host.
    ///
    /// # Errors
    /// When the port cannot be read.
    pub fn receive(&mut self) -> std::io::Result<String> {
        let mut line = Vec::new();
        let mut buffer = [0; 4096];
        while line.last() != Some(&b'\n') {
            match self.port.read(&mut buffer) {
                Ok(0) => return Err(std::io::ErrorKind::UnexpectedEof.into()),
                Ok(n) => line.extend_from_slice(&buffer[..n]),
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(String::from_utf8_lossy(&line).into_owned())
    }

    /// Sends a heartbeat when it is due; says when the next one is.
    pub fn heartbeat(&mut self) -> Duration {
        if self.last_sent.elapsed() >= HEARTBEAT {
            self.send(&Event::Heartbeat);
        }
        HEARTBEAT.saturating_sub(self.last_sent.elapsed())
    }
}
