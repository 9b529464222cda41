//! The ticket ring: many threads fill slots, one takes them in order. No locks, and no memory is asked for or freed.
//!
//! A filler draws the next ticket, waits until the ticket's slot is free, fills it and publishes it. The taker takes
//! ticket 0, then 1, and so on, whoever filled them, and gives each slot back when it drops its [`Lease`]. A ticket's
//! slot is its number modulo the number of slots, so fillers that are ahead wait: that is the back-pressure.
//!
//! Each slot carries a stamp that says whose turn it is, as in Dmitry Vyukov's bounded queue
//! (<https://www.1024cores.net/home/lock-free-algorithms/queues/bounded-mpmc-queue>). What differs: there is one taker,
//! which waits for the slot of one ticket; values are filled and read in place; and waiting threads sleep. Sleeping
//! follows Dekker's pattern: the sleeper announces its ticket, then looks at the stamp once more; the waker changes the
//! stamp, then looks for an announcement. A fence between each pair makes at least one of them see the other.

// Shared slots: one thread at a time has a slot, which the stamps decide and the compiler cannot know.
#![allow(unsafe_code)]

use std::time::{Duration, Instant};

use crossbeam::utils::CachePadded;

use crate::sync::{Arc, AtomicBool, AtomicU64, Backoff, Ordering, Parker, Unparker, UnsafeCell, fence};

/// No ticket has this number: it would take centuries to draw.
const NONE: u64 = u64::MAX;

/// What fillers and taker share.
#[derive(Debug)]
struct Ring<T> {
    slots: Box<[CachePadded<Slot<T>>]>,
    /// The next ticket to be drawn. Only rises. Relaxed: it hands out numbers, and the stamps order everything else.
    tickets: CachePadded<AtomicU64>,
    /// The number of tickets; drawing this or more means that the work is done.
    end: u64,
    /// Set once, by the taker that goes away. Relaxed: it guards no data, and whoever sleeps while it is set is woken.
    closed: CachePadded<AtomicBool>,
    fillers: Box<[CachePadded<Seat>]>,
    taker: CachePadded<Seat>,
}

#[derive(Debug)]
struct Slot<T> {
    /// Whose turn it is. With `lap` the ticket's number divided by the number of slots: at `2 lap` the filler with the
    /// ticket may write, at `2 lap + 1` the taker may read, at `2 (lap + 1)` the filler one lap later may write. Only
    /// the one whose turn it is changes it, by one. It is stored with release and loaded with acquire, so that each
    /// sees all that the one before did to the value.
    stamp: AtomicU64,
    value: UnsafeCell<T>,
}

/// Where a thread that sleeps can be found.
#[derive(Debug)]
struct Seat {
    /// The ticket that the thread is about to sleep for, or [`NONE`]. Relaxed: fences order it against the stamps. A
    /// stale number costs a needless wake-up at most, since sleepers look again whenever they wake.
    sleeps_for: AtomicU64,
    unparker: Unparker,
}

// SAFETY: a value is reached only by the filler whose ticket has the turn or through the one lease of the taker, as the
// stamps say, so it moves between threads (`Send`) and is shared by references to a lease (`Sync`).
unsafe impl<T: Send + Sync> Sync for Ring<T> {}
// SAFETY: the ring owns its values.
unsafe impl<T: Send> Send for Ring<T> {}

impl<T> Ring<T> {
    fn slot(&self, ticket: u64) -> &Slot<T> {
        &self.slots[(ticket % self.slots.len() as u64) as usize]
    }

    /// The stamp at which a ticket's slot may be written.
    fn free(&self, ticket: u64) -> u64 {
        2 * (ticket / self.slots.len() as u64)
    }

    fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Relaxed)
    }
}

impl Seat {
    fn new(parker: &Parker) -> CachePadded<Self> {
        let unparker = parker.unparker().clone();
        CachePadded::new(Self { sleeps_for: AtomicU64::new(NONE), unparker })
    }

