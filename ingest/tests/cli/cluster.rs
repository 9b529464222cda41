//! The examples for clusters are what their schedulers understand, and do what they promise.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use assert_cmd::cargo::cargo_bin;
use yaml_rust2::{Yaml, YamlLoader};

use crate::fixtures::{Corpus, assert_same_content, fail, program, succeed};

fn example(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/cluster").join(name)
}

/// All words that look like options are options of the command.
fn assert_options_exist<'a>(command: &str, words: impl IntoIterator<Item = &'a str>) {
    let help = succeed(&mut program(&[command, "--help"]));
    let options: Vec<_> = words.into_iter().filter(|word| word.starts_with("--")).collect();
    for option in options {
        assert!(help.contains(&format!("{option} ")), "{option} is no option of ingest {command}:\n{help}");
    }
}

#[cfg(unix)]
#[test]
fn the_slurm_array_ingests_everything() {
    let path = example("slurm.sh");
    succeed(Command::new("bash").arg("-n").arg(&path));
    let script = fs::read_to_string(&path).unwrap();
    // Slurm reads its options up to the first command only.
    let (comments, commands) = script.split_once("\nset -euo pipefail\n").unwrap();
    assert!(comments.lines().all(|line| line.starts_with('#')), "{comments}");
    let options: Vec<_> = comments.lines().filter_map(|line| line.strip_prefix("#SBATCH --")).collect();
    let array = options.iter().find_map(|option| option.strip_prefix("array=0-")).unwrap();
    let tasks = array.parse::<u32>().unwrap() + 1;
    assert!(script.contains(&format!("TASKS=${{TASKS:-{tasks}}}")), "{script}");
    let ingest = commands.lines().find(|line| line.starts_with("exec ingest c4 ")).unwrap();
    assert_options_exist("c4", ingest.split_whitespace());

    let corpus = Corpus::of(5, 20);
    let whole = corpus.shards("whole", &[]);
    fs::create_dir(corpus.path("corpus")).unwrap();
    for file in 0..5 {
        let name = format!("c4.{file:05}.json.gz");
        fs::rename(corpus.path(&name), corpus.path("corpus").join(name)).unwrap();
    }
    let folder = cargo_bin!("ingest").parent().unwrap().to_owned();
    let search = env::join_paths([folder].into_iter().chain(env::split_paths(&env::var_os("PATH").unwrap())));
    let run = |id: &str| {
        let mut command = Command::new("bash");
        command
            .arg(&path)
            .arg(corpus.path("corpus"))
            .arg(corpus.path("out"))
            .env("PATH", search.as_ref().unwrap());
        command.env("TASKS", "3").env("SLURM_ARRAY_TASK_ID", id).env("SLURM_CPUS_PER_TASK", "2");
        // As Slurm sets them when task 1 alone is repeated.
        command.env("SLURM_ARRAY_TASK_COUNT", "1").env("SLURM_ARRAY_TASK_MIN", "1");
        command
    };
    for id in ["2", "0", "1"] {
        succeed(&mut run(id));
    }
    assert!(fail(&mut run("3")).contains("--task is 3/3"));
    succeed(program(&["merge"]).arg(corpus.path("out")));
    assert_same_content(&whole, &corpus.path("out"));
}

fn job(name: &str) -> Yaml {
    let mut documents = YamlLoader::load_from_str(&fs::read_to_string(example(name)).unwrap()).unwrap();
    assert_eq!(documents.len(), 1, "{name}");
    let job = documents.remove(0);
    assert_eq!((job["apiVersion"].as_str(), job["kind"].as_str()), (Some("batch/v1"), Some("Job")), "{name}");
    job
}

/// The command of a job's only container, its paths below the corpus instead of the volume.
fn command(job: &Yaml, corpus: &Corpus) -> Vec<String> {
    let containers = job["spec"]["template"]["spec"]["containers"].as_vec().unwrap();
    assert_eq!(containers.len(), 1);
    let mount = containers[0]["volumeMounts"][0]["mountPath"].as_str().unwrap();
    let here = |word: &str| match word.strip_prefix(&format!("{mount}/")) {
        Some(rest) => corpus.path(rest).to_string_lossy().into_owned(),
        None => word.to_owned(),
    };
    containers[0]["command"].as_vec().unwrap().iter().map(|word| here(word.as_str().unwrap())).collect()
}

#[test]
fn the_kubernetes_job_ingests_everything() {
    let corpus = Corpus::of(5, 20);
    let whole = corpus.shards("whole", &[]);
    fs::create_dir_all(corpus.path("c4/en")).unwrap();
    for file in 0..5 {
        let name = format!("c4.{file:05}.json.gz");
        fs::rename(corpus.path(&name), corpus.path("c4/en").join(name)).unwrap();
    }
    let (ingest, merge) = (job("kubernetes.yaml"), job("kubernetes-merge.yaml"));
    assert_eq!(ingest["spec"]["completionMode"].as_str(), Some("Indexed"));
    let completions = ingest["spec"]["completions"].as_i64().unwrap();
    let variable = &ingest["spec"]["template"]["spec"]["containers"][0]["env"][0];
    assert_eq!(variable["name"].as_str(), Some("JOB_COMPLETIONS"));
    assert_eq!(variable["value"].as_str(), Some(&*completions.to_string()));

    let words = command(&ingest, &corpus);
    assert_eq!(words[..2], ["ingest", "c4"]);
    assert_options_exist("c4", words.iter().map(String::as_str));
    let run = |words: &[String], index: i64| {
        let mut command = program(&words[1..].iter().map(String::as_str).collect::<Vec<_>>());
        command
            .env("JOB_COMPLETION_INDEX", index.to_string())
            .env("JOB_COMPLETIONS", completions.to_string());
        succeed(&mut command);
    };
    for index in 0..completions {
        run(&words, index);
    }
    run(&command(&merge, &corpus), 0);
    assert_same_content(&whole, &corpus.path("shards"));
}
