//! Whatever happens in the middle: nothing sealed is lost, the same command continues, and the bytes are the same.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime};

use assert_cmd::cargo::cargo_bin;

use crate::fixtures::{Corpus, assert_same_content, content, fail, names, noise, program, succeed};

/// So small that every file gives several parts, and most kills come inside a file.
const SMALL_PARTS: [&str; 6] = ["--shard-tokens", "2000", "--held-out", "0.1", "--workers", "2"];

/// The sealed shards and tables in a folder, with when they were written.
fn sealed(dir: &Path) -> BTreeMap<PathBuf, SystemTime> {
    let files = names(dir).into_iter().filter(|path| {
        let name = path.file_name().unwrap().to_string_lossy();
        name.starts_with("shard-") && !name.contains(".tmp-")
    });
    files.filter_map(|path| Some((path.clone(), path.metadata().ok()?.modified().ok()?))).collect()
}

#[test]
fn killed_over_and_over_it_ends_with_the_same_bytes() {
    let corpus = Corpus::of(3, 300);
    let whole = corpus.shards("whole", &SMALL_PARTS);
    let (mut kills, mut inside) = (0, 0);
    // A fast disk lets a run come far before it is killed, so there are as many ingests as it takes.
    for round in 0.. {
        let out = format!("out-{round}");
        while !corpus.path(&out).join("manifest.json").exists() {
            if killed(&corpus, &out, kills) {
                kills += 1;
                inside += u32::from(is_inside_an_input(&corpus.path(&out)));
            }
        }
        succeed(&mut corpus.ingest(&out, &SMALL_PARTS));
        assert_same_content(&whole, &corpus.path(&out));
        if kills >= 24 && inside >= 12 {
            return;
        }
        assert!(round < 100, "only {kills} kills, {inside} of them inside an input");
    }
}

/// Runs an ingest and kills it at a random moment, mostly after it has sealed something more; whether it was alive still.
fn killed(corpus: &Corpus, out: &str, kills: u32) -> bool {
    let dir = corpus.path(out);
    let enough = sealed(&dir).len() + usize::from(!kills.is_multiple_of(5));
    let mut child =
        corpus.ingest(out, &SMALL_PARTS).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    while child.try_wait().unwrap().is_none() && sealed(&dir).len() < enough {
        std::thread::sleep(Duration::from_micros(200));
    }
    std::thread::sleep(Duration::from_micros(noise() % 10_000));
    child.kill().unwrap();
    child.wait().unwrap().code().is_none()
}

/// Whether some input is begun and not done: the note of an input's last part says that it is the last.
fn is_inside_an_input(dir: &Path) -> bool {
    let notes = names(&dir.join("unfinished"));
    let notes = notes.iter().filter(|path| {
        let name = path.file_name().unwrap().to_string_lossy();
        name.starts_with("part-") && name.ends_with(".json")
    });
    let notes: Vec<String> = notes.map(|path| fs::read_to_string(path).unwrap()).collect();
    let first = |note: &&String| note.contains("\"first_row\": 0,");
    let last = |note: &&String| note.contains("\"last\": true");
    notes.iter().filter(first).count() > notes.iter().filter(last).count()
}

#[test]
fn a_second_process_is_refused() {
    let corpus = Corpus::of(1, 20);
    let out = corpus.path("out");
    fs::create_dir(&out).unwrap();
    let lock = File::open(&out).unwrap();
    lock.try_lock().unwrap();
    let said = fail(&mut corpus.ingest("out", &[]));
    assert!(said.contains("another ingest is writing to ") && said.contains("wait for it to end"), "{said}");
    drop(lock);
    succeed(&mut corpus.ingest("out", &[]));
}

#[test]
fn a_vanished_input_is_named_and_nothing_is_lost() {
    let corpus = Corpus::of(2, 100);
    corpus.pack("c4.00002.json.gz", "broken\n");
    fail(&mut corpus.ingest("out", &SMALL_PARTS));
    let before = sealed(&corpus.path("out"));
    assert!(!before.is_empty());
    let (path, aside) = (corpus.path("c4.00001.json.gz"), corpus.path("aside"));
    fs::rename(&path, &aside).unwrap();
    let said = fail(&mut corpus.ingest("out", &SMALL_PARTS));
    assert!(
        said.contains(
            "was begun from something else: the input c4.00001.json.gz was there then and is gone now"
        ),
        "{said}"
    );
    // Back again, it goes on where it was.
    fs::rename(&aside, &path).unwrap();
    let said = succeed(corpus.ingest("out", &SMALL_PARTS).args(["--skip-bad-lines", "1"]));
    assert!(said.contains("from earlier runs"), "{said}");
    let after = sealed(&corpus.path("out"));
    assert!(before.iter().all(|(path, time)| after[path] == *time), "a sealed shard was written again");
}

#[test]
fn an_input_with_new_content_is_refused_and_nothing_is_lost() {
    let corpus = Corpus::of(2, 100);
    corpus.pack("c4.00002.json.gz", "broken\n");
    fail(&mut corpus.ingest("out", &SMALL_PARTS));
    let before = sealed(&corpus.path("out"));
    let path = corpus.path("c4.00000.json.gz");
    let old = fs::read(&path).unwrap();
    let mut new = old.clone();
    new[5] ^= 1; // a byte of the time in the gzip header: same size, same text, another file
    for (content, said_of_it) in [
        (&new[..], "the content of input c4.00000.json.gz"),
        (&old[..old.len() - 1], "an input is c4.00000.json.gz ("),
    ] {
        fs::write(&path, content).unwrap();
        let said = fail(&mut corpus.ingest("out", &SMALL_PARTS));
        assert!(said.contains("was begun from something else: ") && said.contains(said_of_it), "{said}");
        assert_eq!(before, sealed(&corpus.path("out")));
    }
    fs::write(&path, old).unwrap();
    succeed(corpus.ingest("out", &SMALL_PARTS).args(["--skip-bad-lines", "1"]));
}

