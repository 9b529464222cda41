//! Any bytes as a manifest: refused or read, and what is read is written and read again as the same.
#![no_main]

use std::fs;

use libfuzzer_sys::fuzz_target;
use loader::ShardFolder;
use loader::shard::{MANIFEST_FILE, Manifest};
use tempfile::TempDir;

thread_local! {
    static DIR: TempDir = tempfile::tempdir().unwrap();
}

fuzz_target!(|data: &[u8]| {
    DIR.with(|dir| {
        fs::write(dir.path().join(MANIFEST_FILE), data).unwrap();
        if let Ok(manifest) = Manifest::read(dir.path()) {
            manifest.write(dir.path()).unwrap();
            assert_eq!(Manifest::read(dir.path()).unwrap(), manifest);
        }
    });
    if let Ok(text) = str::from_utf8(data)
        && let Ok(folder) = text.parse::<ShardFolder>()
    {
        assert!(folder.weight.is_none_or(|weight| weight > 0.0 && weight.is_finite()));
    }
});
