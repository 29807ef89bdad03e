// SPDX-License-Identifier: GPL-2.0-only
//! Ctrl-C while machines run: the run ends, and what is known is reported.
//! Before that, the default action (to die, and children with us) is right.

use std::io;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, OnceLock};

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::flag;

/// The flag that the first signal sets; a second one ends the process at once.
/// All runs of one process share it.
pub fn flag() -> io::Result<Arc<AtomicBool>> {
    static FLAG: OnceLock<Arc<AtomicBool>> = OnceLock::new();
    if let Some(flag) = FLAG.get() {
        return Ok(Arc::clone(flag));
    }
    let interrupted = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM, SIGHUP] {
        flag::register_conditional_shutdown(signal, 130, Arc::clone(&interrupted))?;
        flag::register(signal, Arc::clone(&interrupted))?;
    }
    Ok(Arc::clone(FLAG.get_or_init(|| interrupted)))
}
