//! Shows how far an ingest has come: a bar on a terminal, a line now and then elsewhere.

use std::collections::VecDeque;
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
/// Speeds and the time left are those of this long: shorter and they jump, longer and they are of the past.
const WINDOW_SECONDS: f64 = 30.0;

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
            let mut window = Window::default();
            // An early look, so that the first line can tell the speed from what earlier runs had done.
            if stopped.recv_timeout(BAR_EVERY) == Err(RecvTimeoutError::Timeout) {
                window.push(Look::at(&progress, started));
            }
            while stopped.recv_timeout(every) == Err(RecvTimeoutError::Timeout) {
                let look = Look::at(&progress, started);
                window.push(look);
                match &bar {
                    Some(bar) => {
                        bar.set_position(look.input_bytes);
                        bar.set_message(window.speed(total));
                    }
                    None => eprintln!("{}", window.line(total)),
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
    let template = "{bar:32} {percent:>3} %  {decimal_bytes}/{decimal_total_bytes}  {msg}";
    let style = ProgressStyle::with_template(template).expect("the template is valid");
    ProgressBar::new(total).with_style(style)
}

/// The progress at one moment.
#[derive(Clone, Copy, Debug, Default)]
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
}

/// The looks of the last while, of which there is at least one when anything is asked.
#[derive(Default)]
struct Window(VecDeque<Look>);

impl Window {
    fn push(&mut self, look: Look) {
        self.0.push_back(look);
        // The oldest stays until a younger one is old enough to stand for it.
        while self.0.get(1).is_some_and(|second| look.seconds - second.seconds >= WINDOW_SECONDS) {
            self.0.pop_front();
        }
    }

    /// The last look and the one that speeds are measured from.
    fn ends(&self) -> (Look, Look) {
        let last = self.0.back().copied().unwrap_or_default();
        // Before there are two, the start of the run.
        let first = if self.0.len() > 1 { self.0[0] } else { Look::default() };
        (first, last)
    }

    /// Speeds, and the time left at this speed.
    fn speed(&self, total: u64) -> String {
        let (first, last) = self.ends();
        let seconds = (last.seconds - first.seconds).max(0.001);
        let per_second = |count: fn(&Look) -> u64| (count(&last) - count(&first)) as f64 / seconds;
        let mut text = format!(
            "{}/s of text, {} tokens/s",
            format::bytes(per_second(|look| look.text_bytes) as u64),
            format::count(per_second(|look| look.tokens) as u64)
        );
        let input_rate = per_second(|look| look.input_bytes);
        // What earlier runs had done counts as read at once, which says nothing of the speed.
        if input_rate > 0.0 && self.0.len() > 1 {
            let left = total.saturating_sub(last.input_bytes) as f64 / input_rate;
            text += &format!(", {} left", format::duration(left));
        }
        text
    }

    fn line(&self, total: u64) -> String {
        let (_, last) = self.ends();
        let percent = last.input_bytes as f64 / total.max(1) as f64 * 100.0;
        format!(
            "{percent:5.1} % of {}: {}, {}, {}",
            format::bytes(total),
            format::counted(last.documents, "document"),
            format::counted(last.tokens, "token"),
            self.speed(total)
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn look(part: u64, seconds: f64) -> Look {
        let (documents, tokens) = (1200 * part, 60_000 * part);
        Look { input_bytes: 250 * part, documents, tokens, text_bytes: 240_000 * part, seconds }
    }

    #[test]
    fn a_line_tells_share_counts_speeds_and_time_left() {
        let mut window = Window::default();
        window.push(look(1, 2.0));
        assert_eq!(
            window.line(1000),
            " 25.0 % of 1.0 kB: 1,200 documents, 60,000 tokens, 120 kB/s of text, 30,000 tokens/s"
        );
        window.push(look(2, 7.0));
        assert_eq!(
            window.line(1000),
            " 50.0 % of 1.0 kB: 2,400 documents, 120,000 tokens, 48.0 kB/s of text, 12,000 tokens/s, 10 s left"
        );
    }

    #[test]
    fn speeds_are_those_of_the_last_while() {
        let mut window = Window::default();
        for second in 0..100 {
            // A hundred times as fast from the fiftieth second on.
            let part = if second < 50 { second } else { 100 * second };
            window.push(look(part, second as f64));
        }
        assert!(window.line(1_000_000_000).contains("24.0 MB/s"), "{}", window.line(1_000_000_000));
        window.push(look(9_900, 100.0));
        assert!(window.0.len() < 40, "{} looks are kept", window.0.len());
    }
}