#[test]
fn an_input_that_is_written_to_meanwhile_is_not_sealed() {
    let corpus = Corpus::of(1, 2);
    // Rows are appended all the while, so that some row is written after the file was opened.
    let path = corpus.path("growing.jsonl");
    let mut file = File::create(&path).unwrap();
    let row = format!("{{\"text\":\"{}\"}}\n", "word ".repeat(2000));
    file.write_all(row.repeat(4000).as_bytes()).unwrap();
    let mut child =
        program(&["c4", "--out"]).arg(corpus.path("out")).arg(&path).stderr(Stdio::piped()).spawn().unwrap();
    while child.try_wait().unwrap().is_none() {
        file.write_all(row.as_bytes()).unwrap();
    }
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(
        said.contains("growing.jsonl changed while it was being read (")
            || said.contains("growing.jsonl is not the file that was there when this ingest began"),
        "{said}"
    );
    assert!(!names(&corpus.path("out")).iter().any(|path| path.to_string_lossy().contains("/part-")));
}

/// A corpus whose second file does not fit where the first does: 720,000 bytes of tokens.
#[cfg(unix)]
fn too_large() -> Corpus {
    let corpus = Corpus::of(1, 20);
    let row = format!("{{\"text\":\"{}\"}}\n", "a ".repeat(9000));
    corpus.pack("c4.00001.json.gz", row.repeat(40));
    corpus
}

#[cfg(unix)]
#[test]
fn no_room_left_in_a_file_is_said_and_nothing_is_lost() {
    let corpus = too_large();
    // A limit on the size of a file fails the same writes as a full disk, for any user. 600 KiB (in units of 512 bytes)
    // are more than the tokenizer has.
    let mut script = Command::new("sh");
    script.args(["-c", "trap '' XFSZ; ulimit -f 1200; exec \"$@\"", "sh"]).arg(cargo_bin!("ingest"));
    let limited = corpus.path("limited");
    script.arg("c4").arg(corpus.path("*.json.gz")).arg("--out").arg(&limited).args(["--workers", "1"]);
    full_and_continued(&corpus, &limited, &mut script);
}

#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_is_said_and_nothing_is_lost() {
    let corpus = too_large();
    let disk = Disk::of_bytes(&corpus.path("disk"), 600_000);
    let Some(disk) = disk else {
        eprintln!("not run: only root may mount a small disk");
        return;
    };
    let out = disk.0.join("out");
    let ingest = |option: &str| {
        let mut command = program(&["c4", "--workers", "1", option]);
        command.arg(corpus.path("*.json.gz")).arg("--out").arg(&out);
        command
    };
    let said = fail(&mut ingest("--dry-run"));
    assert!(said.contains("bytes free, but the shards are expected to take "), "{said}");
    assert!(said.contains("go on with --no-space-check"), "{said}");
    assert!(!out.exists(), "a dry run writes nothing");
    // Room for the tokenizer and the first shard, and not for the second besides.
    disk.resize(1_200_000);
    full_and_continued_on(&corpus, &out, &mut ingest("--no-space-check"), || disk.resize(20_000_000));
}

#[cfg(unix)]
fn full_and_continued(corpus: &Corpus, out: &Path, ingest: &mut Command) {
    full_and_continued_on(corpus, out, ingest, || ());
}

#[cfg(unix)]
fn full_and_continued_on(corpus: &Corpus, out: &Path, ingest: &mut Command, make_room: impl FnOnce()) {
    let said = fail(ingest);
    assert!(said.contains("no space left for ") && said.contains("shard-00001-0000.tokens"), "{said}");
    assert!(said.contains("free some space and run the same command again"), "{said}");
    let left = content(out);
    assert!(left.contains_key("shard-00000-0000.tokens"), "{:?}", left.keys());
    assert!(!left.keys().any(|name| name.contains(".tmp-")), "{:?}", left.keys());
    make_room();
    let mut again = program(&["c4"]);
    succeed(again.arg(corpus.path("*.json.gz")).arg("--out").arg(out));
    assert_same_content(&corpus.shards("undisturbed", &[]), out);
}

/// A small file system in memory, unmounted when dropped.
#[cfg(target_os = "linux")]
struct Disk(PathBuf);

#[cfg(target_os = "linux")]
impl Disk {
    /// Nothing when this user may not mount.
    fn of_bytes(path: &Path, bytes: u64) -> Option<Self> {
        fs::create_dir(path).unwrap();
        let size = format!("size={bytes}");
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(path).output();
        mounted.is_ok_and(|output| output.status.success()).then(|| Self(path.to_owned()))
    }

    fn resize(&self, bytes: u64) {
        succeed(Command::new("mount").args(["-o", &format!("remount,size={bytes}")]).arg(&self.0));
    }
}

#[cfg(target_os = "linux")]
impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(&self.0).output();
    }
}
