//! Writes the documentation of every crate in `Cargo.lock` as C4-schema files: a corpus of English that is
//! on any machine that can build this workspace, and the same on all of them.
//!
//! ```text
//! cargo run --release -p ingest --example crate_docs -- demo/corpus
//! ```
//!
//! One page a document: each Markdown file (README, CHANGELOG, guides), and the doc comments of each source
//! file joined in order. Code blocks, badges and link definitions are dropped. Of a crate that is locked in
//! several versions only the newest is read, since two versions of one page would put nearly the same text
//! on both sides of the held-out split.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use flate2::{Compression, write::GzEncoder};
use serde_json::{Value, json};

/// Files written, so that several ingest workers have something to share.
const FILES: usize = 8;
/// Pages with fewer bytes of prose are stubs ("See the crate documentation.") and teach nothing.
const MIN_PAGE_BYTES: usize = 200;

fn main() -> Result<()> {
    let Some(out) = std::env::args_os().nth(1).map(PathBuf::from) else {
        bail!("usage: crate_docs OUT_DIR");
    };
    fs::create_dir_all(&out).with_context(|| format!("cannot create {}", out.display()))?;
    let mut writers = (0..FILES)
        .map(|i| {
            let path = out.join(format!("crate-docs.{i:05}-of-{FILES:05}.json.gz"));
            let file =
                fs::File::create(&path).with_context(|| format!("cannot create {}", path.display()))?;
            Ok(GzEncoder::new(BufWriter::new(file), Compression::default()))
        })
        .collect::<Result<Vec<_>>>()?;

    let (mut pages, mut bytes) = (0_usize, 0_usize);
    for package in newest_packages()? {
        for path in documentation_files(&package.folder)? {
            // A source file in another encoding is no page of English.
            let Ok(content) = fs::read_to_string(&path) else { continue };
            let prose = match path.extension() {
                Some(ext) if ext == "rs" => prose(doc_comments(&content)),
                _ => prose(content.lines()),
            };
            if prose.len() < MIN_PAGE_BYTES || !is_english(&prose) {
                continue;
            }
            let page = path.strip_prefix(&package.folder)?.display();
            let row = json!({
                "text": prose,
                "timestamp": "1970-01-01T00:00:00Z",
                "url": format!("crate:{}@{}/{page}", package.name, package.version),
            });
            let writer = &mut writers[pages % FILES];
            serde_json::to_writer(&mut *writer, &row)?;
            writer.write_all(b"\n")?;
            pages += 1;
            bytes += prose.len();
        }
    }
    for writer in writers {
        writer.finish()?.into_inner().map_err(|e| e.into_error())?.sync_all()?;
    }
    ensure!(pages > 0, "no documentation found; run `cargo fetch --locked` first");
    println!("{pages} pages, {:.1} MB of text in {FILES} files under {}", bytes as f64 / 1e6, out.display());
    Ok(())
}

struct Package {
    name: String,
    version: String,
    folder: PathBuf,
}

/// Every registry package of the lock file, sorted by name, the newest version of each.
fn newest_packages() -> Result<Vec<Package>> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .args(["metadata", "--format-version", "1", "--locked"])
        .output()
        .context("cannot start cargo")?;
    ensure!(
        output.status.success(),
        "cargo metadata failed: {}",
        String::from_utf8_lossy(&output.stderr).trim()
    );
    let metadata: Value = serde_json::from_slice(&output.stdout)?;
    let mut newest = BTreeMap::<String, (Vec<u64>, Package)>::new();
    for package in metadata["packages"].as_array().context("cargo metadata has no packages")? {
        let (Some(name), Some(version), Some(manifest)) =
            (package["name"].as_str(), package["version"].as_str(), package["manifest_path"].as_str())
        else {
            bail!("cargo metadata has a package without name, version or path: {package}");
        };
        // The workspace's own crates have no source; they would make the corpus change with every commit.
        if package["source"].is_null() {
            continue;
        }
        let order: Vec<u64> = version.split(['.', '-', '+']).map_while(|part| part.parse().ok()).collect();
        let folder = Path::new(manifest).parent().context("a manifest path without a folder")?.to_owned();
        let candidate = Package { name: name.to_owned(), version: version.to_owned(), folder };
        match newest.get(name) {
            Some((known, _)) if *known >= order => {}
            _ => drop(newest.insert(name.to_owned(), (order, candidate))),
        }
    }
    Ok(newest.into_values().map(|(_, package)| package).collect())
}

/// The Markdown and Rust files below a folder, sorted by path.
fn documentation_files(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).with_context(|| format!("cannot read {}", folder.display()))? {
            let entry = entry?;
            let path = entry.path();
            if entry.file_type()?.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|ext| ext == "rs" || ext == "md") {
                found.push(path);
            }
        }
    }
    found.sort();
    Ok(found)
}

/// The text of `///`, `//!` and `/** */` comments of a Rust source, blocks separated by an empty line.
fn doc_comments(source: &str) -> impl Iterator<Item = &str> {
    let mut in_block = false;
    source.lines().map(move |line| {
        let line = line.trim();
        if in_block {
            let (text, closed) = line.split_once("*/").map_or((line, false), |(text, _)| (text, true));
            in_block = !closed;
            return text.trim_start_matches('*').strip_prefix(' ').unwrap_or(text.trim_start_matches('*'));
        }
        for marker in ["/**", "/*!"] {
            if let Some(rest) = line.strip_prefix(marker).filter(|rest| !rest.starts_with('*')) {
                let (text, closed) = rest.split_once("*/").map_or((rest, false), |(text, _)| (text, true));
                in_block = !closed;
                return text.trim_start();
            }
        }
        let comment = line.strip_prefix("///").or_else(|| line.strip_prefix("//!"));
        comment.map_or("", |text| text.strip_prefix(' ').unwrap_or(text))
    })
}

/// Markdown lines without code blocks, badges, images, link definitions and HTML; runs of empty lines become one.
fn prose<'a>(lines: impl Iterator<Item = &'a str>) -> String {
    let mut text = String::new();
    let mut fence: Option<&str> = None;
    for line in lines {
        let trimmed = line.trim();
        if let Some(open) = fence {
            if trimmed.starts_with(open) {
                fence = None;
            }
            continue;
        }
        fence = ["```", "~~~"].into_iter().find(|mark| trimmed.starts_with(mark));
        let link_definition = trimmed.starts_with('[') && trimmed.contains("]: ");
        let markup = ["[![", "![", "<", "|", "    "].iter().any(|mark| line.starts_with(mark));
        if fence.is_some() || link_definition || markup {
            continue;
        }
        if !trimmed.is_empty() {
            text.push_str(trimmed);
            text.push('\n');
        } else if !text.is_empty() && !text.ends_with("\n\n") {
            text.push('\n');
        }
    }
    text.truncate(text.trim_end().len());
    text
}

/// Whether most characters are ASCII letters and spaces: translated READMEs and tables of numbers are not.
fn is_english(text: &str) -> bool {
    let plain = text.bytes().filter(|b| b.is_ascii_alphabetic() || *b == b' ').count();
    plain * 10 >= text.len() * 7
}
