//! Shows how far an ingest has come: a bar on a terminal, a line now and then elsewhere.

use std::io::IsTerminal;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use ingest::Progress;

use super::format;

/// Time between two looks at the progress.
const BAR_EVERY: Duration = Duration::from_millis(200);
const LINE_EVERY: Duration = Duration::from_secs(10);

/// Watches a [`Progress`] from a thread of its own until it is dropped.
pub(crate) struct Meter {
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Meter {
    /// Starts to show `progress` towards `total` bytes of input.
    pub(crate) fn start(progress: Arc<Progress>, total: u64) -> Self {
        let (stop, stopped) = mpsc::channel();
        let bar = std::io::stderr().is_terminal().then(|| bar(total));
        let thread = std::thread::spawn(move || {
            let started = Instant::now();
            let every = if bar.is_some() { BAR_EVERY } else { LINE_EVERY };
            while stopped.recv_timeout(every) == Err(RecvTimeoutError::Timeout) {
                let look = Look::at(&progress, started);
                match &bar {
                    Some(bar) => {
                        bar.set_position(look.input_bytes);
                        bar.set_message(look.rates());
                    }
                    None => eprintln!("{}", look.line(total)),
                }
            }
            if let Some(bar) = bar {
                bar.finish_and_clear();
            }
        });
        Self { stop: Some(stop), thread: Some(thread) }
    }
}

impl Drop for Meter {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // A meter that panicked is no reason to lose the work it watched.
            let _ = thread.join();
        }
    }
}

fn bar(total: u64) -> ProgressBar {
    let template = "{bar:32} {percent:>3} %  {decimal_bytes}/{decimal_total_bytes}  {msg}  {eta} left";
    let style = ProgressStyle::with_template(template).expect("the template is valid");
    ProgressBar::new(total).with_style(style)
}

/// The progress at one moment.
struct Look {
    input_bytes: u64,
    documents: u64,
    tokens: u64,
    text_bytes: u64,
    seconds: f64,
}

impl Look {
    fn at(progress: &Progress, started: Instant) -> Self {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Self {
            input_bytes: read(&progress.input_bytes),
            documents: read(&progress.documents),
            tokens: read(&progress.tokens),
            text_bytes: read(&progress.text_bytes),
            seconds: started.elapsed().as_secs_f64(),
        }
    }

    fn rates(&self) -> String {
        let per_second = |count: u64| (count as f64 / self.seconds.max(0.001)) as u64;
        format!(
            "{}/s of text, {} tokens/s",
            format::bytes(per_second(self.text_bytes)),
            format::count(per_second(self.tokens))
        )
    }

    fn line(&self, total: u64) -> String {
        let percent = self.input_bytes as f64 / total.max(1) as f64 * 100.0;
        format!(
            "{percent:5.1} % of {}: {} documents, {} tokens, {}",
            format::bytes(total),
            format::count(self.documents),
            format::count(self.tokens),
            self.rates()
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_tells_share_counts_and_rates() {
        let look =
            Look { input_bytes: 250, documents: 1200, tokens: 60_000, text_bytes: 240_000, seconds: 2.0 };
        assert_eq!(
            look.line(1000),
            " 25.0 % of 1.0 kB: 1,200 documents, 60,000 tokens, 120 kB/s of text, 30,000 tokens/s"
        );
    }
}
