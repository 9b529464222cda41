//! Objects in S3, Google Cloud Storage, Azure Blob Storage and on web servers, read and written as a whole.
//!
//! Everything here blocks; the asynchronous client runs on two threads of its own. What is read is one object from its
//! first byte to its last: a connection that breaks is taken up again at the byte reached, an object that was replaced
//! meanwhile is an error, and an end before the announced size is never taken for the end.
//!
//! | location | configured by |
//! | --- | --- |
//! | `s3://BUCKET/KEY` | `AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY`, `AWS_SESSION_TOKEN`, `AWS_REGION`; `AWS_ENDPOINT_URL` for other servers that speak S3, with `AWS_ALLOW_HTTP=true` where they do not encrypt; `AWS_SKIP_SIGNATURE=true` for public buckets |
//! | `gs://BUCKET/KEY` | `GOOGLE_APPLICATION_CREDENTIALS` or `GOOGLE_SERVICE_ACCOUNT`, a file; `GOOGLE_SKIP_SIGNATURE=true` for public buckets |
//! | `az://CONTAINER/KEY` | `AZURE_STORAGE_ACCOUNT_NAME` with `AZURE_STORAGE_ACCOUNT_KEY` or another of the `AZURE_` variables |
//! | `http://`, `https://` | nothing; such a server can be asked for single files only, not for lists |
//!
//! On a machine of one of the clouds the machine's own identity is used where no variable names another.

mod error;
mod reader;
mod store;

use std::fmt;
use std::fs::File;
use std::io::{self, Read, Write};
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use futures::TryStreamExt;
use object_store::path::Path as Key;
use object_store::{GetOptions, GetRange, ObjectMeta, ObjectStoreExt, PutPayload, WriteMultipart};

pub use error::{ObjectError, Said};
pub use reader::Reader;
pub use store::Scheme;

use crate::atomic::AtomicFile;
use crate::error::Error;
use store::Store;

/// Bytes sent with one request; also what an object may have to be sent with a single one.
const PART_BYTES: u64 = 16 << 20;
/// Stores accept at most 10,000 parts an object.
const MOST_PARTS: u64 = 9_000;
/// Parts of one object on their way at once.
const PARTS_IN_FLIGHT: usize = 4;
/// Bytes of an object that are taken from the connection at once when it is written to a file.
const COPY_BYTES: usize = 1 << 20;

/// Where an object lies, or a folder of objects.
///
/// ```
/// use loader::object::Location;
/// assert!(Location::parse("corpus/c4.json.gz")?.is_none());
/// let folder = Location::parse("http://localhost/shards/")?.expect("a URL is no path");
/// assert_eq!(folder.join("manifest.json").to_string(), "http://localhost/shards/manifest.json");
/// # Ok::<(), loader::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Location {
    store: Store,
    key: Key,
    /// As it was given, without a slash at its end.
    url: String,
}

/// What a store says of an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Meta {
    /// Its size.
    pub bytes: u64,
    /// The store's tag of its content, where it gives one.
    pub etag: Option<String>,
    /// When it was written, in seconds since 1970.
    pub modified: i64,
}

/// An object found by [`Location::list`].
#[derive(Clone, Debug)]
pub struct Found {
    /// Where it lies.
    pub location: Location,
    /// What the store says of it.
    pub meta: Meta,
}

