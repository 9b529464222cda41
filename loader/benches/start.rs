//! How long does it take to open a large corpus, and to have the first batch when a training is taken up at some step?

use std::hint::black_box;
use std::sync::Arc;

use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use loader::{Corpus, Loader, LoaderConfig, SamplePolicy};

#[allow(dead_code, unreachable_pub)]
#[path = "../tests/it/fixture.rs"]
mod fixture;

/// Files with holes in the place of tokens: 1 TB that takes 40 MB of disk.
const SHARDS: u64 = 10_000;

/// Memory of this process in KiB, that which only it has and that of files, where the system tells.
fn memory() -> Option<[u64; 2]> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let field = |name| {
        status.lines().find_map(|line| line.strip_prefix(name)?.trim().strip_suffix(" kB")?.parse().ok())
    };
    Some([field("RssAnon:")?, field("RssFile:")?])
}

fn open(criterion: &mut Criterion) {
    let dir = tempfile::tempdir().unwrap();
    fixture::write_sparse_folder(dir.path(), SHARDS);
    let before = memory();
    let corpus = Corpus::open(&[dir.path()]).unwrap();
    if let (Some(before), Some(after)) = (before, memory()) {
        let [own, files] = [after[0] - before[0], after[1] - before[1]];
        println!("{SHARDS} open shards take {own} KiB of memory, and {files} KiB of their files are mapped");
    }
    drop(corpus);
    let mut group = criterion.benchmark_group("open");
    group.sample_size(10);
    group.bench_function(format!("{SHARDS}_shards_of_100_MB"), |bencher| {
        bencher.iter_batched(
            || (),
            |()| black_box(Corpus::open(&[dir.path()]).unwrap()),
            BatchSize::PerIteration,
        );
    });
    group.finish();
}

fn resume(criterion: &mut Criterion) {
    let (_dir, corpus) = fixture::corpus(4, 25_000, 1000);
    let mut group = criterion.benchmark_group("resume/4096x128");
    group.sample_size(20);
    for policy in [SamplePolicy::Truncate, SamplePolicy::Chunk] {
        for step in [0, 1_000, 1_000_000, 1_000_000_000_000] {
            let config = LoaderConfig { policy, ..LoaderConfig::default() };
            group.bench_function(format!("{policy:?}/step_{step}"), |bencher| {
                bencher.iter_with_large_drop(|| {
                    let mut loader =
                        Loader::start(Arc::clone(&corpus), &config, 0, 1, step, u64::MAX).unwrap();
                    assert_eq!(loader.next().unwrap().unwrap().step, step);
                    loader
                });
            });
        }
    }
    group.finish();
}

criterion_group!(benches, open, resume);
criterion_main!(benches);
