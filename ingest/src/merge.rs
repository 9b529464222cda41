//! Makes one shard folder of those that the tasks of an ingest wrote. No token is read or copied: files are renamed.
//!
//! May be killed at any moment and run again: the tasks' manifests stay until the common one is in place, and a file is
//! looked for in both folders.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use loader::atomic;
use loader::shard::{MANIFEST_FILE, Manifest};

use crate::error::Error;
use crate::folder::{self, MANIFEST_HASH_FILE};
use crate::task::{Task, task_folders};
use crate::tokenizer::TOKENIZER_FILE;

/// What a merge came to.
pub struct Merged {
    /// The manifest of the common folder.
    pub manifest: Manifest,
    /// Tasks whose folders were joined; 0 when that had been done before.
    pub tasks: usize,
}

/// A task's finished folder.
struct Part {
    task: Task,
    dir: PathBuf,
    manifest: Manifest,
    /// Keeps a task from being run again while its files are moved.
    _lock: File,
}

/// Joins the tasks' folders given, or those that lie in the folders given, into `out`, and removes them.
///
/// # Errors
/// [`Error::MergeNothing`], [`Error::MergeUnfinished`], [`Error::MergeGap`], [`Error::MergeOverlap`],
/// [`Error::MergeDiffers`], [`Error::MergeLost`] when the folders are not the tasks of one ingest, each once, and
/// nothing is touched then; or an error of moving files, after which the same call continues.
pub fn merge(given: &[PathBuf], out: &Path) -> Result<Merged, Error> {
    let mut folders = find(given)?;
    fs::create_dir_all(out).map_err(Error::io("create the folder", out))?;
    let _lock = folder::lock(out)?;
    folder::remove_temporaries(out)?;
    let earlier = match Manifest::read(out) {
        Ok(manifest) => Some(manifest),
        Err(loader::Error::NoManifest { .. }) => None,
        Err(error) => return Err(error.into()),
    };
    if earlier.is_some() {
        // A merge that was killed while it removed them leaves empty ones.
        folders.retain(|(_, dir)| dir.join(MANIFEST_FILE).exists() || fs::remove_dir(dir).is_err());
    }
    if folders.is_empty() {
        let manifest = earlier.ok_or_else(|| Error::MergeNothing { dir: given[0].clone() })?;
        return Ok(Merged { manifest, tasks: 0 });
    }
    let parts =
        folders.into_iter().map(|(task, dir)| Part::open(task, dir)).collect::<Result<Vec<_>, _>>()?;
    if let Some(manifest) = earlier {
        // Everything but the end was done before.
        return remove_joined(parts, manifest, out);
    }
    check(&parts)?;
    let manifest = joined(&parts);
    let moves = moves(&parts, out)?;

    let write = |name: &str, bytes: &[u8]| atomic::write_file(&out.join(name), |file| file.write_all(bytes));
    // First, because it marks the folder as one of shards.
    write(MANIFEST_HASH_FILE, folder::manifest_hash(&manifest).as_bytes())?;
    let tokenizer = parts[0].dir.join(TOKENIZER_FILE);
    write(TOKENIZER_FILE, &fs::read(&tokenizer).map_err(Error::io("read", &tokenizer))?)?;
    for (from, to) in moves {
        fs::rename(&from, &to).map_err(|source| match source.kind() {
            io::ErrorKind::CrossesDevices => Error::MergeFar { from, out: out.to_owned() },
            _ => Error::Io { action: "move to its place", path: from, source },
        })?;
    }
    atomic::sync_dir(out)?;
    manifest.write(out)?;
    remove_joined(parts, manifest, out)
}

/// The tasks' folders among those given and in them, sorted by task.
fn find(given: &[PathBuf]) -> Result<Vec<(Task, PathBuf)>, Error> {
    let mut folders = BTreeMap::new();
    for dir in given {
        // `.` and `..` have no name by which a task could be told.
        let dir = &fs::canonicalize(dir).map_err(Error::io("open the folder", dir))?;
        let found = match Task::of_folder(dir) {
            Some(task) => vec![(task, dir.clone())],
            None => task_folders(dir)?,
        };
        for (task, dir) in found {
            match folders.insert((task.count(), task.index()), (task, dir.clone())) {
                Some((_, other)) if other != dir => {
                    return Err(Error::MergeOverlap { task, first: other, second: dir });
                }
                _ => {}
            }
        }
    }
    Ok(folders.into_values().collect())
}

impl Part {
    fn open(task: Task, dir: PathBuf) -> Result<Self, Error> {
        let lock = folder::lock(&dir)?;
        let manifest = match Manifest::read(&dir) {
            Ok(manifest) => manifest,
            Err(loader::Error::NoManifest { .. }) => return Err(Error::MergeUnfinished { task, dir }),
            Err(error) => return Err(error.into()),
        };
        match Task::noted(&manifest) {
            Some(noted) if noted == task => Ok(Self { task, dir, manifest, _lock: lock }),
            noted => {
                let found = noted.map_or("a whole ingest".to_owned(), |noted| format!("task {noted}"));
                Err(Error::MergeRenamed { dir, found })
            }
        }
    }
}

