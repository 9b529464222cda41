//! Many tasks write what one run would have written, and `merge` takes nothing else.

use std::fs;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use crate::fixtures::{Corpus, assert_same_content, content, fail, names, noise, program, succeed};

const SMALL_PARTS: [&str; 4] = ["--shard-tokens", "3000", "--held-out", "0.1"];

/// Runs tasks of `count` into the folder `out`.
fn run_tasks(corpus: &Corpus, out: &str, tasks: impl IntoIterator<Item = u32>, count: u32) {
    for index in tasks {
        succeed(corpus.ingest(out, &SMALL_PARTS).args(["--task", &format!("{index}/{count}")]));
    }
}

fn merge(corpus: &Corpus, dirs: &[&str]) -> std::process::Command {
    let mut command = program(&["merge"]);
    command.args(dirs.iter().map(|dir| corpus.path(dir)));
    command
}

/// A corpus whose second file has a line that is left out and whose third holds no document.
fn uneven() -> Corpus {
    let corpus = Corpus::of(5, 60);
    corpus.pack("c4.00001.json.gz", "{\"text\":\"a page\"}\nbroken\n{\"text\":\" \"}\n");
    corpus.pack("c4.00002.json.gz", "{\"text\":\"\"}\n");
    corpus
}

#[test]
fn tasks_merged_are_to_the_byte_what_one_run_writes() {
    let corpus = uneven();
    let skip = ["--skip-bad-lines", "1"];
    let whole = corpus.shards("whole", &[&SMALL_PARTS[..], &skip].concat());
    // More tasks than files leave some without any.
    for count in [1, 2, 3, 7] {
        let out = format!("out-{count}");
        for index in (0..count).rev() {
            let task = format!("{index}/{count}");
            succeed(corpus.ingest(&out, &SMALL_PARTS).args(skip).args(["--task", &task]));
            let folder = corpus.path(&out).join(format!("task-{index:05}-of-{count:05}"));
            succeed(program(&["verify"]).arg(folder));
        }
        let said = succeed(&mut merge(&corpus, &[&out]));
        assert!(said.contains(&format!("{count} task")) && said.contains("181 documents"), "{said}");
        assert_same_content(&whole, &corpus.path(&out));
        succeed(program(&["verify"]).arg(corpus.path(&out)));
        // Whoever comes late finds everything done.
        let said = succeed(&mut merge(&corpus, &[&out]));
        assert!(said.contains("is merged already"), "{said}");
        let task = format!("0/{count}");
        let said = succeed(corpus.ingest(&out, &SMALL_PARTS).args(["--task", &task]));
        assert!(said.contains("is finished already"), "{said}");
        assert_same_content(&whole, &corpus.path(&out));
    }
}

#[test]
fn folders_of_several_machines_are_merged_into_a_third() {
    let corpus = Corpus::of(3, 40);
    let whole = corpus.shards("whole", &SMALL_PARTS);
    run_tasks(&corpus, "here", [0], 2);
    run_tasks(&corpus, "there", [1], 2);
    let said = fail(&mut merge(&corpus, &["here", "there"]));
    assert!(said.contains("say with --out where to merge them"), "{said}");
    let dirs = ["here/task-00000-of-00002", "there"];
    succeed(merge(&corpus, &dirs).arg("--out").arg(corpus.path("out")));
    assert_same_content(&whole, &corpus.path("out"));
}

#[test]
fn gaps_are_refused_by_number() {
    let corpus = Corpus::of(3, 10);
    run_tasks(&corpus, "out", [0, 2], 4);
    let before = content(&corpus.path("out"));
    let said = fail(&mut merge(&corpus, &["out"]));
    assert!(said.contains("of the 4 tasks these are missing: 1, 3; run them with --task I/4"), "{said}");
    assert!(before == content(&corpus.path("out")), "a refusal changes nothing");
    fs::create_dir(corpus.path("empty")).unwrap();
    let said = fail(&mut merge(&corpus, &["empty"]));
    assert!(said.contains("holds no folder of a task (task-00000-of-...)"), "{said}");
}

#[test]
fn overlaps_are_refused_with_both_folders() {
    let corpus = Corpus::of(3, 10);
    run_tasks(&corpus, "a", [0, 1], 2);
    run_tasks(&corpus, "b", [1], 2);
    let said = fail(merge(&corpus, &["a", "b"]).arg("--out").arg(corpus.path("out")));
    assert!(
        said.contains("task 1/2 is there twice, as ") && said.contains("/a/task-00001-of-00002"),
        "{said}"
    );
    // A folder under another task's name is no other task.
    fs::rename(corpus.path("b/task-00001-of-00002"), corpus.path("b/task-00000-of-00002")).unwrap();
    let dirs = ["b", "a/task-00001-of-00002"];
    let said = fail(merge(&corpus, &dirs).arg("--out").arg(corpus.path("out")));
    assert!(said.contains("holds task 1/2, which its name does not say"), "{said}");
}

