//! Memory for batches: given from outside, so that it can be memory that a device reads directly, and cut into buffers
//! once, so that filling a batch asks for none.

// Buffers are disjoint parts of one piece of memory, which the compiler cannot see.
#![allow(unsafe_code)]

use std::any::Any;
use std::fmt;
use std::io;
use std::marker::PhantomData;
use std::ops::Deref;
use std::ptr::NonNull;
use std::sync::Arc;

use memmap2::MmapMut;

/// What every buffer is aligned to in bytes: a cache line.
const ALIGNMENT: usize = 64;

/// Regions from this size on are worth huge pages.
const HUGE: usize = 4 << 20;

/// A piece of memory with its owner.
pub struct Region {
    start: NonNull<u8>,
    bytes: usize,
    /// Keeps the memory alive; never looked at.
    _owner: Box<dyn Any + Send>,
}

// SAFETY: the memory is reached only through the disjoint buffers cut from the region, and the owner not at all but for
// being dropped, which `Send` allows on any thread.
unsafe impl Send for Region {}
// SAFETY: as above: a reference to a region gives no access to memory or owner.
unsafe impl Sync for Region {}

impl Region {
    /// Ordinary memory, on huge pages where the system has them.
    ///
    /// # Errors
    /// When the system has not so much.
    pub fn plain(bytes: usize) -> io::Result<Self> {
        let mut map = MmapMut::map_anon(bytes.max(1))?;
        #[cfg(target_os = "linux")]
        if bytes >= HUGE {
            // Only advice: ordinary pages serve as well.
            let _ = map.advise(memmap2::Advice::HugePage);
        }
        let start = NonNull::from(&mut map[..]).cast();
        Ok(Self { start, bytes, _owner: Box::new(map) })
    }

    /// Memory from elsewhere, such as page-locked memory.
    ///
    /// # Safety
    /// Until `owner` is dropped, the `bytes` bytes at `start` can be read and written from any thread, hold initialised
    /// bytes, and are touched by nobody but through this region.
    pub unsafe fn from_raw(start: NonNull<u8>, bytes: usize, owner: Box<dyn Any + Send>) -> Self {
        Self { start, bytes, _owner: owner }
    }
}

impl fmt::Debug for Region {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Region")
            .field("start", &self.start)
            .field("bytes", &self.bytes)
            .finish_non_exhaustive()
    }
}

/// Cuts a region into buffers, one behind the other.
#[derive(Debug)]
pub(crate) struct Cutter {
    region: Arc<Region>,
    used: usize,
}

impl Cutter {
    pub(crate) fn new(region: Region) -> Self {
        Self { region: Arc::new(region), used: 0 }
    }

    /// The bytes of a region that has room for buffers of so many bytes each, wherever it starts.
    pub(crate) fn bytes_for(buffers: impl IntoIterator<Item = usize>) -> usize {
        buffers.into_iter().map(|bytes| bytes + ALIGNMENT).sum()
    }

    /// The next buffer, empty, with room for `capacity` numbers.
    ///
    /// # Panics
    /// When the region is used up.
    pub(crate) fn cut<T: Number>(&mut self, capacity: usize) -> Buffer<T> {
        let address = self.region.start.as_ptr().addr() + self.used;
        let at = self.used + (address.next_multiple_of(ALIGNMENT) - address);
        let end = at + capacity * size_of::<T>();
        assert!(
            end <= self.region.bytes,
            "{capacity} numbers do not fit into what is left of {:?}",
            self.region
        );
        self.used = end;
        // SAFETY: `at` is at most the size of the region, as just checked.
        let start = unsafe { self.region.start.add(at) }.cast();
        Buffer { start, capacity, len: 0, _region: Arc::clone(&self.region), _numbers: PhantomData }
    }
}

/// What buffers hold: numbers that any bytes are a value of.
pub trait Number: sealed::Sealed + Copy + Send + Sync + fmt::Debug + PartialEq + 'static {}

impl Number for i32 {}
impl Number for i64 {}

mod sealed {
    pub trait Sealed {}
    impl Sealed for i32 {}
    impl Sealed for i64 {}
}

/// Numbers in memory of fixed size; it reads as a slice.
pub struct Buffer<T: Number> {
    /// The first of `capacity` numbers that belong to this buffer alone.
    start: NonNull<T>,
    capacity: usize,
    /// The numbers in use, at most `capacity`.
    len: usize,
    /// Keeps the memory alive.
    _region: Arc<Region>,
    _numbers: PhantomData<T>,
}

// SAFETY: a buffer owns its part of the region, as a vector owns its memory.
unsafe impl<T: Number> Send for Buffer<T> {}
// SAFETY: as above: a shared buffer can only be read.
unsafe impl<T: Number> Sync for Buffer<T> {}

