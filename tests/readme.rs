//! What the README shows exists: files, make targets, and the options of the two programs.

use std::fs;
use std::path::{Path, PathBuf};

use tests::{program, succeed};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// The lines of all ```sh blocks, continued lines joined.
fn commands() -> Vec<String> {
    let readme = fs::read_to_string(root().join("README.md")).unwrap();
    let mut found = Vec::new();
    let mut inside = false;
    let mut line_so_far = String::new();
    for line in readme.lines() {
        if line.starts_with("```") {
            inside = line.trim() == "```sh";
        } else if inside {
            match line.strip_suffix('\\') {
                Some(part) => line_so_far += part,
                None => found.push(std::mem::take(&mut line_so_far) + line),
            }
        }
    }
    found
}

#[test]
fn every_linked_file_exists() {
    let readme = fs::read_to_string(root().join("README.md")).unwrap();
    let mut links = 0;
    for piece in readme.split("](").skip(1) {
        let target = piece.split([')', '#']).next().unwrap();
        if target.is_empty() || target.starts_with("http") {
            continue;
        }
        links += 1;
        assert!(root().join(target).exists(), "README.md links to {target}, which does not exist");
    }
    assert!(links > 5, "only {links} links found");
}

#[test]
fn every_command_of_the_readme_is_understood() {
    let makefile = fs::read_to_string(root().join("Makefile")).unwrap();
    let mut checked = 0;
    for command in commands() {
        let words: Vec<&str> = command.split('#').next().unwrap().split_whitespace().collect();
        let Some(first) = words.first() else { continue };
        if *first == "make" {
            let target = words.get(1).expect("make with a target");
            assert!(
                makefile.contains(&format!("\n{target}:")),
                "README.md: no target {target} in the Makefile"
            );
            checked += 1;
        }
        let Some(name) = ["ingest", "train"].into_iter().find(|name| first.ends_with(&format!("/{name}")))
        else {
            continue;
        };
        let mut help = program(name);
        if let Some(sub) = words.get(1).filter(|word| !word.starts_with('-')) {
            help.arg(sub);
        }
        let help = succeed(help.arg("--help"));
        for option in words.iter().filter(|word| word.starts_with("--")) {
            let option = option.split('=').next().unwrap();
            assert!(
                help.contains(option),
                "README.md shows {option} in {command:?}, which `--help` does not know:\n{help}"
            );
        }
        checked += 1;
    }
    assert!(checked > 5, "only {checked} commands found");
}
