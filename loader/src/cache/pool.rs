//! Which shards of a corpus are open, who holds them, and the threads that fetch what is asked for.
//!
//! A batch asks for all its shards at once and holds them until it is made. Batches that are made at the same time wait
//! for each other until the shards of all of them fit, so whoever has begun can finish: no two batches ever wait for each
//! other.

use std::collections::{HashMap, VecDeque};
use std::panic::{self, AssertUnwindSafe};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use std::{io, thread};

use super::folder::{Folder, Haste};
use super::remote::{Part, RemoteShard};
use crate::error::Error;
use crate::shard::Shard;

/// Threads that fetch: one connection seldom brings what a network can.
const FETCHERS: usize = 8;
/// How often a file in use is touched, and how long one that another process removed may go unnoticed.
const TOUCH: Duration = Duration::from_secs(10);
/// How long a batch waits for others to give back what they hold. Then it takes more than fits: whoever holds it may be
/// waiting for this very batch.
const PATIENCE: Duration = Duration::from_secs(20);

/// The shards of a corpus that lie in stores, by number. Dropping it ends its threads.
#[derive(Debug)]
pub(crate) struct Pool(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    folder: Folder,
    objects: Vec<RemoteShard>,
    /// Items by the names of their files.
    names: HashMap<String, usize>,
    state: Mutex<State>,
    /// Something was opened, failed or given back.
    changed: Condvar,
    /// Something is to be fetched.
    work: Condvar,
}

#[derive(Debug)]
struct State {
    /// The whole of each object and its tail, one after the other.
    items: Vec<Item>,
    /// Items that batches wait for.
    now: VecDeque<usize>,
    /// Items that will be needed, in that order.
    soon: VecDeque<usize>,
    /// The number of the plan that is followed now: the last one begun.
    plan: u64,
    /// The step that its training has reached.
    step: u64,
    closed: bool,
}

/// A shard, or the tail of one.
#[derive(Debug)]
struct Item {
    bytes: u64,
    status: Status,
    pins: usize,
    /// The last step that is known to need it.
    until: Option<u64>,
    /// When the folder was last told that it is in use.
    touched: Option<Instant>,
    /// Whether its file has been removed by another process.
    gone: bool,
    /// Whether fetching it ahead has failed: it is left to the batch that needs it, which reports why.
    given_up: bool,
}

#[derive(Debug)]
enum Status {
    Absent,
    /// In a queue: for batches that wait, or for later.
    Queued(Haste),
    Fetching,
    Open(Arc<Shard>),
    Failed(Error),
}

/// An open shard that stays while this lives.
#[derive(Debug)]
pub(crate) struct Pin {
    shared: Arc<Shared>,
    item: usize,
    shard: Arc<Shard>,
}

impl Pool {
    /// A pool of `objects`, which are kept in `folder`.
    ///
    /// # Errors
    /// [`Error::Thread`] when the system gives no thread.
    pub(crate) fn start(folder: Folder, objects: Vec<RemoteShard>) -> Result<Self, Error> {
        let parts = || objects.iter().flat_map(|object| PARTS.map(|part| (object, part)));
        let item = |(object, part): (&RemoteShard, Part)| Item {
            bytes: object.bytes(part),
            status: Status::Absent,
            pins: 0,
            until: None,
            touched: None,
            gone: false,
            given_up: false,
        };
        let items = parts().map(item).collect();
        let names =
            parts().enumerate().map(|(item, (object, part))| (object.file_name(part), item)).collect();
        let (now, soon) = (VecDeque::new(), VecDeque::new());
        let state = Mutex::new(State { items, now, soon, plan: 0, step: 0, closed: false });
        let (changed, work) = (Condvar::new(), Condvar::new());
        let pool = Self(Arc::new(Shared { folder, objects, names, state, changed, work }));
        for index in 0..FETCHERS {
            let shared = Arc::clone(&pool.0);
            let thread = thread::Builder::new().name(format!("fetch-{index}")).spawn(move || shared.fetch());
            thread.map_err(|source| Error::Thread { source })?;
        }
        Ok(pool)
    }

    /// Where shards are kept.
    pub(crate) fn folder(&self) -> &Folder {
        &self.0.folder
    }

    /// Bytes of an object.
    pub(crate) fn bytes(&self, object: usize) -> u64 {
        self.0.objects[object].bytes(Part::Whole)
    }