impl<T: Number> Buffer<T> {
    /// Empties it.
    pub(crate) fn clear(&mut self) {
        self.len = 0;
    }

    /// Shortens it to `len` numbers, if it is longer.
    pub(crate) fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len);
    }

    /// Appends `count` numbers, of values left over from before, and returns them to be written.
    ///
    /// # Panics
    /// When they do not fit.
    pub(crate) fn grow(&mut self, count: usize) -> &mut [T] {
        assert!(count <= self.capacity - self.len, "a buffer of {} numbers is full", self.capacity);
        let at = self.len;
        self.len += count;
        // SAFETY: `at + count` is at most `capacity`. The memory belongs to this buffer alone (`Cutter` gives no byte
        // twice) and is borrowed as it is; it is initialised, as whoever made the region promised; and any bytes are a
        // number.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(at).as_ptr(), count) }
    }

    /// Appends a number.
    ///
    /// # Panics
    /// When it does not fit.
    pub(crate) fn push(&mut self, number: T) {
        self.grow(1)[0] = number;
    }
}

impl<T: Number> Deref for Buffer<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        // SAFETY: as in `grow`, and `len` is at most `capacity`.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }
}

/// A copy in ordinary memory.
impl<T: Number> Clone for Buffer<T> {
    fn clone(&self) -> Self {
        let bytes = Cutter::bytes_for([size_of_val(&**self)]);
        let region = Region::plain(bytes).expect("no memory for a copy of a buffer");
        let mut copy = Cutter::new(region).cut(self.len);
        copy.grow(self.len).copy_from_slice(self);
        copy
    }
}

impl<T: Number> fmt::Debug for Buffer<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}

impl<T: Number> PartialEq for Buffer<T> {
    fn eq(&self, other: &Self) -> bool {
        **self == **other
    }
}

impl<'a, T: Number> IntoIterator for &'a Buffer<T> {
    type Item = &'a T;
    type IntoIter = std::slice::Iter<'a, T>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl<T: Number + Eq> Eq for Buffer<T> {}

impl<T: Number, const N: usize> PartialEq<[T; N]> for Buffer<T> {
    fn eq(&self, other: &[T; N]) -> bool {
        **self == *other
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_of_a_region_do_not_touch_each_other() {
        let bytes = Cutter::bytes_for([12, 56, 4]);
        let mut cutter = Cutter::new(Region::plain(bytes).unwrap());
        let (mut a, mut b, mut c) = (cutter.cut::<i32>(3), cutter.cut::<i64>(7), cutter.cut::<i32>(1));
        drop(cutter);
        a.grow(3).fill(-1);
        b.grow(7).fill(-2);
        c.push(-3);
        assert_eq!((&*a, &*b, &*c), (&[-1; 3][..], &[-2; 7][..], &[-3][..]));
        for address in [a.as_ptr().addr(), b.as_ptr().addr(), c.as_ptr().addr()] {
            assert!(address.is_multiple_of(ALIGNMENT));
        }
    }

    #[test]
    fn memory_from_outside_is_used_and_outlives_its_buffers() {
        let mut owner = vec![0u64; 100];
        let start = NonNull::from(&mut owner[..]).cast::<u8>();
        // SAFETY: the vector's memory stays where it is while the vector lives, and only the region uses it.
        let region = unsafe { Region::from_raw(start, 800, Box::new(owner)) };
        let mut buffer = Cutter::new(region).cut::<i64>(20);
        buffer.grow(20).fill(5);
        let copy = buffer.clone();
        assert!((start.addr().get()..start.addr().get() + 800).contains(&buffer.as_ptr().addr()));
        drop(buffer);
        assert_eq!(copy, [5; 20]);
    }

    #[test]
    fn growing_keeps_what_was_there_and_clearing_forgets_it() {
        let mut buffer = Cutter::new(Region::plain(1000).unwrap()).cut::<i32>(5);
        buffer.push(1);
        buffer.grow(2).copy_from_slice(&[2, 3]);
        assert_eq!(buffer, [1, 2, 3]);
        buffer.truncate(2);
        buffer.push(4);
        assert_eq!(buffer, [1, 2, 4]);
        buffer.clear();
        assert!(buffer.is_empty());
    }

    #[test]
    #[should_panic(expected = "a buffer of 2 numbers is full")]
    fn a_buffer_does_not_grow_past_its_memory() {
        Cutter::new(Region::plain(1000).unwrap()).cut::<i32>(2).grow(3);
    }

    #[test]
    #[should_panic(expected = "do not fit into what is left")]
    fn a_region_is_not_cut_past_its_end() {
        Cutter::new(Region::plain(100).unwrap()).cut::<i64>(13);
    }
}
