//! Once a loader runs, it asks for no memory and gives none back: counted by the allocator of this program.

// An allocator is unsafe by its nature.
#![allow(unsafe_code)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use loader::{Loader, LoaderConfig, SamplePolicy};

#[allow(dead_code, unreachable_pub)]
#[path = "it/fixture.rs"]
mod fixture;

/// The system's allocator; counts while it is told to.
struct Counting;

static COUNTS: AtomicBool = AtomicBool::new(false);
static CALLS: AtomicU64 = AtomicU64::new(0);

impl Counting {
    fn count(&self) {
        if COUNTS.load(Ordering::SeqCst) {
            CALLS.fetch_add(1, Ordering::SeqCst);
        }
    }
}

// SAFETY: everything is passed on to the system's allocator as it is.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        self.count();
        // SAFETY: the caller promises what the system's allocator asks for.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        self.count();
        // SAFETY: as above.
        unsafe { System.dealloc(at, layout) }
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, bytes: usize) -> *mut u8 {
        self.count();
        // SAFETY: as above.
        unsafe { System.realloc(at, layout, bytes) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Through several epochs and windows of the shuffle, with each policy, while batches are taken and given back.
#[test]
fn a_running_loader_allocates_nothing() {
    let (_dir, corpus) = fixture::corpus(2, 1000, 60);
    for policy in [SamplePolicy::Truncate, SamplePolicy::Chunk] {
        let config = LoaderConfig {
            policy,
            seq_len: 32,
            batch_size: 64,
            micro_batch_tokens: 500,
            workers: 2,
            slots: 4,
            shuffle_block: 50,
            shuffle_window: 8,
            ..LoaderConfig::default()
        };
        let mut loader = Loader::start(Arc::clone(&corpus), &config, 0, 1, 0, u64::MAX).unwrap();
        let mut take =
            |steps: usize| (0..steps).map(|_| loader.next().unwrap().unwrap().masked_tokens).sum::<u64>();
        let mut counted = |steps: usize| {
            let before = CALLS.load(Ordering::SeqCst);
            COUNTS.store(true, Ordering::SeqCst);
            let masked = take(steps);
            COUNTS.store(false, Ordering::SeqCst);
            (masked, CALLS.load(Ordering::SeqCst) - before)
        };
        // A worker's first batch allocates, and where the machine is busy its thread may come late: until several rounds in a
        // row are without.
        let mut quiet = 0;
        for _ in 0..100 {
            quiet = if counted(200).1 == 0 { quiet + 1 } else { 0 };
            if quiet == 5 {
                break;
            }
        }
        let (masked, calls) = counted(1000);
        assert!(masked > 1000);
        assert_eq!(calls, 0, "{policy:?}");
    }
    // It does count.
    let before = CALLS.load(Ordering::SeqCst);
    COUNTS.store(true, Ordering::SeqCst);
    drop(std::hint::black_box(vec![0u8; 100]));
    COUNTS.store(false, Ordering::SeqCst);
    assert_eq!(CALLS.load(Ordering::SeqCst) - before, 2);
}
