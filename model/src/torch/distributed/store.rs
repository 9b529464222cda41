//! The store that processes find each other through: c10d's `TCPStore`.

use std::ffi::{CString, c_char, c_void};
use std::ptr::null_mut;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::super::check;
use super::sys;
use crate::Error;

/// A connection to a table of values by name, which one process keeps and all others reach over the network. Requests of several
/// threads wait for each other, a blocking one included: a thread that must not wait needs a connection of its own.
#[derive(Debug)]
pub struct Store(Mutex<*mut c_void>);

// SAFETY: the handle is not bound to a thread; distributed.h allows any, one at a time.
unsafe impl Send for Store {}
// SAFETY: as above; the mutex lets in one at a time.
unsafe impl Sync for Store {}

impl Store {
    /// Connects to the store at `host` and `port`, and keeps it in this process if `serve`. A store that is not there yet is
    /// waited for. With port 0, the one who keeps it takes any that is free.
    ///
    /// # Errors
    /// [`Error::Torch`] when there is none after `timeout`, or when the port is taken.
    pub fn connect(host: &str, port: u16, serve: bool, timeout: Duration) -> Result<Store, Error> {
        let (host, mut handle) = (text(host), null_mut());
        // SAFETY: name and result outlive the call.
        let message = unsafe {
            sys::bridge_store_connect(
                host.as_ptr(),
                port,
                i32::from(serve),
                milliseconds(timeout),
                &raw mut handle,
            )
        };
        check::message("connect to the store", message)?;
        Ok(Store(Mutex::new(handle)))
    }

    /// The port it is kept at.
    pub fn port(&self) -> u16 {
        // SAFETY: the handle is alive, and this thread's alone while it is locked.
        unsafe { sys::bridge_store_port(*self.lock()) }
    }

    /// Puts a value under a name, in place of what was there. It is on its way when this returns: other connections may still
    /// [find](Self::find) what was there before, while [`Self::get`] waits for it.
    ///
    /// # Errors
    /// [`Error::Torch`] when the store does not answer; so of the other functions.
    pub fn set(&self, key: &str, value: &[u8]) -> Result<(), Error> {
        let key = text(key);
        // SAFETY: name and bytes are lent for the call; the handle is alive, and this thread's alone while it is locked.
        let message =
            unsafe { sys::bridge_store_set(*self.lock(), key.as_ptr(), value.as_ptr().cast(), value.len()) };
        check::message("write to the store", message)
    }

    /// The value under a name, which is waited for until somebody has set it.
    ///
    /// # Errors
    /// [`Error::Torch`] after `timeout`.
    pub fn get(&self, key: &str, timeout: Duration) -> Result<Vec<u8>, Error> {
        let (key, mut value) = (text(key), Vec::<u8>::new());
        // SAFETY: as in `set`; `collect` gets the vector it expects, which outlives the call.
        let message = unsafe {
            sys::bridge_store_get(
                *self.lock(),
                key.as_ptr(),
                milliseconds(timeout),
                (&raw mut value).cast(),
                collect,
            )
        };
        check::message("read from the store", message)?;
        Ok(value)
    }

    /// The value under a name, if somebody has set it.
    ///
    /// # Errors
    /// See [`Self::set`].
    pub fn find(&self, key: &str) -> Result<Option<Vec<u8>>, Error> {
        let (c_key, mut there) = (text(key), 0);
        // SAFETY: as in `set`; the result outlives the call.
        let message = unsafe { sys::bridge_store_check(*self.lock(), c_key.as_ptr(), &raw mut there) };
        check::message("ask the store", message)?;
        // Values are never removed, so this one is there.
        (there != 0).then(|| self.get(key, Duration::from_secs(30))).transpose()
    }

    /// Adds to the number under a name, which begins at zero, and gives the sum.
    ///
    /// # Errors
    /// See [`Self::set`].
    pub fn add(&self, key: &str, amount: i64) -> Result<i64, Error> {
        let (key, mut sum) = (text(key), 0);
        // SAFETY: as in `set`; the result outlives the call.
        let message = unsafe { sys::bridge_store_add(*self.lock(), key.as_ptr(), amount, &raw mut sum) };
        check::message("count in the store", message)?;
        Ok(sum)
    }

    /// The handle, for a function that makes something of the store.
    pub(super) fn lock(&self) -> MutexGuard<'_, *mut c_void> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        // SAFETY: made by `bridge_store_connect`, freed only here.
        unsafe { sys::bridge_store_free(*self.lock()) };
    }
}

/// Appends the store's bytes to the vector behind `context`.
///
/// # Safety
/// `context` is a `Vec<u8>` that nobody else uses during the call, and `bytes` are `count` readable bytes.
unsafe extern "C" fn collect(context: *mut c_void, bytes: *const c_char, count: usize) {
    // SAFETY: the caller's promise.
    let value = unsafe { &mut *context.cast::<Vec<u8>>() };
    if count > 0 {
        // SAFETY: the caller's promise.
        value.extend_from_slice(unsafe { std::slice::from_raw_parts(bytes.cast::<u8>(), count) });
    }
}

/// A C string; a zero byte, which no name of a key or a host has, becomes a question mark.
pub(super) fn text(text: &str) -> CString {
    CString::new(text.replace('\0', "?")).expect("zero bytes were replaced")
}

pub(super) fn milliseconds(time: Duration) -> i64 {
    i64::try_from(time.as_millis()).unwrap_or(i64::MAX)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A store of this process and its port.
    pub(in super::super) fn local() -> (Store, u16) {
        // A minute, since c10d asks the resolver for the name of everyone who connects, which takes ten seconds where none answers.
        let store = Store::connect("127.0.0.1", 0, true, Duration::from_secs(60)).unwrap();
        let port = store.port();
        (store, port)
    }

    #[test]
    fn what_one_connection_writes_another_reads() {
        let (server, port) = local();
        let client = Store::connect("127.0.0.1", port, false, Duration::from_secs(60)).unwrap();
        assert_eq!(client.find("greeting").unwrap(), None);
        server.set("greeting", b"hello\0world").unwrap();
        assert_eq!(client.get("greeting", Duration::from_secs(60)).unwrap(), b"hello\0world");
        assert_eq!(client.find("greeting").unwrap().as_deref(), Some(b"hello\0world".as_slice()));
        assert_eq!((client.add("count", 2).unwrap(), server.add("count", 3).unwrap()), (2, 5));
        server.set("empty", b"").unwrap();
        assert_eq!(client.get("empty", Duration::from_secs(60)).unwrap(), b"");
    }

    #[test]
    fn waiting_for_a_value_or_a_store_ends() {
        let (server, _) = local();
        let error = server.get("nothing", Duration::from_millis(50)).unwrap_err().to_string();
        assert!(error.starts_with("libtorch: read from the store: "), "{error}");
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        assert!(Store::connect("127.0.0.1", port, false, Duration::from_millis(50)).is_err());
    }
}
