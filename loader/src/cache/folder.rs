//! The folder that fetched shards lie in, which several processes may share.
//!
//! A file is written as `NAME.part`, which is locked by the process that fetches it, and renamed when it has been compared
//! with its checksum. What is removed to make room is what was used longest ago, by the time of its last change.

use std::fs::{self, File, Metadata, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, SystemTime};

use super::remote::{Part, RemoteShard};
use super::{ByteSize, CacheConfig};
use crate::error::Error;
use crate::object::ObjectError;
use crate::shard::Shard;

/// How often a shard is fetched that turns out to be damaged or missing.
const ATTEMPTS: u32 = 3;
/// The wait before the second attempt; it doubles each time.
const FIRST_WAIT: Duration = Duration::from_millis(100);
/// How often a process looks whether another one has fetched a file, or made room.
const LOOK: Duration = Duration::from_millis(30);
/// After so many looks a shard that is needed now is fetched although there is no room: other processes hold it.
const LOOKS_FOR_ROOM: u32 = 1000;
/// What the name of a file ends with while it is fetched.
const BESIDE: &str = ".part";
/// Held while room is made.
const LOCK_FILE: &str = "lock";

/// A folder of fetched shards.
#[derive(Debug)]
pub(crate) struct Folder {
    dir: PathBuf,
    limit: u64,
}

/// How much a shard is needed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Haste {
    /// A batch waits for it: whatever no batch needs may go.
    Now,
    /// It will be needed: what is needed before it stays.
    Soon,
}

impl Folder {
    /// Opens or creates the folder.
    ///
    /// # Errors
    /// When it cannot be created or written to.
    pub(crate) fn open(config: &CacheConfig) -> Result<Self, Error> {
        let folder = Self { dir: config.folder(), limit: config.size.0 };
        fs::create_dir_all(&folder.dir).map_err(Error::io("create the folder", &folder.dir))?;
        folder.lock_file()?;
        Ok(folder)
    }

    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// The most that its files may take, in bytes.
    pub(crate) fn limit(&self) -> u64 {
        self.limit
    }

    /// Says that a file is in use. False when it is there no more.
    pub(crate) fn touch(&self, name: &str) -> bool {
        match File::open(self.dir.join(name)) {
            Ok(file) => {
                // Another user's file may be read, but not touched.
                let _ = file.set_modified(SystemTime::now());
                true
            }
            Err(error) => error.kind() != io::ErrorKind::NotFound,
        }
    }