    /// Some shards, all of them or none, fetched if need be.
    ///
    /// # Errors
    /// [`Error::CacheTooSmall`]; why one of them cannot be had; [`Error::Abandoned`] when `abandoned` is set meanwhile.
    pub(crate) fn hold(
        &self,
        objects: &[usize],
        part: Part,
        abandoned: &AtomicBool,
    ) -> Result<Vec<Pin>, Error> {
        let shared = &self.0;
        let mut state = shared.lock();
        let items: Vec<usize> = objects.iter().map(|object| state.item(*object, part)).collect();
        let mut distinct = items.clone();
        distinct.sort_unstable();
        distinct.dedup();
        let needed = distinct.iter().map(|item| state.items[*item].bytes).sum();
        if needed > shared.folder.limit() {
            return Err(shared.folder.too_small(distinct.len(), needed));
        }
        let begun = Instant::now();
        loop {
            items.iter().for_each(|item| state.items[*item].pins += 1);
            let patience = PATIENCE.saturating_sub(begun.elapsed());
            if state.pinned() <= shared.folder.limit() || patience.is_zero() {
                break;
            }
            items.iter().for_each(|item| state.items[*item].pins -= 1);
            if abandoned.load(Ordering::Relaxed) {
                return Err(Error::Abandoned);
            }
            state = wait(&shared.changed, state, patience);
        }
        while let Some(missing) = distinct.iter().position(|item| !state.items[*item].is_open()) {
            let mut demanded = match abandoned.load(Ordering::Relaxed) {
                true => Err(Error::Abandoned),
                false => Ok(()),
            };
            for &item in &distinct[missing..] {
                demanded = demanded.and_then(|()| state.demand(item));
            }
            if let Err(error) = demanded {
                state.give_back(&items);
                shared.changed.notify_all();
                return Err(error);
            }
            shared.work.notify_all();
            state = wait(&shared.changed, state, PATIENCE);
        }
        let pins = items.iter().map(|&item| shared.pin(&mut state, item));
        Ok(pins.collect())
    }

    /// Has all who wait look whether they have been abandoned.
    pub(crate) fn wake(&self) {
        // Who has looked and not yet begun to wait holds the lock.
        drop(self.0.lock());
        self.0.changed.notify_all();
    }

    /// Has some shards fetched, in their order, without waiting for them.
    pub(crate) fn ask_for(&self, objects: &[usize], part: Part) {
        let mut state = self.0.lock();
        for object in objects {
            let item = state.item(*object, part);
            state.ask_for(item);
        }
        self.0.work.notify_all();
    }

    /// Whether all shards are here or asked for, and fit.
    pub(crate) fn has_all(&self) -> bool {
        let state = self.0.lock();
        let whole = || state.items.iter().step_by(PARTS.len());
        whole().all(|item| item.given_up || !matches!(item.status, Status::Absent))
            && whole().map(|item| item.bytes).sum::<u64>() <= self.0.folder.limit()
    }

    /// Says that a later step needs these shards: has them fetched, and keeps them until that step is over. False when there
    /// is no room for all that is kept until then; nothing is asked for in that case.
    pub(crate) fn ask_for_step(&self, objects: &[usize], step: u64) -> bool {
        let mut state = self.0.lock();
        let items = objects.iter().map(|object| state.item(*object, Part::Whole));
        let items: Vec<usize> = items.collect();
        let kept = |item: &Item, now: u64| item.pins > 0 || item.until.is_some_and(|until| until >= now);
        let now = state.step;
        let before: u64 = state.items.iter().filter(|item| kept(item, now)).map(|item| item.bytes).sum();
        let more = items.iter().map(|item| &state.items[*item]).filter(|item| !kept(item, now));
        if before + more.map(|item| item.bytes).sum::<u64>() > self.0.folder.limit() {
            return false;
        }
        for item in items {
            let until = &mut state.items[item].until;
            *until = Some(until.map_or(step, |until| until.max(step)));
            state.ask_for(item);
        }
        self.0.work.notify_all();
        true
    }

    /// Begins to follow another plan, in place of the one before; gives its number.
    pub(crate) fn begin_plan(&self, step: u64) -> u64 {
        let mut state = self.0.lock();
        state.forget_steps();
        (state.plan, state.step) = (state.plan + 1, step);
        state.plan
    }

    /// Says which step the training of a plan has reached.
    pub(crate) fn reach(&self, plan: u64, step: u64) {
        let mut state = self.0.lock();
        if state.plan == plan {
            state.step = step;
        }
    }

    /// Forgets what a plan needs: it is followed no more.
    pub(crate) fn end_plan(&self, plan: u64) {
        let mut state = self.0.lock();
        if state.plan == plan {
            state.forget_steps();
        }
    }
}

/// The parts in the order of a pool's items.
const PARTS: [Part; 2] = [Part::Whole, Part::Tail];

