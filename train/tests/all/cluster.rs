//! The examples for clusters are what their launchers understand, and start what they promise.

use std::env;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use train::distributed::Launch;
use yaml_rust2::{Yaml, YamlLoader};

use crate::command::{Bench, succeed};

fn example(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/cluster").join(name)
}

/// The words that a script hands to `launcher`, in a scratch folder, for `arguments`.
fn launched(bench: &Bench, script: &str, launcher: &str, arguments: &[&str]) -> Vec<String> {
    let fake = bench.path("bin").join(launcher);
    fs::create_dir_all(bench.path("bin")).unwrap();
    fs::write(&fake, "#!/bin/sh\nprintf '%s\\n' \"$@\"\n").unwrap();
    fs::set_permissions(&fake, fs::Permissions::from_mode(0o755)).unwrap();
    let search = env::join_paths(
        [bench.path("bin")].into_iter().chain(env::split_paths(&env::var_os("PATH").unwrap())),
    );
    let mut command = Command::new("bash");
    command.arg(example(script)).args(arguments).current_dir(bench.path(""));
    command.env("PATH", search.unwrap()).env("GPUS", "2");
    let out = succeed(command).stdout;
    String::from_utf8(out).unwrap().lines().map(str::to_owned).collect()
}

/// All words after `train` that look like options are options of the program.
fn assert_options_exist(bench: &Bench, words: &[String]) {
    let help = String::from_utf8(succeed(bench.command(&["--help"])).stdout).unwrap();
    let at = words.iter().position(|word| word == "train").unwrap();
    for option in words[at..].iter().filter(|word| word.starts_with("--")) {
        assert!(help.contains(&format!("{option} ")), "{option} is no option of train:\n{help}");
    }
}

fn assert_ends(words: &[String], end: &[&str]) {
    let last = &words[words.len().saturating_sub(end.len())..];
    assert_eq!(last, end, "{words:?}");
}

const ARGUMENTS: [&str; 6] = ["--shards", "shards", "--out", "run", "--preset", "tiny"];

#[test]
fn scripts_start_a_run_and_continue_one_that_is_there() {
    let bench = Bench::new();
    for (script, launcher) in [("one-machine.sh", "torchrun"), ("slurm.sh", "srun")] {
        let _ = fs::remove_dir_all(bench.path("run"));
        let words = launched(&bench, script, launcher, &ARGUMENTS);
        assert_ends(&words, &[&["train"], ARGUMENTS.as_slice()].concat());
        assert_options_exist(&bench, &words);
        fs::create_dir_all(bench.path("run")).unwrap();
        fs::write(bench.path("run/config.toml"), "").unwrap();
        let words = launched(&bench, script, launcher, &ARGUMENTS);
        assert_ends(&words, &["train", "--resume", "run"]);
    }
}

/// What Slurm sets for the job that `slurm.sh` asks for makes 64 ranks that meet on the first host.
#[test]
fn the_slurm_job_is_64_ranks() {
    let script = fs::read_to_string(example("slurm.sh")).unwrap();
    // Slurm reads its options up to the first command only.
    let (comments, _) = script.split_once("\nset -euo pipefail\n").unwrap();
    assert!(comments.lines().all(|line| line.starts_with('#')), "{comments}");
    let option = |name: &str| -> usize {
        let prefix = format!("#SBATCH --{name}=");
        comments.lines().find_map(|line| line.strip_prefix(&prefix)).unwrap().parse().unwrap()
    };
    let (nodes, tasks) = (option("nodes"), option("ntasks-per-node"));
    assert_eq!((nodes * tasks, tasks), (64, option("gpus-per-node")));
    let last = nodes * tasks - 1;
    let variables = [
        ("SLURM_PROCID", last.to_string()),
        ("SLURM_NTASKS", (nodes * tasks).to_string()),
        ("SLURM_LOCALID", (last % tasks).to_string()),
        ("SLURM_JOB_NODELIST", format!("gpu[01-{nodes:02}]")),
        ("SLURM_STEP_ID", "0".to_owned()),
    ];
    let read =
        |name: &str| variables.iter().find(|(known, _)| *known == name).map(|(_, value)| value.clone());
    let launch = Launch::read(&read).unwrap().unwrap();
    assert_eq!((launch.rank, launch.world_size, launch.local_rank), (63, 64, 7));
    assert_eq!(launch.address, "gpu01");
}

#[test]
fn the_kubernetes_job_starts_a_rank_for_each_gpu() {
    let bench = Bench::new();
    let text = fs::read_to_string(example("kubernetes.yaml")).unwrap();
    let documents = YamlLoader::load_from_str(&text).unwrap();
    let [service, job] = documents.as_slice() else { panic!("a service and a job") };
    let name = job["metadata"]["name"].as_str().unwrap();
    let pod = &job["spec"]["template"]["spec"];
    // Pods are found by HOST.SUBDOMAIN, which is the service's name.
    assert_eq!((service["kind"].as_str(), job["kind"].as_str()), (Some("Service"), Some("Job")));
    assert_eq!(service["metadata"]["name"].as_str(), pod["subdomain"].as_str());
    assert_eq!(service["spec"]["selector"]["job-name"].as_str(), Some(name));
    assert_eq!(job["spec"]["completionMode"].as_str(), Some("Indexed"));

    let container = &pod["containers"][0];
    let words = |list: &Yaml| -> Vec<String> {
        list.as_vec().unwrap().iter().map(|word| word.as_str().unwrap().to_owned()).collect()
    };
    let command = words(&container["command"]);
    let script = &command[2];
    assert_eq!((command[0].as_str(), command[1].as_str(), command[3].as_str()), ("bash", "-c", "train"));
    let pods = job["spec"]["completions"].as_i64().unwrap();
    assert_eq!(job["spec"]["parallelism"].as_i64(), Some(pods));
    let gpus = container["resources"]["limits"]["nvidia.com/gpu"].as_i64().unwrap();
    assert!(script.contains(&format!("--nnodes {pods} --nproc-per-node {gpus} ")), "{script}");
    assert!(script.contains(&format!("--master-addr {name}-0.{name} ")), "{script}");
    let mut check = Command::new("bash");
    check.args(["-n", "-c", script]);
    succeed(check);
    let all = [vec!["train".to_owned()], words(&container["args"])].concat();
    assert_options_exist(&bench, &all);
}
