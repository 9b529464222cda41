//! Full parts are made durable beside the worker that filled them: it goes on with the next part meanwhile.
//!
//! Waiting for the disk took 7 % of a worker's time on a virtual disk, and sending a shard to an object store takes as
//! long as the network does. The order of [`crate::folder`] stands: a part's note is written once its files are durable. A
//! worker that has filled another part before the last is sealed waits, so no more than two parts are ever open.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use crate::error::Error;
use crate::folder::OutFolder;
use crate::part::{FullPart, PartNote};
use crate::pipeline::Progress;
use crate::profile::{self, Stage};
use crate::stamp::Stamp;

/// Where a worker hands over its full parts.
pub(crate) struct Outbox<'a>(SyncSender<Full<'a>>);

/// Where its sealer takes them from.
pub(crate) struct Inbox<'a>(Receiver<Full<'a>>);

/// A full part, and what its input looked like when it was opened.
type Full<'a> = (FullPart, Stamp<'a>);

/// What became of a part of the input with this index.
pub(crate) type Sealed = (usize, Result<PartNote, Error>);

/// The way from a worker to its sealer. It holds nothing: who hands over waits until the sealer takes.
pub(crate) fn hatch<'a>() -> (Outbox<'a>, Inbox<'a>) {
    let (outbox, inbox) = sync_channel(0);
    (Outbox(outbox), Inbox(inbox))
}

impl<'a> Outbox<'a> {
    /// Hands over a part; waits while an earlier one is being sealed.
    pub(crate) fn put(&self, part: FullPart, stamp: Stamp<'a>) {
        // A sealer takes until there is nobody who could put.
        let _ = self.0.send((part, stamp));
    }
}

impl Inbox<'_> {
    /// Seals parts in the order they come, until their worker has none left. The first error sets `stop`, and the parts
    /// after it are dropped.
    pub(crate) fn seal_all(self, folder: &OutFolder, progress: &Progress, stop: &AtomicBool) -> Vec<Sealed> {
        let mut done: Vec<Sealed> = Vec::new();
        for (part, stamp) in self.0 {
            if done.last().is_some_and(|(_, last)| last.is_err()) {
                continue;
            }
            let input = part.input as usize;
            let seal = || profile::measure(&progress.stages, || seal(part, stamp, folder));
            let result = catch_unwind(AssertUnwindSafe(seal)).unwrap_or_else(|panic| Err(panicked(&*panic)));
            match result {
                Ok(_) => progress.parts.fetch_add(1, Ordering::Relaxed),
                Err(_) => u64::from(stop.swap(true, Ordering::Relaxed)),
            };
            done.push((input, result));
        }
        done
    }
}

/// Seals a part and notes it, unless its input was written to meanwhile.
fn seal(part: FullPart, stamp: Stamp<'_>, folder: &OutFolder) -> Result<PartNote, Error> {
    profile::within(Stage::Seal, || {
        let (input, number) = (part.input, part.part);
        let note = part.seal()?;
        stamp.check()?;
        folder.note_part(input, number, &note)?;
        Ok(note)
    })
}

/// The error for a panic of a worker or its sealer.
pub(crate) fn panicked(panic: &(dyn Any + Send)) -> Error {
    let text = panic.downcast_ref::<&str>().copied();
    let text = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    Error::WorkerPanicked { message: text.unwrap_or("it left no message").to_owned() }
}