    /// Waits until `ready`: a little busily, then asleep. Whoever makes it ready for `ticket` must call
    /// [`wake`](Seat::wake) afterwards. False when the deadline comes first.
    fn wait(
        &self,
        parker: &Parker,
        ticket: u64,
        deadline: Option<Instant>,
        ready: impl Fn() -> bool,
    ) -> bool {
        let backoff = Backoff::new();
        while !backoff.is_completed() {
            if ready() {
                return true;
            }
            backoff.snooze();
        }
        let mut in_time = true;
        while !ready() {
            self.sleeps_for.store(ticket, Ordering::Relaxed);
            fence(Ordering::SeqCst);
            if ready() {
                break;
            }
            match deadline {
                None => parker.park(),
                Some(deadline) if Instant::now() < deadline => parker.park_deadline(deadline),
                Some(_) => {
                    in_time = false;
                    break;
                }
            }
        }
        self.sleeps_for.store(NONE, Ordering::Relaxed);
        in_time
    }

    /// Wakes the thread if it sleeps for `ticket`. To be called after a [`SeqCst`](Ordering::SeqCst) fence.
    fn wake(&self, ticket: u64) {
        if self.sleeps_for.load(Ordering::Relaxed) == ticket {
            self.unparker.unpark();
        }
    }
}

/// A ring with the given slots, `fillers` threads to fill them and `tickets` tickets.
pub(crate) fn ring<T>(slots: Vec<T>, fillers: usize, tickets: u64) -> (Taker<T>, Vec<Filler<T>>) {
    assert!(!slots.is_empty(), "a ring needs a slot");
    let slot = |value| {
        let value = UnsafeCell::new(value);
        CachePadded::new(Slot { stamp: AtomicU64::new(0), value })
    };
    let parkers: Vec<Parker> = (0..fillers).map(|_| Parker::new()).collect();
    let parker = Parker::new();
    let ring = Arc::new(Ring {
        slots: slots.into_iter().map(slot).collect(),
        tickets: CachePadded::new(AtomicU64::new(0)),
        end: tickets,
        closed: CachePadded::new(AtomicBool::new(false)),
        fillers: parkers.iter().map(Seat::new).collect(),
        taker: Seat::new(&parker),
    });
    let fillers = parkers.into_iter().enumerate().map(|(seat, parker)| {
        let ring = Arc::clone(&ring);
        Filler { ring, seat, parker }
    });
    let fillers = fillers.collect();
    (Taker { ring, parker, next: 0 }, fillers)
}

/// One of the threads that fill slots.
#[derive(Debug)]
pub(crate) struct Filler<T> {
    ring: Arc<Ring<T>>,
    seat: usize,
    parker: Parker,
}

impl<T> Filler<T> {
    /// Draws the next ticket, waits for its slot, has it filled and publishes it. False when there are no more tickets,
    /// or nobody takes them any more. `fill` gets the ticket and what the slot held before; it must not unwind, or the
    /// taker would wait for the ticket forever.
    pub(crate) fn fill(&mut self, fill: impl FnOnce(u64, &mut T)) -> bool {
        let ring = &*self.ring;
        if ring.is_closed() {
            return false;
        }
        let ticket = ring.tickets.fetch_add(1, Ordering::Relaxed);
        if ticket >= ring.end {
            return false;
        }
        let (slot, free) = (ring.slot(ticket), ring.free(ticket));
        let has_turn = || slot.stamp.load(Ordering::Acquire) == free;
        ring.fillers[self.seat].wait(&self.parker, ticket, None, || has_turn() || ring.is_closed());
        if !has_turn() {
            return false;
        }
        slot.value.with_mut(|value| {
            // SAFETY: the stamp gives the turn to the holder of this ticket, and no ticket is drawn twice. The acquire
            // load orders this after the taker's last look at the value.
            fill(ticket, unsafe { &mut *value });
        });
        slot.stamp.store(free + 1, Ordering::Release);
        fence(Ordering::SeqCst);
        ring.taker.wake(ticket);
        true
    }
}

/// The thread that takes the filled slots in order. Dropping it stops the fillers.
#[derive(Debug)]
pub(crate) struct Taker<T> {
    ring: Arc<Ring<T>>,
    parker: Parker,
    /// The ticket to be taken next.
    next: u64,
}

/// Why a ticket cannot be taken: its slot still holds an earlier one that was taken and not given back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Held;