impl Location {
    /// Understands a URL; nothing for what is a path.
    ///
    /// # Errors
    /// [`ObjectError::Url`] when it names a kind of store that is not known, or none can be reached by it.
    pub fn parse(text: &str) -> Result<Option<Self>, Error> {
        let Some((scheme, rest)) = text.split_once("://") else { return Ok(None) };
        if scheme.is_empty() || !scheme.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
            return Ok(None);
        }
        let wrong = |reason: String| Error::from(ObjectError::Url { url: text.to_owned(), reason });
        let scheme: Scheme = scheme.parse().map_err(wrong)?;
        let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
        if host.is_empty() {
            return Err(wrong(format!("it names no {}", scheme.container())));
        }
        let key = if scheme == Scheme::Http {
            let url = url::Url::parse(text).map_err(|error| wrong(error.to_string()))?;
            if url.query().is_some() || url.fragment().is_some() {
                return Err(wrong(
                    "what follows `?` or `#` cannot be asked for; download the file first".to_owned(),
                ));
            }
            Key::from_url_path(url.path().trim_end_matches('/'))
        } else {
            Key::parse(path.trim_end_matches('/'))
        };
        let key = key.map_err(|error| wrong(error.to_string()))?;
        let store = Store::open(scheme, &text[..text.len() - rest.len() + host.len()])
            .map_err(|error| wrong(format!("{error}; {}", scheme.credentials())))?;
        Ok(Some(Self { store, key, url: text.trim_end_matches('/').to_owned() }))
    }

    /// What lies below this location under `name`, which may have slashes.
    pub fn join(&self, name: &str) -> Self {
        let key = name
            .split('/')
            .filter(|part| !part.is_empty())
            .fold(self.key.clone(), |key, part| key.join(part));
        Self { store: self.store.clone(), key, url: format!("{}/{}", self.url, name.trim_matches('/')) }
    }

    /// The kind of store.
    pub fn scheme(&self) -> Scheme {
        self.store.scheme
    }

    /// The part after the last slash.
    pub fn name(&self) -> &str {
        self.key.filename().unwrap_or_default()
    }

    /// The path in the bucket, without a slash at its beginning.
    pub fn key(&self) -> &str {
        self.key.as_ref()
    }

    /// Size and identity of the object.
    ///
    /// # Errors
    /// [`ObjectError::NotFound`] and the other errors of a store.
    pub fn head(&self) -> Result<Meta, Error> {
        let meta = store::wait(self.store.client.head(&self.key));
        Ok(Meta::of(&meta.map_err(|error| self.failed("ask for", error))?))
    }

    /// Size of the object in bytes.
    ///
    /// # Errors
    /// As [`head`](Self::head).
    pub fn size(&self) -> Result<u64, Error> {
        Ok(self.head()?.bytes)
    }

    /// Whether there is such an object.
    ///
    /// # Errors
    /// When the store does not answer the question.
    pub fn exists(&self) -> Result<bool, Error> {
        match self.head() {
            Ok(_) => Ok(true),
            Err(Error::Object(error)) if matches!(*error, ObjectError::NotFound { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// All objects below this location, at any depth, sorted by their names.
    ///
    /// # Errors
    /// [`ObjectError::NoLists`] for a web server, or an error of the store.
    pub fn list(&self) -> Result<Vec<Found>, Error> {
        if self.scheme() == Scheme::Http {
            return Err(ObjectError::NoLists { url: self.url.clone() }.into());
        }
        let found = store::wait(self.store.client.list(Some(&self.key)).try_collect::<Vec<ObjectMeta>>());
        let mut found: Vec<_> = found
            .map_err(|error| self.failed("list", error))?
            .into_iter()
            // A folder made in a web console is an object of no bytes whose name ends with a slash.
            .filter_map(|meta| {
                let below = meta
                    .location
                    .as_ref()
                    .strip_prefix(self.key.as_ref())?
                    .trim_start_matches('/')
                    .to_owned();
                (!below.is_empty()).then(|| Found { location: self.join(&below), meta: Meta::of(&meta) })
            })
            .collect();
        found.sort_by(|a, b| a.location.url.cmp(&b.location.url));
        Ok(found)
    }

    /// A stream of the whole object.
    ///
    /// # Errors
    /// As [`head`](Self::head); what happens later is an error of [`Reader`].
    pub fn open(&self) -> Result<Reader, Error> {
        Ok(self.open_as(&self.head()?))
    }

    /// A stream of the object that [`head`](Self::head) or [`list`](Self::list) found; another one in its place is
    /// [`ObjectError::Changed`] when the stream is read.
    pub fn open_as(&self, meta: &Meta) -> Reader {
        Reader::start(self.clone(), meta.clone())
    }

    /// The whole object.
    ///
    /// # Errors
    /// As [`open`](Self::open) and [`Reader`].
    pub fn read_all(&self) -> Result<Vec<u8>, Error> {
        let mut reader = self.open()?;
        let mut bytes = Vec::with_capacity(reader.meta().bytes as usize);
        reader.read_to_end(&mut bytes).map_err(|error| self.read_error(error))?;
        Ok(bytes)
    }

    /// The bytes `range` of the object that `meta` describes.
    ///
    /// # Errors
    /// [`ObjectError::Changed`], [`ObjectError::Cut`], or another error of the store.
    pub fn read_range(&self, meta: &Meta, range: Range<u64>) -> Result<Vec<u8>, Error> {
        if range.is_empty() {
            return Ok(Vec::new());
        }
        let wanted = range.end - range.start;
        let options = GetOptions {
            range: Some(GetRange::Bounded(range)),
            if_match: meta.strong_etag(),
            ..GetOptions::default()
        };
        let failed = |error| self.failed("read", error);
        store::wait(async {
            let result = self.store.client.get_opts(&self.key, options).await.map_err(failed)?;
            self.refuse_changed(meta, &Meta::of(&result.meta))?;
            let bytes = result.bytes().await.map_err(failed)?;
            if bytes.len() as u64 != wanted {
                let (found, expected) = (bytes.len() as u64, wanted);
                return Err(ObjectError::Cut { url: self.url.clone(), found, expected }.into());
            }
            Ok(bytes.to_vec())
        })
    }

    /// Writes the object to the file `to`, which appears complete or not at all.
    ///
    /// # Errors
    /// Those of reading the object, and [`Error::Io`] or [`Error::DiskFull`] for the file.
    pub fn download(&self, to: &Path) -> Result<Meta, Error> {
        let mut reader = self.open()?;
        let mut file = AtomicFile::create(to)?;
        let mut buffer = vec![0; COPY_BYTES];
        let mut left = reader.meta().bytes;
        loop {
            match reader.read(&mut buffer).map_err(|error| self.read_error(error))? {
                0 => break,
                read => {
                    file.write_all(&buffer[..read]).map_err(|source| Error::write(to, left, source))?;
                    left -= read as u64;
                }
            }
        }
        file.commit()?;
        Ok(reader.meta().clone())
    }

    /// Makes the object from the file `from`; it appears complete or not at all.
    ///
    /// # Errors
    /// [`Error::Io`] for the file, or an error of the store.
    pub fn upload(&self, from: &Path) -> Result<Meta, Error> {
        let mut file = File::open(from).map_err(Error::io("open", from))?;
        let bytes = file.metadata().map_err(Error::io("read", from))?.len();
        if bytes <= PART_BYTES || self.scheme() == Scheme::Http {
            let mut content = Vec::with_capacity(bytes as usize);
            file.read_to_end(&mut content).map_err(Error::io("read", from))?;
            return self.write(content);
        }
        let part_bytes = PART_BYTES.max(bytes.div_ceil(MOST_PARTS));
        store::wait(async {
            let failed = |error| self.failed("write", error);
            let upload = self.store.client.put_multipart(&self.key).await.map_err(failed)?;
            let mut parts = WriteMultipart::new_with_chunk_size(upload, part_bytes as usize);
            match self.send_parts(&mut file, from, part_bytes, &mut parts).await {
                Ok(()) => parts.finish().await.map(drop).map_err(failed),
                Err(error) => {
                    // Parts that stay behind cost money, but the first error says more than this one.
                    let _ = parts.abort().await;
                    Err(error)
                }
            }
        })?;
        self.written(bytes)
    }

    async fn send_parts(
        &self,
        file: &mut File,
        from: &Path,
        part_bytes: u64,
        parts: &mut WriteMultipart,
    ) -> Result<(), Error> {
        loop {
            let mut part = Vec::with_capacity(part_bytes as usize);
            file.take(part_bytes).read_to_end(&mut part).map_err(Error::io("read", from))?;
            if part.is_empty() {
                return Ok(());
            }
            let room = parts.wait_for_capacity(PARTS_IN_FLIGHT).await;
            room.map_err(|error| self.failed("write", error))?;
            parts.put(part.into());
        }
    }

    /// Makes the object from `content`, replacing what stood there.
    ///
    /// # Errors
    /// An error of the store.
    pub fn write(&self, content: Vec<u8>) -> Result<Meta, Error> {
        let bytes = content.len() as u64;
        let put = store::wait(self.store.client.put(&self.key, PutPayload::from(content)));
        put.map_err(|error| self.failed("write", error))?;
        self.written(bytes)
    }

    /// What the store says of an object of `bytes` bytes just written.
    fn written(&self, bytes: u64) -> Result<Meta, Error> {
        let meta = self.head()?;
        if meta.bytes != bytes {
            let (url, found) = (self.url.clone(), meta.bytes);
            return Err(ObjectError::Cut { url, found, expected: bytes }.into());
        }
        Ok(meta)
    }

    /// Removes the object; there may be none.
    ///
    /// # Errors
    /// An error of the store.
    pub fn delete(&self) -> Result<(), Error> {
        match store::wait(self.store.client.delete(&self.key)) {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(self.failed("delete", error)),
        }
    }

    /// Gives the object the name `to` in the same bucket, replacing what stood there; the store copies it by itself.
    ///
    /// # Errors
    /// [`ObjectError::OtherBucket`], or an error of the store.
    pub fn rename(&self, to: &Self) -> Result<(), Error> {
        if !Arc::ptr_eq(&self.store.client, &to.store.client) {
            return Err(ObjectError::OtherBucket { from: self.url.clone(), to: to.url.clone() }.into());
        }
        let renamed = store::wait(self.store.client.rename(&self.key, &to.key));
        renamed.map_err(|error| self.failed("move", error))
    }

    fn failed(&self, action: &'static str, source: object_store::Error) -> Error {
        ObjectError::of(action, &self.url, self.scheme(), source).into()
    }

    fn refuse_changed(&self, expected: &Meta, found: &Meta) -> Result<(), Error> {
        if expected.is_same(found) {
            return Ok(());
        }
        let (found, expected) = (found.to_string(), expected.to_string());
        Err(ObjectError::Changed { url: self.url.clone(), found, expected }.into())
    }

    /// What a [`Reader`] of this object packed into an error of reading.
    pub(crate) fn read_error(&self, error: io::Error) -> Error {
        match error.downcast::<Error>() {
            Ok(error) => error,
            Err(source) => Error::Io { action: "read", path: self.url.clone().into(), source },
        }
    }
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.url)
    }
}

impl Meta {
    fn of(meta: &ObjectMeta) -> Self {
        Self { bytes: meta.size, etag: meta.e_tag.clone(), modified: meta.last_modified.timestamp() }
    }

    /// The tag, if a request may be made to depend on it.
    fn strong_etag(&self) -> Option<String> {
        self.etag.clone().filter(|etag| !etag.starts_with("W/"))
    }

    /// Whether two answers are of the same content, as far as the store tells.
    pub fn is_same(&self, other: &Self) -> bool {
        self.bytes == other.bytes
            && match (&self.etag, &other.etag) {
                (Some(a), Some(b)) => a == b,
                _ => self.modified == other.modified,
            }
    }

    /// What tells this content from another of the same name and size: its tag, else the time it was written.
    pub fn tag(&self) -> String {
        match &self.etag {
            Some(etag) => format!("etag {}", etag.trim_matches('"')),
            None => format!("written at {}", self.modified),
        }
    }
}

impl fmt::Display for Meta {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes, {}", self.bytes, self.tag())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(text: &str) -> String {
        Location::parse(text).unwrap_err().to_string()
    }

    #[test]
    fn paths_are_no_locations() {
        for path in ["a.json", "/a/b", "./s3", "C:\\a", "a:b", "", "://x", "a b://c"] {
            assert!(Location::parse(path).unwrap().is_none(), "{path}");
        }
    }

    #[test]
    fn a_location_is_a_store_and_a_key() {
        let location = Location::parse("s3://bucket/a folder/b%20c.json.gz").unwrap().unwrap();
        assert_eq!((location.key(), location.name()), ("a folder/b%20c.json.gz", "b%20c.json.gz"));
        let location = Location::parse("http://localhost:8000/a%20b/").unwrap().unwrap();
        assert_eq!(location.join("c/d").key(), "a b/c/d");
        assert_eq!(location.join("c/d").to_string(), "http://localhost:8000/a%20b/c/d");
    }

    #[test]
    fn what_cannot_be_reached_is_said() {
        assert_eq!(
            refused("ftp://host/a"),
            "ftp://host/a cannot be reached: ftp:// is not known; expected s3://, gs://, az://, http:// or https://"
        );
        assert!(refused("s3:///key").contains("it names no bucket"), "{}", refused("s3:///key"));
        assert!(refused("http://host/a?token=1").contains("download the file first"));
        assert!(refused("s3://bucket/a//b").contains("empty"), "{}", refused("s3://bucket/a//b"));
    }

    #[test]
    fn tags_tell_contents_apart_and_dates_stand_in() {
        let meta = |etag: Option<&str>, modified| Meta { bytes: 5, etag: etag.map(str::to_owned), modified };
        assert!(meta(Some("\"a\""), 1).is_same(&meta(Some("\"a\""), 2)));
        assert!(!meta(Some("\"a\""), 1).is_same(&meta(Some("\"b\""), 1)));
        assert!(!meta(None, 1).is_same(&meta(None, 2)));
        assert_eq!(meta(Some("W/\"a\""), 1).strong_etag(), None);
        assert_eq!(meta(Some("\"a\""), 1).to_string(), "5 bytes, etag a");
    }
}
