//! The ring under loom, which tries every interleaving and every outcome that the memory orders allow, within a bound on
//! preemptions. `make models` runs it; a test run without the feature compiles nothing of this. `LOOM_MAX_PREEMPTIONS` sets
//! another bound for all.
#![cfg(feature = "loom")]

// The checker must see the very atomics, and they are no part of the crate's interface.
#[allow(dead_code, unreachable_pub)]
#[path = "../src/ring.rs"]
mod ring;
#[allow(dead_code, unused_imports, unreachable_pub)]
#[path = "../src/sync.rs"]
mod sync;

use loom::thread::{self, JoinHandle};

use ring::{Filler, Held, ring};

/// A thread that fills slots with the number of the ticket, in two steps so that a torn value would show.
fn fill_all(mut filler: Filler<[u64; 2]>) -> JoinHandle<()> {
    thread::spawn(move || {
        while filler.fill(|ticket, value| {
            value[0] = ticket;
            value[1] = ticket;
        }) {}
    })
}

/// Tries every interleaving with at most so many preemptions: points where a thread that could go on is put aside. Waiting is
/// none. Nearly all faults of memory orders show with two (Musuvathi and Qadeer, 2007); each more multiplies the work.
fn explore(preemptions: usize, model: impl Fn() + Send + Sync + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = builder.preemption_bound.or(Some(preemptions));
    builder.check(model);
}

fn check(slots: usize, fillers: usize, tickets: u64, preemptions: usize) {
    explore(preemptions, move || {
        let (mut taker, fillers) = ring(vec![[u64::MAX; 2]; slots], fillers, tickets);
        let threads: Vec<_> = fillers.into_iter().map(fill_all).collect();
        for ticket in 0..tickets {
            let lease = taker.take().unwrap().unwrap();
            assert_eq!(*lease.get(), [ticket; 2]);
        }
        assert!(taker.take().is_none());
        threads.into_iter().for_each(|thread| thread.join().unwrap());
    });
}

#[test]
fn one_filler_goes_round_one_slot() {
    check(1, 1, 3, 3);
}

#[test]
fn one_filler_goes_round_two_slots() {
    check(2, 1, 4, 2);
}

#[test]
fn two_fillers_share_one_slot() {
    check(1, 2, 3, 2);
}

#[test]
fn two_fillers_share_two_slots() {
    check(2, 2, 3, 2);
}

/// Whether the fillers run, wait or sleep when the taker goes away, they end.
#[test]
fn closing_ends_the_fillers() {
    for taken in 0..2 {
        explore(2, move || {
            let (mut taker, fillers) = ring(vec![[0; 2]; 1], 2, 9);
            let threads: Vec<_> = fillers.into_iter().map(fill_all).collect();
            for ticket in 0..taken {
                assert_eq!(*taker.take().unwrap().unwrap().get(), [ticket; 2]);
            }
            drop(taker);
            threads.into_iter().for_each(|thread| thread.join().unwrap());
        });
    }
}

/// A lease that outlives the taker still has its slot to itself.
#[test]
fn a_lease_outlives_the_taker() {
    explore(2, || {
        let (mut taker, fillers) = ring(vec![[0; 2]; 2], 1, 9);
        let threads: Vec<_> = fillers.into_iter().map(fill_all).collect();
        let lease = taker.take().unwrap().unwrap();
        drop(taker);
        assert_eq!(*lease.get(), [0; 2]);
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        assert_eq!(*lease.get(), [0; 2]);
    });
}

#[test]
fn a_slot_that_is_held_is_not_waited_for() {
    explore(2, || {
        let (mut taker, fillers) = ring(vec![[0; 2]; 1], 1, 2);
        let threads: Vec<_> = fillers.into_iter().map(fill_all).collect();
        let lease = taker.take().unwrap().unwrap();
        assert_eq!(taker.take().unwrap().unwrap_err(), Held);
        drop(lease);
        assert_eq!(*taker.take().unwrap().unwrap().get(), [1; 2]);
        threads.into_iter().for_each(|thread| thread.join().unwrap());
    });
}
