//! How many tokens a second come through the whole loader (order, gather, mask, cut, hand over) at a batch of 4096
//! samples of 128 tokens, for each policy and one or two workers?

use std::sync::Arc;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use loader::{Loader, LoaderConfig, SamplePolicy};

#[allow(dead_code, unreachable_pub)]
#[path = "../tests/it/fixture.rs"]
mod fixture;

/// Documents of up to 1000 tokens: half of those of C4 are shorter than 314.
const SHARDS: u64 = 4;
const DOCUMENTS: u64 = 25_000;
const LONGEST: u64 = 1000;

fn gather(criterion: &mut Criterion) {
    let (_dir, corpus) = fixture::corpus(SHARDS, DOCUMENTS, LONGEST);
    let mut group = criterion.benchmark_group("gather/4096x128");
    for policy in [SamplePolicy::Truncate, SamplePolicy::Chunk] {
        for workers in [1, 2] {
            let config = LoaderConfig { policy, workers, ..LoaderConfig::default() };
            let mut loader = Loader::builder(Arc::clone(&corpus), &config).start().unwrap();
            let tokens = loader.next().unwrap().unwrap().tokens;
            group.throughput(Throughput::Elements(tokens));
            group.bench_function(format!("{policy:?}/{workers}_workers"), |bencher| {
                bencher.iter(|| loader.next().unwrap().unwrap().masked_tokens);
            });
        }
    }
    group.finish();
}

criterion_group!(benches, gather);
criterion_main!(benches);
