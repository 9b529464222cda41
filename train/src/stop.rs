//! Stopping a run from outside: the first SIGTERM or SIGINT is a request, the second ends the process at once.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use signal_hook::consts::{SIGINT, SIGTERM, SIGXFSZ};
use signal_hook::flag;

/// Exit status after a second signal: 128 and the number of SIGINT, as shells have it.
const IMPATIENT: i32 = 130;

/// Whether the run has been asked to stop.
#[derive(Clone, Debug, Default)]
pub struct Stop(Arc<AtomicBool>);

impl Stop {
    /// From now on SIGTERM and SIGINT ask for a stop, and a write beyond the limit on the size of files is an error that names
    /// the file instead of the end of the process.
    ///
    /// # Errors
    /// The system's, when it refuses a handler.
    pub fn on_signals() -> io::Result<Stop> {
        let stop = Stop::default();
        flag::register(SIGXFSZ, Arc::default())?;
        for signal in [SIGTERM, SIGINT] {
            // In this order: the first signal finds the flag unset and sets it, the second finds it set.
            flag::register_conditional_shutdown(signal, IMPATIENT, Arc::clone(&stop.0))?;
            flag::register(signal, Arc::clone(&stop.0))?;
        }
        Ok(stop)
    }

    /// Asks for a stop.
    pub fn request(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// Whether a stop has been asked for.
    pub fn requested(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}
