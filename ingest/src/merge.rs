//! Makes one shard folder of those that the tasks of an ingest wrote. No token is read: files are renamed, in an object
//! store by the store.
//!
//! May be killed at any moment and run again: the tasks' manifests stay until the common one is in place, and a file is
//! looked for in both folders.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use loader::atomic;
use loader::shard::{MANIFEST_FILE, Manifest};

use crate::error::Error;
use crate::folder::{self, MANIFEST_HASH_FILE};
use crate::place::Place;
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
    place: Place,
    manifest: Manifest,
    /// Keeps a task from being run again while its files are moved. Stores have none.
    _lock: Option<File>,
}

/// Joins the tasks' folders given, or those that lie in the folders given, into `out`, and removes them. All are paths
/// of this machine, or URLs of one bucket.
///
/// # Errors
/// [`Error::MergeNothing`], [`Error::MergeUnfinished`], [`Error::MergeGap`], [`Error::MergeOverlap`],
/// [`Error::MergeDiffers`], [`Error::MergeLost`] when the folders are not the tasks of one ingest, each once, and
/// nothing is touched then; or an error of moving files, after which the same call continues.
pub fn merge(given: &[PathBuf], out: &Path) -> Result<Merged, Error> {
    let mut folders = find(given)?;
    let out = Place::of(out)?;
    out.create()?;
    let _lock = lock(&out)?;
    if let Place::Folder(dir) = &out {
        folder::remove_temporaries(dir)?;
    }
    let earlier = out.find_manifest()?;
    if earlier.is_some() {
        // A merge that was killed while it removed them leaves empty ones.
        let mut left = Vec::new();
        for (task, place) in folders {
            if place.size(MANIFEST_FILE)?.is_some() || !remove_empty(&place) {
                left.push((task, place));
            }
        }
        folders = left;
    }
    if folders.is_empty() {
        let manifest = earlier.ok_or_else(|| Error::MergeNothing { dir: given[0].clone() })?;
        return Ok(Merged { manifest, tasks: 0 });
    }
    let parts =
        folders.into_iter().map(|(task, place)| Part::open(task, place)).collect::<Result<Vec<_>, _>>()?;
    if let Some(manifest) = earlier {
        // Everything but the end was done before.
        return remove_joined(parts, manifest, &out);
    }
    check(&parts)?;
    let manifest = joined(&parts);
    let moves = moves(&parts, &out)?;

    // First, because it marks the folder as one of shards.
    out.write(MANIFEST_HASH_FILE, folder::manifest_hash(&manifest).as_bytes())?;
    let tokenizer = parts[0].place.read(TOKENIZER_FILE)?;
    let lost = || Error::MergeLost {
        task: parts[0].task,
        path: parts[0].place.path().join(TOKENIZER_FILE),
        bytes: 0,
    };
    out.write(TOKENIZER_FILE, &tokenizer.ok_or_else(lost)?)?;
    for (part, name) in moves {
        rename(&part.place, &out, name)?;
    }
    if let Place::Folder(dir) = &out {
        atomic::sync_dir(dir)?;
        manifest.write(dir)?;
    } else {
        out.write(MANIFEST_FILE, manifest.to_json().as_bytes())?;
    }
    remove_joined(parts, manifest, &out)
}

/// Gives a file its place in another folder.
fn rename(from: &Place, to: &Place, name: &str) -> Result<(), Error> {
    match (from, to) {
        (Place::Folder(from_dir), Place::Folder(out)) => {
            let from = from_dir.join(name);
            fs::rename(&from, out.join(name)).map_err(|source| match source.kind() {
                io::ErrorKind::CrossesDevices => Error::MergeFar { from, out: out.to_owned() },
                _ => Error::Io { action: "move to its place", path: from, source },
            })
        }
        (Place::Store(from), Place::Store(to)) => Ok(from.join(name).rename(&to.join(name))?),
        _ => Err(Error::MergeFar { from: from.path().join(name), out: to.path() }),
    }
}