    /// The shard, if it has been fetched. What is not the shard is removed.
    ///
    /// # Errors
    /// When what is not the shard cannot be removed.
    fn find(&self, object: &RemoteShard, part: Part) -> Result<Option<Shard>, Error> {
        let name = object.file_name(part);
        let path = self.dir.join(&name);
        match object.open(&path) {
            Ok(shard) => {
                self.touch(&name);
                Ok(Some(shard))
            }
            Err(Error::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(Error::Io { action, path, source }) => Err(Error::Io { action, path, source }),
            Err(_) => remove(&path).map(|()| None),
        }
    }

    /// The shard: as it lies here, or fetched. Nothing when it is only needed soon and there is no room. To make some,
    /// `let_go` is asked for each file whether it may be removed.
    ///
    /// # Errors
    /// The last of several attempts', when the store does not give it or gives something else; [`Error::DiskFull`].
    pub(crate) fn fetch(
        &self,
        object: &RemoteShard,
        part: Part,
        haste: Haste,
        let_go: &dyn Fn(&str, Haste) -> bool,
    ) -> Result<Option<Shard>, Error> {
        let path = self.dir.join(object.file_name(part));
        loop {
            if part == Part::Tail
                && let Some(whole) = self.find(object, Part::Whole)?
            {
                return Ok(Some(whole));
            }
            if let Some(shard) = self.find(object, part)? {
                return Ok(Some(shard));
            }
            match Beside::lock(&path)? {
                // Unless another process has renamed it just now.
                Some(beside) if !path.exists() => return self.fill(object, part, beside, haste, let_go),
                Some(_) => {}
                None => thread::sleep(LOOK),
            }
        }
    }

    fn fill(
        &self,
        object: &RemoteShard,
        part: Part,
        beside: Beside,
        haste: Haste,
        let_go: &dyn Fn(&str, Haste) -> bool,
    ) -> Result<Option<Shard>, Error> {
        let mut attempt = 1;
        loop {
            beside.file.set_len(0).map_err(|source| Error::write(&beside.path, 0, source))?;
            if !self.reserve(&beside, object.bytes(part), part, haste, let_go)? {
                return Ok(None);
            }
            match object.fetch(part, &beside.file, &beside.path) {
                Ok(()) => {
                    let path = self.dir.join(object.file_name(part));
                    beside.commit(&path)?;
                    return object.open(&path).map(Some);
                }
                Err(error) if attempt == ATTEMPTS || !may_pass(&error) => return Err(error),
                Err(_) => thread::sleep(FIRST_WAIT * (1 << attempt)),
            }
            attempt += 1;
        }
    }

    /// Makes room for a file and takes it. False when what there is will be needed before it.
    fn reserve(
        &self,
        beside: &Beside,
        bytes: u64,
        part: Part,
        haste: Haste,
        let_go: &dyn Fn(&str, Haste) -> bool,
    ) -> Result<bool, Error> {
        let mut looks = 0;
        loop {
            let lock = self.lock_file()?;
            // Where there are no locks, two processes may both take the last room.
            let _ = lock.lock();
            let has_room = self.make_room(bytes, haste, let_go)?;
            looks += 1;
            if has_room || haste == Haste::Now && looks > LOOKS_FOR_ROOM {
                if part == Part::Whole {
                    let taken = beside.file.set_len(bytes);
                    taken.map_err(|source| Error::write(&beside.path, bytes, source))?;
                }
                return Ok(true);
            }
            if haste == Haste::Soon {
                return Ok(false);
            }
            drop(lock);
            thread::sleep(LOOK);
        }
    }

    /// Removes files until so many bytes fit, if they can be made to.
    fn make_room(
        &self,
        bytes: u64,
        haste: Haste,
        let_go: &dyn Fn(&str, Haste) -> bool,
    ) -> Result<bool, Error> {
        let mut files = self.files()?;
        let mut taken: u64 = files.iter().map(|file| file.bytes).sum();
        files.sort_by_key(|file| file.used);
        let hastes: &[Haste] = match haste {
            Haste::Now => &[Haste::Soon, Haste::Now],
            Haste::Soon => &[Haste::Soon],
        };
        for haste in hastes {
            files.retain(|file| {
                if taken + bytes <= self.limit {
                    return true;
                }
                let path = self.dir.join(&file.name);
                let removed = match file.name.ends_with(BESIDE) {
                    // Left over from a process that was killed, if nobody holds it.
                    true => matches!(Beside::lock_at(path), Ok(Some(_))),
                    false => let_go(&file.name, *haste) && remove(&path).is_ok(),
                };
                if removed {
                    taken -= file.bytes;
                }
                !removed
            });
        }
        Ok(taken + bytes <= self.limit)
    }

    /// What the folder holds of ours.
    fn files(&self) -> Result<Vec<Kept>, Error> {
        let failed = || Error::io("read the folder", &self.dir);
        let mut files = Vec::new();
        for entry in fs::read_dir(&self.dir).map_err(failed())? {
            let entry = entry.map_err(failed())?;
            let name = entry.file_name().to_string_lossy().into_owned();
            let kind = name.trim_end_matches(BESIDE).rsplit_once('.').map(|(_, kind)| kind);
            // A file that another process removes meanwhile is not there.
            let Ok(meta) = entry.metadata() else { continue };
            let bytes = match kind {
                Some("tokens") => meta.len(),
                Some("tail") => on_disk(&meta),
                _ => continue,
            };
            files.push(Kept { name, bytes, used: meta.modified().unwrap_or(SystemTime::UNIX_EPOCH) });
        }
        Ok(files)
    }

    fn lock_file(&self) -> Result<File, Error> {
        let path = self.dir.join(LOCK_FILE);
        let opened = File::options().create(true).write(true).truncate(false).open(&path);
        opened.map_err(Error::io("create", &path))
    }

    /// The error for a batch that needs more than fits.
    pub(crate) fn too_small(&self, shards: usize, needed: u64) -> Error {
        Error::CacheTooSmall {
            dir: self.dir.clone(),
            limit: ByteSize(self.limit),
            shards,
            needed: ByteSize(needed),
        }
    }
}

/// A file of the folder.
struct Kept {
    name: String,
    bytes: u64,
    used: SystemTime,
}

/// A file that is being fetched, by this process alone; removed when dropped.
struct Beside {
    file: File,
    path: PathBuf,
    is_done: bool,
}

impl Beside {
    /// The one of `path`; nothing when another process has it.
    fn lock(path: &Path) -> Result<Option<Self>, Error> {
        let mut beside = path.as_os_str().to_owned();
        beside.push(BESIDE);
        Self::lock_at(beside.into())
    }

    fn lock_at(path: PathBuf) -> Result<Option<Self>, Error> {
        let opened = File::options().create(true).read(true).write(true).truncate(false).open(&path);
        let file = opened.map_err(|source| match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Error::write(&path, 0, source),
            _ => Error::Io { action: "create", path: path.clone(), source },
        })?;
        match file.try_lock() {
            Err(TryLockError::WouldBlock) => return Ok(None),
            // Some network file systems know no locks; there each process should have a folder of its own.
            Ok(()) | Err(TryLockError::Error(_)) => {}
        }
        // It may have been renamed or removed by who had it before.
        let is_there = matches!((file.metadata(), fs::metadata(&path)), (Ok(a), Ok(b)) if is_same(&a, &b));
        Ok(is_there.then_some(Self { file, path, is_done: false }))
    }

    /// Makes the file durable and gives it its name.
    fn commit(mut self, path: &Path) -> Result<(), Error> {
        self.file.sync_all().map_err(|source| Error::write(path, 0, source))?;
        fs::rename(&self.path, path).map_err(|source| Error::write(path, 0, source))?;
        self.is_done = true;
        Ok(())
    }
}

impl Drop for Beside {
    fn drop(&mut self) {
        if !self.is_done {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Removes a file; there may be none.
fn remove(path: &Path) -> Result<(), Error> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(Error::io("remove", path)(error)),
        _ => Ok(()),
    }
}

/// Whether another attempt may bring something else.
fn may_pass(error: &Error) -> bool {
    match error {
        Error::Io { .. } | Error::DiskFull { .. } => false,
        Error::Object(error) => !matches!(**error, ObjectError::Refused { .. } | ObjectError::Url { .. }),
        _ => true,
    }
}

/// Bytes that a file with holes takes.
#[cfg(unix)]
fn on_disk(meta: &Metadata) -> u64 {
    use std::os::unix::fs::MetadataExt;
    512 * meta.blocks()
}

#[cfg(not(unix))]
fn on_disk(meta: &Metadata) -> u64 {
    meta.len()
}

#[cfg(unix)]
fn is_same(a: &Metadata, b: &Metadata) -> bool {
    use std::os::unix::fs::MetadataExt;
    (a.dev(), a.ino()) == (b.dev(), b.ino())
}

#[cfg(not(unix))]
fn is_same(_: &Metadata, _: &Metadata) -> bool {
    true
}
