//! A fixed share of an ingest, for clusters: task `I` of `N` takes every `N`-th input, wherever and whenever it runs.
//!
//! Each task writes a shard folder of its own below the common one; [`merge`](crate::merge()) makes one of them.
//! Shards are numbered by their place in the list of all inputs, so what the tasks write together is to the byte what a
//! single run would have written.

use std::fmt;
use std::path::Path;
use std::str::FromStr;

use loader::shard::Manifest;
use serde::{Deserialize, Serialize};

use crate::error::Error;
use crate::identity::Identity;
use crate::place::Place;

/// What the folders of tasks begin with.
const FOLDER_START: &str = "task-";
/// The key in a manifest's options under which a task's folder says whose share it holds.
const OPTION: &str = "task";
/// More tasks than this have been mistyped.
const MOST: u32 = 99_999;

/// One share of an ingest that is divided among `count` tasks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Task {
    index: u32,
    count: u32,
}

impl Task {
    /// Task `index`, counted from 0, of `count`.
    ///
    /// # Errors
    /// [`Error::Option`] unless `index` is below `count`.
    pub fn new(index: u32, count: u32) -> Result<Self, Error> {
        if (1..=MOST).contains(&count) && index < count {
            return Ok(Self { index, count });
        }
        let expected = "I/N with I from 0 to N-1, such as 0/16 to 15/16";
        Err(Error::Option { option: "--task", found: format!("{index}/{count}"), expected })
    }

    /// Its number, counted from 0.
    pub fn index(self) -> u32 {
        self.index
    }

    /// How many tasks there are.
    pub fn count(self) -> u32 {
        self.count
    }

    /// Whether input `input` of the sorted list is its own.
    pub fn owns(self, input: u32) -> bool {
        input % self.count == self.index
    }

    /// The name of its folder below the common one.
    pub fn folder_name(self) -> String {
        format!("{FOLDER_START}{:05}-of-{:05}", self.index, self.count)
    }

    /// The task that a folder of this name belongs to.
    pub(crate) fn of_folder(dir: &Path) -> Option<Self> {
        let name = dir.file_name()?.to_str()?;
        let (index, count) = name.strip_prefix(FOLDER_START)?.split_once("-of-")?;
        Self::new(index.parse().ok()?, count.parse().ok()?).ok()
    }

    /// Notes in a manifest's options that it holds this share only.
    pub(crate) fn note(self, manifest: &mut Manifest) {
        manifest.ingest.options[OPTION] = self.to_string().into();
    }

    /// The share that a manifest says it holds; nothing for a whole one.
    pub(crate) fn noted(manifest: &Manifest) -> Option<Self> {
        manifest.ingest.options.get(OPTION)?.as_str()?.parse().ok()
    }

    /// Takes the note out of a manifest's options.
    pub(crate) fn forget(manifest: &mut Manifest) {
        if let Some(options) = manifest.ingest.options.as_object_mut() {
            options.shift_remove(OPTION);
        }
    }
}

impl fmt::Display for Task {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.index, self.count)
    }
}

impl FromStr for Task {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let numbers = text.split_once('/').and_then(|(index, count)| {
            Some((index.trim().parse::<u32>().ok()?, count.trim().parse::<u32>().ok()?))
        });
        let Some((index, count)) = numbers else {
            let expected = "I/N, such as 0/16";
            return Err(Error::Option { option: "--task", found: text.to_owned(), expected });
        };
        Self::new(index, count)
    }
}

impl TryFrom<String> for Task {
    type Error = Error;

    fn try_from(text: String) -> Result<Self, Error> {
        text.parse()
    }
}

impl From<Task> for String {
    fn from(task: Task) -> Self {
        task.to_string()
    }
}

/// The folders of tasks in a folder, sorted; none where there is no such folder.
pub(crate) fn task_folders(dir: &Place) -> Result<Vec<(Task, Place)>, Error> {
    let folders = dir.folders()?.into_iter();
    let mut folders: Vec<_> =
        folders.filter_map(|name| Some((Task::of_folder(Path::new(&name))?, dir.join(&name)))).collect();
    folders.sort_by_key(|(task, _)| (task.count, task.index));
    Ok(folders)
}

/// Whether the common folder `out` has been merged already: its manifest.
///
/// # Errors
/// When it is the folder of something else, or was divided into another number of tasks.
pub(crate) fn merged_before(out: &Path, task: Task, identity: &Identity) -> Result<Option<Manifest>, Error> {
    let out = Place::of(out)?;
    let other = task_folders(&out)?.into_iter().find(|(other, _)| other.count != task.count);
    if let Some((other, dir)) = other {
        return Err(Error::OtherDivision { dir: dir.path(), count: task.count, other: other.count });
    }
    let Some(manifest) = out.find_manifest()? else { return Ok(None) };
    match identity.difference_from(&manifest) {
        None => Ok(Some(manifest)),
        Some(difference) => Err(Error::OtherIngest { dir: out.path(), state: "was made", difference }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_input_belongs_to_exactly_one_task() {
        for count in 1..9 {
            for input in 0..50 {
                let owners = (0..count).filter(|index| Task::new(*index, count).unwrap().owns(input));
                assert_eq!(owners.count(), 1);
            }
        }
    }

    #[test]
    fn tasks_are_written_as_they_are_read() {
        let task: Task = "3/16".parse().unwrap();
        assert_eq!((task.to_string().as_str(), task.folder_name().as_str()), ("3/16", "task-00003-of-00016"));
        assert_eq!(Task::of_folder(Path::new("out/task-00003-of-00016")), Some(task));
        for other in ["out/task-00016-of-00016", "out/tasks", "out/task-1", "task-x-of-3"] {
            assert_eq!(Task::of_folder(Path::new(other)), None, "{other}");
        }
    }

    #[test]
    fn tasks_that_do_not_exist_are_refused() {
        for (text, said) in [
            ("16/16", "--task is 16/16, expected I/N with I from 0 to N-1, such as 0/16 to 15/16"),
            ("0/0", "--task is 0/0, expected I/N with I from 0 to N-1, such as 0/16 to 15/16"),
            ("three", "--task is three, expected I/N, such as 0/16"),
        ] {
            assert_eq!(text.parse::<Task>().unwrap_err().to_string(), said);
        }
    }
}