impl Drop for Pool {
    fn drop(&mut self) {
        self.0.lock().closed = true;
        self.0.work.notify_all();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What a fetching thread does.
    fn fetch(&self) {
        let mut state = self.lock();
        while !state.closed {
            let Some((item, haste)) = state.next() else {
                state = self.work.wait(state).unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            state.items[item].status = Status::Fetching;
            drop(state);
            let (object, part) = (&self.objects[item / 2], PARTS[item % 2]);
            let let_go = |name: &str, haste| self.let_go(name, haste);
            let fetched =
                panic::catch_unwind(AssertUnwindSafe(|| self.folder.fetch(object, part, haste, &let_go)));
            let fetched = fetched.unwrap_or_else(|_| {
                let source = io::Error::other("the thread that fetched it panicked, which is a bug");
                Err(Error::Io { action: "fetch", path: object.name(), source })
            });
            state = self.lock();
            let is_waited_for = state.items[item].pins > 0;
            let item = &mut state.items[item];
            (item.gone, item.touched) = (false, Some(Instant::now()));
            item.given_up = fetched.is_err();
            item.status = match fetched {
                Ok(Some(shard)) => Status::Open(Arc::new(shard)),
                Err(error) if is_waited_for => Status::Failed(error),
                // Whoever needs it asks again, and hears why it cannot be had.
                Ok(None) | Err(_) => Status::Absent,
            };
            self.changed.notify_all();
        }
    }

    /// Whether a file may be removed; an open one that nobody holds is closed.
    fn let_go(&self, name: &str, haste: Haste) -> bool {
        // What is not of this corpus goes by its age alone.
        let Some(&item) = self.names.get(name) else { return true };
        let mut state = self.lock();
        let step = state.step;
        let item = &mut state.items[item];
        let is_kept = haste == Haste::Soon && item.until.is_some_and(|until| until >= step);
        if item.pins > 0 || is_kept || matches!(item.status, Status::Fetching) {
            return false;
        }
        if item.is_open() {
            item.status = Status::Absent;
        }
        true
    }

    /// Takes an open item that has been counted as held.
    fn pin(self: &Arc<Self>, state: &mut State, number: usize) -> Pin {
        let item = &mut state.items[number];
        if item.touched.is_none_or(|touched| touched.elapsed() > TOUCH) {
            item.touched = Some(Instant::now());
            let (object, part) = (&self.objects[number / 2], PARTS[number % 2]);
            item.gone = !self.folder.touch(&object.file_name(part));
        }
        let Status::Open(shard) = &item.status else { unreachable!("a pinned item stays open") };
        Pin { shared: Arc::clone(self), item: number, shard: Arc::clone(shard) }
    }
}

impl State {
    /// The item of an object's part; the whole serves as a tail where it is open.
    fn item(&self, object: usize, part: Part) -> usize {
        let whole = 2 * object;
        if part == Part::Whole || self.items[whole].is_open() { whole } else { whole + 1 }
    }

    /// Bytes of all that is held.
    fn pinned(&self) -> u64 {
        self.items.iter().filter(|item| item.pins > 0).map(|item| item.bytes).sum()
    }

    /// Has an item fetched before all others, unless it is open or on its way.
    ///
    /// # Errors
    /// Why the last attempt failed.
    fn demand(&mut self, item: usize) -> Result<(), Error> {
        let status = &mut self.items[item].status;
        match std::mem::replace(status, Status::Absent) {
            Status::Failed(error) => return Err(error),
            Status::Absent | Status::Queued(Haste::Soon) => {
                *status = Status::Queued(Haste::Now);
                self.now.push_back(item);
            }
            other => *status = other,
        }
        Ok(())
    }

    fn ask_for(&mut self, item: usize) {
        if matches!(self.items[item].status, Status::Absent) && !self.items[item].given_up {
            self.items[item].status = Status::Queued(Haste::Soon);
            self.soon.push_back(item);
        }
    }

    fn forget_steps(&mut self) {
        self.items.iter_mut().for_each(|item| item.until = None);
        while let Some(item) = self.soon.pop_front() {
            if matches!(self.items[item].status, Status::Queued(Haste::Soon)) {
                self.items[item].status = Status::Absent;
            }
        }
    }

    /// What is to be fetched next. An item whose haste has changed stands in both queues.
    fn next(&mut self) -> Option<(usize, Haste)> {
        loop {
            let (item, haste) = match self.now.pop_front() {
                Some(item) => (item, Haste::Now),
                None => (self.soon.pop_front()?, Haste::Soon),
            };
            if matches!(self.items[item].status, Status::Queued(queued) if queued == haste) {
                return Some((item, haste));
            }
        }
    }

    fn give_back(&mut self, items: &[usize]) {
        for item in items {
            let item = &mut self.items[*item];
            item.pins -= 1;
            if item.pins == 0 && item.gone {
                // Its space is free once nobody has it open.
                (item.status, item.gone) = (Status::Absent, false);
            }
        }
    }
}

impl Item {
    fn is_open(&self) -> bool {
        matches!(self.status, Status::Open(_))
    }
}

impl Pin {
    pub(crate) fn shard(&self) -> &Shard {
        &self.shard
    }
}

impl Clone for Pin {
    fn clone(&self) -> Self {
        self.shared.lock().items[self.item].pins += 1;
        Self { shared: Arc::clone(&self.shared), item: self.item, shard: Arc::clone(&self.shard) }
    }
}

impl Drop for Pin {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        state.give_back(&[self.item]);
        if state.items[self.item].pins == 0 {
            self.shared.changed.notify_all();
        }
    }
}

fn wait<'a>(on: &Condvar, state: MutexGuard<'a, State>, most: Duration) -> MutexGuard<'a, State> {
    on.wait_timeout(state, most).unwrap_or_else(PoisonError::into_inner).0
}