#[test]
fn tasks_of_different_ingests_are_refused_with_what_differs() {
    let corpus = Corpus::of(2, 10);
    let mixed = |name: &str, options: &[&str]| {
        succeed(corpus.ingest(name, &["--task", "0/2"]).args(options));
        succeed(&mut corpus.ingest(name, &["--task", "1/2"]));
        fail(&mut merge(&corpus, &[name]))
    };
    let said = mixed("options", &["--held-out", "0.25"]);
    assert!(said.contains("what the options say is ") && said.contains("0.25"), "{said}");
    let tokenizer = corpus.write(
        "cased.json",
        include_str!("../../assets/bert-base-uncased/tokenizer.json")
            .replace("\"lowercase\": true", "\"lowercase\": false"),
    );
    let said = mixed("tokenizers", &["--tokenizer", tokenizer.to_str().unwrap()]);
    assert!(said.contains("the BLAKE3 of the tokenizer is "), "{said}");

    run_tasks(&corpus, "inputs", [0], 2);
    corpus.pack("c4.00001.json.gz", "{\"text\":\"another\"}\n");
    run_tasks(&corpus, "inputs", [1], 2);
    let said = fail(&mut merge(&corpus, &["inputs"]));
    assert!(said.contains("an input is c4.00001.json.gz ("), "{said}");

    let manifest = corpus.path("inputs/task-00001-of-00002/manifest.json");
    let text = fs::read_to_string(&manifest).unwrap();
    fs::write(&manifest, text.replace("tessera-ingest 0", "tessera-ingest 99.0")).unwrap();
    let said = fail(&mut merge(&corpus, &["inputs"]));
    assert!(said.contains("the program is tessera-ingest 99.0"), "{said}");
}

#[test]
fn a_task_that_failed_is_not_merged() {
    let corpus = Corpus::of(2, 10);
    corpus.pack("c4.00002.json.gz", "broken\n");
    run_tasks(&corpus, "out", [0, 1], 3);
    fail(corpus.ingest("out", &SMALL_PARTS).args(["--task", "2/3"]));
    let said = fail(&mut merge(&corpus, &["out"]));
    assert!(
        said.contains("task 2/3 is not finished: ") && said.contains("run it again with --task 2/3"),
        "{said}"
    );
    succeed(corpus.ingest("out", &SMALL_PARTS).args(["--task", "2/3", "--skip-bad-lines", "1"]));
    fs::remove_file(corpus.path("out/task-00000-of-00003/shard-00000-0000.tokens")).unwrap();
    let said = fail(&mut merge(&corpus, &["out"]));
    assert!(said.contains("shard-00000-0000.tokens is missing or has not its "), "{said}");
}

#[test]
fn divisions_are_not_mixed() {
    let corpus = Corpus::of(2, 10);
    run_tasks(&corpus, "out", [0], 4);
    let said = fail(&mut corpus.ingest("out", &["--task", "0/2"]));
    assert!(said.contains("comes from an ingest by 4 tasks, this one is by 2; say --task I/4"), "{said}");
    let said = fail(&mut corpus.ingest("out", &[]));
    assert!(
        said.contains("holds folders of an ingest by 4 tasks; make one of them with `ingest merge"),
        "{said}"
    );
    let said = fail(&mut corpus.ingest("other", &["--task", "4/4"]));
    assert!(said.contains("--task is 4/4, expected I/N with I from 0 to N-1"), "{said}");
}

#[test]
fn the_variables_of_clusters_are_read_and_named() {
    let corpus = Corpus::of(3, 10);
    let whole = corpus.shards("whole", &[]);
    let slurm = |id: &str| {
        let mut command = corpus.ingest("slurm", &[]);
        command
            .env("SLURM_ARRAY_TASK_ID", id)
            .env("SLURM_ARRAY_TASK_COUNT", "2")
            .env("SLURM_ARRAY_TASK_MIN", "1");
        command
    };
    let said = succeed(&mut slurm("2"));
    assert!(said.contains("task 1 of 2 (counted from 0), from SLURM_ARRAY_TASK_ID"), "{said}");
    assert!(said.contains("1 file of 3, "), "{said}");
    succeed(&mut slurm("1"));
    succeed(&mut merge(&corpus, &["slurm"]));
    assert_same_content(&whole, &corpus.path("slurm"));

    let kubernetes = |index: &str| {
        let mut command = corpus.ingest("kubernetes", &[]);
        command.env("JOB_COMPLETION_INDEX", index).env("JOB_COMPLETIONS", "2");
        command
    };
    for index in ["0", "1"] {
        succeed(&mut kubernetes(index));
    }
    succeed(&mut merge(&corpus, &["kubernetes"]));
    assert_same_content(&whole, &corpus.path("kubernetes"));
    let said = fail(corpus.ingest("none", &[]).env("JOB_COMPLETION_INDEX", "0"));
    assert!(said.contains("no variable JOB_COMPLETIONS says of how many"), "{said}");
    succeed(corpus.ingest("none", &["--task", "none"]).env("JOB_COMPLETION_INDEX", "0"));
    assert_same_content(&whole, &corpus.path("none"));
}

#[test]
fn a_merge_killed_at_any_moment_is_finished_by_the_next() {
    let corpus = Corpus::of(6, 80);
    let whole = corpus.shards("whole", &SMALL_PARTS);
    let mut interrupted = 0;
    for attempt in 0..12 {
        let out = format!("out-{attempt}");
        run_tasks(&corpus, &out, 0..3, 3);
        let mut child = merge(&corpus, &[&out]).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        // From the moment when the first file has been moved.
        let moved = |out: &PathBuf| fs::read_dir(out).unwrap().count() > 3;
        while child.try_wait().unwrap().is_none() && !moved(&corpus.path(&out)) {}
        std::thread::sleep(Duration::from_micros(noise() % (1 + 400 * attempt)));
        let _ = child.kill();
        child.wait().unwrap();
        interrupted +=
            u32::from(names(&corpus.path(&out)).iter().any(|path| path.to_string_lossy().contains("/task-")));
        succeed(&mut merge(&corpus, &[&out]));
        assert_same_content(&whole, &corpus.path(&out));
    }
    assert!(interrupted > 0, "no kill came before the end");
}
