//! Stopping a run from outside: the first SIGTERM or SIGINT is a request, the second ends the process at once. So does the first
//! where nobody would heed it and nothing is lost.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use signal_hook::consts::{SIGINT, SIGTERM, SIGXFSZ};
use signal_hook::flag;

/// Exit status where a signal ends the process at once: 128 and the number of SIGINT, as shells have it.
const IMPATIENT: i32 = 130;

/// Whether the run has been asked to stop.
#[derive(Clone, Debug, Default)]
pub struct Stop {
    requested: Arc<AtomicBool>,
    /// Whether a signal ends the process at once.
    at_once: Arc<AtomicBool>,
}

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
            flag::register_conditional_shutdown(signal, IMPATIENT, Arc::clone(&stop.at_once))?;
            flag::register_conditional_shutdown(signal, IMPATIENT, Arc::clone(&stop.requested))?;
            flag::register(signal, Arc::clone(&stop.requested))?;
        }
        Ok(stop)
    }

    /// While the answer lives, a signal ends the process at once: for what may take long before anything has been trained.
    pub fn at_once(&self) -> AtOnce<'_> {
        self.at_once.store(true, Ordering::Relaxed);
        AtOnce(self)
    }

    /// Asks for a stop.
    pub fn request(&self) {
        self.requested.store(true, Ordering::Relaxed);
    }

    /// Whether a stop has been asked for.
    pub fn requested(&self) -> bool {
        self.requested.load(Ordering::Relaxed)
    }
}

/// See [`Stop::at_once`].
#[derive(Debug)]
pub struct AtOnce<'a>(&'a Stop);

impl Drop for AtOnce<'_> {
    fn drop(&mut self) {
        self.0.at_once.store(false, Ordering::Relaxed);
    }
}