/// Two processes on one folder of this machine would be in each other's way.
fn lock(place: &Place) -> Result<Option<File>, Error> {
    match place {
        Place::Folder(dir) => folder::lock(dir).map(Some),
        Place::Store(_) => Ok(None),
    }
}

/// Removes a folder if it is empty; in a store such a folder is none.
fn remove_empty(place: &Place) -> bool {
    match place {
        Place::Folder(dir) => fs::remove_dir(dir).is_ok(),
        Place::Store(_) => place.files().is_ok_and(|files| files.is_empty()),
    }
}

/// The tasks' folders among those given and in them, sorted by task.
fn find(given: &[PathBuf]) -> Result<Vec<(Task, Place)>, Error> {
    let mut folders: BTreeMap<_, (Task, Place)> = BTreeMap::new();
    for dir in given {
        let place = match Place::of(dir)? {
            // `.` and `..` have no name by which a task could be told.
            Place::Folder(dir) => {
                Place::Folder(fs::canonicalize(&dir).map_err(Error::io("open the folder", &dir))?)
            }
            store => store,
        };
        let found = match Task::of_folder(&place.path()) {
            Some(task) => vec![(task, place)],
            None => task_folders(&place)?,
        };
        for (task, place) in found {
            let second = place.path();
            match folders.insert((task.count(), task.index()), (task, place)) {
                Some((_, other)) if other.path() != second => {
                    return Err(Error::MergeOverlap { task, first: other.path(), second });
                }
                _ => {}
            }
        }
    }
    Ok(folders.into_values().collect())
}

impl Part {
    fn open(task: Task, place: Place) -> Result<Self, Error> {
        let lock = lock(&place)?;
        let Some(manifest) = place.find_manifest()? else {
            return Err(Error::MergeUnfinished { task, dir: place.path() });
        };
        match Task::noted(&manifest) {
            Some(noted) if noted == task => Ok(Self { task, place, manifest, _lock: lock }),
            noted => {
                let found = noted.map_or("a whole ingest".to_owned(), |noted| format!("task {noted}"));
                Err(Error::MergeRenamed { dir: place.path(), found })
            }
        }
    }
}

/// Whether these are the tasks of one ingest, each once.
fn check(parts: &[Part]) -> Result<(), Error> {
    let first = &parts[0];
    let differs = |part: &Part, what: &'static str, expected: String, found: String| {
        let (first, second) = (first.place.path(), part.place.path());
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
            return Err(Error::MergeRenamed { dir: part.place.path(), found });
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

/// The files that are not in `out` yet, with the part they are in. Each is looked for with its size before any is moved.
fn moves<'a>(parts: &'a [Part], out: &Place) -> Result<Vec<(&'a Part, &'a str)>, Error> {
    let there = out.files()?;
    let mut moves = Vec::new();
    for part in parts {
        let here = part.place.files()?;
        for shard in &part.manifest.shards {
            for (name, bytes) in [(&shard.file, shard.bytes), (&shard.docs_file, shard.docs_bytes)] {
                if here.get(name) == Some(&bytes) {
                    moves.push((part, name.as_str()));
                } else if there.get(name) != Some(&bytes) {
                    return Err(Error::MergeLost {
                        task: part.task,
                        path: part.place.path().join(name),
                        bytes,
                    });
                }
            }
        }
    }
    Ok(moves)
}

/// Removes the tasks' folders once `out` has everything.
fn remove_joined(parts: Vec<Part>, manifest: Manifest, out: &Place) -> Result<Merged, Error> {
    for part in &parts {
        if part.manifest.ingest.fingerprint != manifest.ingest.fingerprint {
            let (what, expected, found) =
                difference(&manifest, &part.manifest).expect("the fingerprints differ");
            let (first, second) = (out.path(), part.place.path());
            return Err(Error::MergeDiffers { first, second, what, found, expected });
        }
    }
    for part in &parts {
        for name in [TOKENIZER_FILE, MANIFEST_HASH_FILE, MANIFEST_FILE] {
            part.place.remove(name)?;
        }
        // Whatever somebody else put into it stays, and with it the folder.
        remove_empty(&part.place);
    }
    Ok(Merged { manifest, tasks: parts.len() })
}