impl<T> Taker<T> {
    /// Whether the next ticket could be taken without waiting.
    pub(crate) fn is_ready(&self) -> bool {
        self.ring.slot(self.next).stamp.load(Ordering::Acquire) == self.ring.free(self.next) + 1
    }

    /// Waits until [`take`](Taker::take) has an answer without waiting, and no longer than `most`. False when it has none.
    pub(crate) fn wait(&self, most: Duration) -> bool {
        let (ring, ticket) = (&*self.ring, self.next);
        if ticket >= ring.end {
            return true;
        }
        let (slot, free) = (ring.slot(ticket), ring.free(ticket));
        // One less than free: the slot is held.
        let ready = || [free + 1, free.wrapping_sub(1)].contains(&slot.stamp.load(Ordering::Acquire));
        ring.taker.wait(&self.parker, ticket, Instant::now().checked_add(most), ready)
    }

    /// The next ticket's slot, when it is filled; nothing after the last.
    pub(crate) fn take(&mut self) -> Option<Result<Lease<T>, Held>> {
        let (ring, ticket) = (&*self.ring, self.next);
        if ticket >= ring.end {
            return None;
        }
        let (slot, free) = (ring.slot(ticket), ring.free(ticket));
        // Published one lap ago and taken since: waiting would be for a lease that the caller itself may hold.
        if slot.stamp.load(Ordering::Acquire) + 1 == free {
            return Some(Err(Held));
        }
        ring.taker.wait(&self.parker, ticket, None, || slot.stamp.load(Ordering::Acquire) == free + 1);
        self.next += 1;
        Some(Ok(Lease { ring: Arc::clone(&self.ring), ticket }))
    }

    /// Lets the fillers stop at their next ticket at the latest; those asleep wake up. Nothing can be taken afterwards.
    pub(crate) fn close(&mut self) {
        self.next = self.ring.end;
        self.ring.closed.store(true, Ordering::Relaxed);
        // A wake-up that comes before its sleep is kept, so nobody can miss it.
        self.ring.fillers.iter().for_each(|seat| seat.unparker.unpark());
    }
}

impl<T> Drop for Taker<T> {
    fn drop(&mut self) {
        self.close();
    }
}

/// A filled slot in the hands of the taker; dropping it lets it be filled again.
#[derive(Debug)]
pub(crate) struct Lease<T> {
    ring: Arc<Ring<T>>,
    ticket: u64,
}

impl<T> Lease<T> {
    /// What the slot holds.
    pub(crate) fn get(&self) -> &T {
        // SAFETY: the stamp gives the turn to the taker, which makes one lease of it, until that lease is dropped. The
        // acquire load before it orders this after the filler's writes.
        self.ring.slot(self.ticket).value.with(|value| unsafe { &*value })
    }

    /// What the slot holds, to be changed.
    pub(crate) fn get_mut(&mut self) -> &mut T {
        // SAFETY: as in `get`; and the lease is borrowed for as long as the value.
        self.ring.slot(self.ticket).value.with_mut(|value| unsafe { &mut *value })
    }
}

impl<T> Drop for Lease<T> {
    fn drop(&mut self) {
        let ring = &*self.ring;
        ring.slot(self.ticket).stamp.store(ring.free(self.ticket) + 2, Ordering::Release);
        fence(Ordering::SeqCst);
        let next_lap = self.ticket + ring.slots.len() as u64;
        ring.fillers.iter().for_each(|seat| seat.wake(next_lap));
    }
}

#[cfg(all(test, not(any(feature = "loom", feature = "shuttle"))))]
mod tests {
    use std::thread;

    use super::*;

    /// Many times round a small ring with more threads than processors; values from another lap or torn ones show.
    #[test]
    fn tickets_come_in_order_and_whole_under_stress() {
        for (slots, fillers, tickets) in
            [(1, 1, 5_000), (1, 4, 2_000), (2, 3, 5_000), (7, 4, 5_000), (64, 2, 20_000)]
        {
            let (mut taker, fillers) = ring(vec![[0u64; 16]; slots], fillers, tickets);
            let threads: Vec<_> = fillers
                .into_iter()
                .map(|mut filler| {
                    thread::spawn(move || while filler.fill(|ticket, value| value.fill(ticket)) {})
                })
                .collect();
            for ticket in 0..tickets {
                let lease = taker.take().unwrap().unwrap();
                assert_eq!(*lease.get(), [ticket; 16]);
            }
            assert!(taker.take().is_none());
            threads.into_iter().for_each(|thread| thread.join().unwrap());
        }
    }

