//! Whose atomics, cells and threads the ring and the workers use: the standard ones, or those of a model checker.
//! Feature `loom` explores the memory orders of the ring, feature `shuttle` the interleavings of the whole worker set.

#[cfg(not(any(feature = "loom", feature = "shuttle")))]
mod imp {
    pub(crate) use std::sync::Arc;
    pub(crate) use std::sync::atomic::{AtomicBool, AtomicU64, Ordering, fence};
    pub(crate) use std::thread;

    pub(crate) use crossbeam::sync::{Parker, Unparker};
    pub(crate) use crossbeam::utils::Backoff;

    /// [`std::cell::UnsafeCell`] with loom's interface, in which each access has a beginning and an end.
    #[derive(Debug)]
    pub(crate) struct UnsafeCell<T>(std::cell::UnsafeCell<T>);

    impl<T> UnsafeCell<T> {
        pub(crate) fn new(value: T) -> Self {
            Self(std::cell::UnsafeCell::new(value))
        }

        pub(crate) fn with<R>(&self, access: impl FnOnce(*const T) -> R) -> R {
            access(self.0.get())
        }

        pub(crate) fn with_mut<R>(&self, access: impl FnOnce(*mut T) -> R) -> R {
            access(self.0.get())
        }
    }
}

#[cfg(any(feature = "loom", feature = "shuttle"))]
mod imp {
    #[cfg(feature = "loom")]
    pub(crate) use loom::{
        cell::UnsafeCell,
        sync::atomic::{AtomicBool, AtomicU64, Ordering, fence},
        sync::{Arc, Condvar, Mutex},
        thread,
    };
    #[cfg(feature = "shuttle")]
    pub(crate) use shuttle::{
        sync::atomic::{AtomicBool, AtomicU64, Ordering, fence},
        sync::{Arc, Condvar, Mutex},
        thread,
    };

    /// [`std::cell::UnsafeCell`] with loom's interface.
    #[cfg(feature = "shuttle")]
    #[derive(Debug)]
    pub(crate) struct UnsafeCell<T>(std::cell::UnsafeCell<T>);

    #[cfg(feature = "shuttle")]
    impl<T> UnsafeCell<T> {
        pub(crate) fn new(value: T) -> Self {
            Self(std::cell::UnsafeCell::new(value))
        }

        pub(crate) fn with<R>(&self, access: impl FnOnce(*const T) -> R) -> R {
            access(self.0.get())
        }

        pub(crate) fn with_mut<R>(&self, access: impl FnOnce(*mut T) -> R) -> R {
            access(self.0.get())
        }
    }

    /// Stands for crossbeam's parker, which knows no model checker: a wake-up that comes first is kept.
    #[derive(Debug)]
    pub(crate) struct Parker(Unparker);

    #[derive(Clone, Debug)]
    pub(crate) struct Unparker(Arc<(Mutex<bool>, Condvar)>);

    impl Parker {
        pub(crate) fn new() -> Self {
            Self(Unparker(Arc::new((Mutex::new(false), Condvar::new()))))
        }

        pub(crate) fn park(&self) {
            let (token, woken) = &*self.0.0;
            let mut token = token.lock().unwrap();
            while !*token {
                token = woken.wait(token).unwrap();
            }
            *token = false;
        }

        /// A checker knows no time: it never comes.
        pub(crate) fn park_deadline(&self, _deadline: std::time::Instant) {
            self.park();
        }

        pub(crate) fn unparker(&self) -> &Unparker {
            &self.0
        }
    }

    impl Unparker {
        pub(crate) fn unpark(&self) {
            let (token, woken) = &*self.0;
            *token.lock().unwrap() = true;
            woken.notify_one();
        }
    }

    /// Waits no time before parking: a checker explores every interleaving anyway.
    pub(crate) struct Backoff;

    impl Backoff {
        pub(crate) fn new() -> Self {
            Self
        }

        pub(crate) fn is_completed(&self) -> bool {
            true
        }

        pub(crate) fn snooze(&self) {
            thread::yield_now();
        }
    }
}

pub(crate) use imp::*;
