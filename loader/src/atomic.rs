//! Files that exist completely or not at all: write beside, fsync, rename, fsync the folder.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use tempfile::NamedTempFile;

use crate::error::Error;

/// What stands between the name of a file and the random end of its temporary's name. A file with this in its name is
/// left over from a process that was killed, and may be deleted once no process writes to the folder.
pub const TEMPORARY_MARK: &str = ".tmp-";

/// Bytes gathered before they go to the operating system.
const BUFFER_BYTES: usize = 1 << 20;

/// A file under construction. Nothing stands under its final name until [`commit`](AtomicFile::commit); dropping it
/// before removes what was written.
#[derive(Debug)]
pub struct AtomicFile {
    path: PathBuf,
    dir: PathBuf,
    writer: BufWriter<NamedTempFile>,
}

impl AtomicFile {
    /// Starts a file that will replace or become `path`; its folder must exist.
    ///
    /// # Errors
    /// [`Error::Io`] or [`Error::DiskFull`] when the temporary file cannot be created in the folder of `path`.
    pub fn create(path: &Path) -> Result<Self, Error> {
        let dir = match path.parent() {
            Some(dir) if !dir.as_os_str().is_empty() => dir.to_owned(),
            _ => PathBuf::from("."),
        };
        let mut prefix = path.file_name().unwrap_or_default().to_owned();
        prefix.push(TEMPORARY_MARK);
        let mut builder = tempfile::Builder::new();
        builder.prefix(&prefix);
        // Temporary files are private by default, but this one will be somebody's data set: let the umask decide.
        #[cfg(unix)]
        builder.permissions(<fs::Permissions as std::os::unix::fs::PermissionsExt>::from_mode(0o666));
        let file = builder.tempfile_in(&dir).map_err(|source| match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Error::write(path, 0, source),
            _ => Error::Io { action: "create", path: path.to_owned(), source },
        })?;
        Ok(Self { path: path.to_owned(), dir, writer: BufWriter::with_capacity(BUFFER_BYTES, file) })
    }

    /// The final name.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Waits until the disk has what left the buffer; [`commit`](Self::commit) has less to wait for then, and does not see an
    /// error again that was told here.
    pub(crate) fn sync(&self) -> Result<(), Error> {
        self.writer.get_ref().as_file().sync_data().map_err(|source| Error::write(&self.path, 0, source))
    }

    /// Makes the file durable and gives it its final name, replacing what stood there.
    ///
    /// # Errors
    /// [`Error::Io`] or [`Error::DiskFull`]; the temporary file is removed then.
    pub fn commit(mut self) -> Result<(), Error> {
        let unwritten = self.writer.buffer().len() as u64;
        self.writer.flush().map_err(|source| Error::write(&self.path, unwritten, source))?;
        let file = match self.writer.into_inner() {
            Ok(file) => file,
            Err(error) => return Err(Error::write(&self.path, unwritten, error.into_error())),
        };
        file.as_file().sync_all().map_err(|source| Error::write(&self.path, 0, source))?;
        file.persist(&self.path).map_err(|error| Error::write(&self.path, 0, error.error))?;
        sync_dir(&self.dir)
    }

    /// The file behind the buffer, with everything written so far in it.
    pub(crate) fn file(&mut self) -> io::Result<&mut File> {
        self.writer.flush()?;
        Ok(self.writer.get_mut().as_file_mut())
    }

    /// Bytes accepted but not yet handed to the operating system.
    pub(crate) fn buffered(&self) -> u64 {
        self.writer.buffer().len() as u64
    }
}

impl Write for AtomicFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.writer.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.writer.flush()
    }
}

/// Writes `path` as a whole: `write` fills it, then it is made durable and takes its name.
///
/// ```
/// # let dir = tempfile::tempdir().unwrap();
/// # let path = dir.path().join("state.json");
/// use std::io::Write;
/// loader::atomic::write_file(&path, |file| file.write_all(b"{}"))?;
/// # assert_eq!(std::fs::read(&path).unwrap(), b"{}");
/// # Ok::<(), loader::Error>(())
/// ```
///
/// # Errors
/// [`Error::Io`] or [`Error::DiskFull`]; what stood under `path` before still stands there then.
pub fn write_file<F>(path: &Path, write: F) -> Result<(), Error>
where
    F: FnOnce(&mut AtomicFile) -> io::Result<()>,
{
    let mut file = AtomicFile::create(path)?;
    write(&mut file).map_err(|source| Error::write(path, file.buffered(), source))?;
    file.commit()
}

/// Makes the names in a folder durable.
///
/// # Errors
/// [`Error::Io`] when the folder cannot be opened or synchronised.
pub fn sync_dir(dir: &Path) -> Result<(), Error> {
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(Error::io("synchronise the folder", dir))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(dir: &Path) -> Vec<String> {
        let mut names: Vec<String> = fs::read_dir(dir)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn a_file_appears_whole_and_leaves_nothing_beside_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.json");
        let mut file = AtomicFile::create(&path).unwrap();
        file.write_all(b"new").unwrap();
        assert!(!path.exists());
        assert!(names(dir.path())[0].starts_with("a.json.tmp-"));
        file.commit().unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");
        assert_eq!(names(dir.path()), ["a.json"]);
    }

    #[test]
    fn a_failed_write_keeps_the_old_file_and_removes_the_new() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.json");
        fs::write(&path, b"old").unwrap();
        let error = write_file(&path, |file| {
            file.write_all(b"half")?;
            Err(io::Error::from(io::ErrorKind::StorageFull))
        })
        .unwrap_err();
        assert!(matches!(error, Error::DiskFull { missing: 4, .. }), "{error:?}");
        assert_eq!(fs::read(&path).unwrap(), b"old");
        assert_eq!(names(dir.path()), ["a.json"]);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_full_device_is_told_apart_from_other_errors() {
        let path = Path::new("/dev/full");
        let source = File::options().write(true).open(path).unwrap().write_all(b"x").unwrap_err();
        let message = Error::write(path, 7, source).to_string();
        assert!(message.contains("no space left for /dev/full: at least 7 more bytes"), "{message}");
    }

    #[test]
    fn a_missing_folder_is_named() {
        let error = AtomicFile::create(Path::new("no/such/folder/file")).unwrap_err();
        assert_eq!(error.to_string(), "cannot create no/such/folder/file");
    }

    #[cfg(unix)]
    #[test]
    fn others_may_read_what_the_umask_lets_them() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("plain"), b"").unwrap();
        write_file(&dir.path().join("ours"), |_| Ok(())).unwrap();
        let mode = |name: &str| fs::metadata(dir.path().join(name)).unwrap().permissions().mode();
        assert_eq!(mode("ours"), mode("plain"));
    }
}