    /// Leases that are dropped in another order than they were taken in, as far as the slots allow.
    #[test]
    fn leases_may_be_given_back_in_any_order() {
        let (mut taker, fillers) = ring(vec![0u64; 5], 3, 1_999);
        let threads: Vec<_> = fillers
            .into_iter()
            .map(|mut filler| thread::spawn(move || while filler.fill(|ticket, value| *value = ticket) {}))
            .collect();
        let mut held: Vec<Lease<u64>> = Vec::new();
        let mut next = 0;
        while next < 1_999 {
            match taker.take().unwrap() {
                Ok(lease) => {
                    assert_eq!(*lease.get(), next);
                    next += 1;
                    held.push(lease);
                }
                Err(Held) => {
                    assert!(!held.is_empty());
                    let len = held.len();
                    held.swap_remove((next as usize * 7) % len);
                }
            }
        }
        drop(taker);
        // The leases outlive the taker.
        assert!(held.iter().all(|lease| *lease.get() < 1_999));
        threads.into_iter().for_each(|thread| thread.join().unwrap());
    }

    #[test]
    fn a_ring_full_of_held_leases_says_so() {
        let (mut taker, mut fillers) = ring(vec![0u64; 2], 1, 10);
        fillers[0].fill(|_, value| *value = 1);
        fillers[0].fill(|_, value| *value = 2);
        let first = taker.take().unwrap().unwrap();
        let second = taker.take().unwrap().unwrap();
        assert_eq!(taker.take().unwrap().unwrap_err(), Held);
        drop(second);
        assert_eq!(taker.take().unwrap().unwrap_err(), Held, "the first holds the slot of the third");
        drop(first);
        fillers[0].fill(|_, value| *value = 3);
        assert_eq!(*taker.take().unwrap().unwrap().get(), 3);
    }

    #[test]
    fn waiting_ends_in_time_or_when_there_is_an_answer() {
        let (mut taker, mut fillers) = ring(vec![0u64; 2], 1, 3);
        let (soon, long) = (Duration::from_millis(5), Duration::from_secs(600));
        assert!(!taker.wait(soon) && !taker.wait(Duration::ZERO));
        let mut filler = fillers.pop().unwrap();
        let thread = thread::spawn(move || {
            thread::sleep(Duration::from_millis(20));
            while filler.fill(|ticket, value| *value = ticket) {}
        });
        assert!(taker.wait(long));
        let first = taker.take().unwrap().unwrap();
        assert!(taker.wait(long));
        let second = taker.take().unwrap().unwrap();
        // The slot of the third is held, and nothing comes after the last: both are known at once.
        assert!(taker.wait(long) && taker.take().unwrap().is_err());
        drop((first, second));
        assert!(taker.wait(Duration::MAX) && *taker.take().unwrap().unwrap().get() == 2);
        assert!(taker.wait(long) && taker.take().is_none());
        thread.join().unwrap();
    }

    #[test]
    fn closing_wakes_fillers_that_wait() {
        for _ in 0..50 {
            let (taker, fillers) = ring(vec![0u64; 1], 3, NONE);
            let threads: Vec<_> = fillers
                .into_iter()
                .map(|mut filler| {
                    thread::spawn(move || while filler.fill(|ticket, value| *value = ticket) {})
                })
                .collect();
            drop(taker);
            threads.into_iter().for_each(|thread| thread.join().unwrap());
        }
    }

    #[test]
    fn values_are_dropped_once_with_the_ring() {
        let value = Arc::new(());
        let (taker, fillers) = ring(vec![Arc::clone(&value), Arc::clone(&value)], 2, 10);
        drop(fillers);
        drop(taker);
        assert_eq!(Arc::strong_count(&value), 1);
    }
}
