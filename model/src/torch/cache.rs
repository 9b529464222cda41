//! The user's cache: what was compiled or measured for this machine's card, under the hash of all that went into it.

use std::io::Write;
use std::path::{Path, PathBuf};

use tempfile::NamedTempFile;

/// Where it is: `tessera/kernels` in `XDG_CACHE_HOME`, or in `.cache` of the home folder.
pub(crate) fn cache_folder() -> Option<PathBuf> {
    let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let cache = set("XDG_CACHE_HOME").or_else(|| set("HOME").map(|home| home.join(".cache")))?;
    Some(cache.join("tessera/kernels"))
}

/// A cached file is the BLAKE3 hash of its content, then the content; anything else is as good as not there.
pub(crate) fn read_cached(path: &Path) -> Option<Vec<u8>> {
    let bytes = std::fs::read(path).ok()?;
    let (hash, content) = bytes.split_at_checked(blake3::OUT_LEN)?;
    (blake3::hash(content).as_bytes() == hash).then(|| content.to_vec())
}

/// Keeps `content`, whatever was there. A failure costs the next start a second.
pub(crate) fn write_cached(path: &Path, content: &[u8]) {
    let _unwritable = prepared(path, content).and_then(|file| Ok(file.persist(path)?));
}

/// Keeps `content` unless a sound file is there already, perhaps another process's.
pub(crate) fn keep_first(path: &Path, content: &[u8]) {
    let first = prepared(path, content).is_ok_and(|file| file.persist_noclobber(path).is_ok());
    if !first && read_cached(path).is_none() {
        write_cached(path, content);
    }
}

/// Writes beside, to be renamed, so that several processes may fill one cache.
fn prepared(path: &Path, content: &[u8]) -> std::io::Result<NamedTempFile> {
    let folder = path.parent().expect("a cached file lies in a folder");
    std::fs::create_dir_all(folder)?;
    let mut file = NamedTempFile::new_in(folder)?;
    file.write_all(blake3::hash(content).as_bytes())?;
    file.write_all(content)?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cached_content_comes_back_and_damage_is_noticed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("deeper/kernels.cubin");
        assert_eq!(read_cached(&path), None);
        write_cached(&path, b"machine code");
        assert_eq!(read_cached(&path).as_deref(), Some(b"machine code".as_slice()));
        let mut bytes = std::fs::read(&path).unwrap();
        for length in [0, 5, 31, 40] {
            std::fs::write(&path, &bytes[..length]).unwrap();
            assert_eq!(read_cached(&path), None);
        }
        *bytes.last_mut().unwrap() ^= 1;
        std::fs::write(&path, &bytes).unwrap();
        assert_eq!(read_cached(&path), None);
    }

    #[test]
    fn the_first_of_two_stays_unless_it_is_damaged() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("product");
        keep_first(&path, b"first");
        keep_first(&path, b"second");
        assert_eq!(read_cached(&path).as_deref(), Some(b"first".as_slice()));
        std::fs::write(&path, b"damaged").unwrap();
        keep_first(&path, b"third");
        assert_eq!(read_cached(&path).as_deref(), Some(b"third".as_slice()));
    }
}