/// Whether these are the tasks of one ingest, each once.
fn check(parts: &[Part]) -> Result<(), Error> {
    let first = &parts[0];
    let differs = |part: &Part, what: &'static str, expected: String, found: String| {
        let (first, second) = (first.dir.clone(), part.dir.clone());
        Err(Error::MergeDiffers { first, second, what, found, expected })
    };
    for part in &parts[1..] {
        if part.task.count() != first.task.count() {
            let counts = [first, part].map(|part| part.task.count().to_string());
            let [expected, found] = counts;
            return differs(part, "the number of tasks", expected, found);
        }
        if let Some((what, expected, found)) = difference(&first.manifest, &part.manifest) {
            return differs(part, what, expected, found);
        }
    }
    let missing: Vec<_> = (0..first.task.count())
        .filter(|index| parts.iter().all(|part| part.task.index() != *index))
        .map(|index| index.to_string())
        .collect();
    if !missing.is_empty() {
        return Err(Error::MergeGap { missing: missing.join(", "), count: first.task.count() });
    }
    for part in parts {
        let foreign = part.manifest.shards.iter().find(|shard| !part.task.owns(shard.input));
        if let Some(shard) = foreign {
            let found = format!("{} besides its share", shard.file);
            return Err(Error::MergeRenamed { dir: part.dir.clone(), found });
        }
    }
    Ok(())
}

/// The first thing in which two tasks' manifests differ and may not: what, then here and there.
fn difference(first: &Manifest, other: &Manifest) -> Option<(&'static str, String, String)> {
    let options = |manifest: &Manifest| {
        let mut manifest = manifest.clone();
        Task::forget(&mut manifest);
        manifest.ingest.options.to_string()
    };
    let inputs = |manifest: &Manifest| manifest.ingest.inputs.len().to_string();
    let visible = [
        ("the program", first.program.clone(), other.program.clone()),
        ("the BLAKE3 of the tokenizer", first.tokenizer.blake3.clone(), other.tokenizer.blake3.clone()),
        ("what the options say", options(first), options(other)),
        ("the number of inputs", inputs(first), inputs(other)),
    ];
    if let Some(difference) = visible.into_iter().find(|(_, first, other)| first != other) {
        return Some(difference);
    }
    let name = |input: &loader::shard::InputFile| format!("{} ({} bytes)", input.path, input.bytes);
    let names = first.ingest.inputs.iter().zip(&other.ingest.inputs).map(|(a, b)| (name(a), name(b)));
    if let Some((first, other)) = { names }.find(|(first, other)| first != other) {
        return Some(("an input", first, other));
    }
    // Names and sizes are the same, so it is the content of an input.
    let (first, other) = (&first.ingest.fingerprint, &other.ingest.fingerprint);
    (first != other).then(|| ("the fingerprint of the inputs' content", first.clone(), other.clone()))
}

/// The manifest that a single run would have written.
fn joined(parts: &[Part]) -> Manifest {
    let mut manifest = parts[0].manifest.clone();
    Task::forget(&mut manifest);
    for (index, input) in manifest.ingest.inputs.iter_mut().enumerate() {
        let owner = parts.iter().find(|part| part.task.owns(index as u32));
        owner.expect("no task is missing").manifest.ingest.inputs[index].clone_into(input);
    }
    let shards = parts.iter().flat_map(|part| part.manifest.shards.iter().cloned());
    manifest.shards = shards.collect();
    manifest.shards.sort_by(|a, b| (a.input, a.first_row, &a.file).cmp(&(b.input, b.first_row, &b.file)));
    let sum = |count: fn(&Manifest) -> u64| parts.iter().map(|part| count(&part.manifest)).sum();
    manifest.documents = sum(|part| part.documents);
    manifest.held_out_documents = sum(|part| part.held_out_documents);
    manifest.tokens = sum(|part| part.tokens);
    manifest.held_out_tokens = sum(|part| part.held_out_tokens);
    manifest.text_bytes = sum(|part| part.text_bytes);
    manifest
}

/// The files that are not in `out` yet: from where, to where. Each is looked for with its size before any is moved.
fn moves(parts: &[Part], out: &Path) -> Result<Vec<(PathBuf, PathBuf)>, Error> {
    let has = |path: &Path, bytes: u64| path.metadata().is_ok_and(|found| found.len() == bytes);
    let mut moves = Vec::new();
    for part in parts {
        for shard in &part.manifest.shards {
            for (name, bytes) in [(&shard.file, shard.bytes), (&shard.docs_file, shard.docs_bytes)] {
                let (from, to) = (part.dir.join(name), out.join(name));
                if has(&from, bytes) {
                    moves.push((from, to));
                } else if !has(&to, bytes) {
                    return Err(Error::MergeLost { task: part.task, path: from, bytes });
                }
            }
        }
    }
    Ok(moves)
}

/// Removes the tasks' folders once `out` has everything.
fn remove_joined(parts: Vec<Part>, manifest: Manifest, out: &Path) -> Result<Merged, Error> {
    for part in &parts {
        if part.manifest.ingest.fingerprint != manifest.ingest.fingerprint {
            let (what, expected, found) =
                difference(&manifest, &part.manifest).expect("the fingerprints differ");
            let (first, second) = (out.to_owned(), part.dir.clone());
            return Err(Error::MergeDiffers { first, second, what, found, expected });
        }
    }
    for part in &parts {
        for name in [TOKENIZER_FILE, MANIFEST_HASH_FILE, MANIFEST_FILE] {
            let path = part.dir.join(name);
            match fs::remove_file(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(Error::io("remove", &path)(error));
                }
                _ => {}
            }
        }
        // Whatever somebody else put into it stays, and with it the folder.
        let _ = fs::remove_dir(&part.dir);
    }
    Ok(Merged { manifest, tasks: parts.len() })
}
