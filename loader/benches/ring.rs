//! What does handing a batch over cost? Batches of one short sample, so that little else is left to do.

use std::sync::Arc;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use loader::{Loader, LoaderConfig};

#[allow(dead_code, unreachable_pub)]
#[path = "../tests/it/fixture.rs"]
mod fixture;

fn hand_over(criterion: &mut Criterion) {
    let (_dir, corpus) = fixture::corpus(1, 1000, 10);
    let mut group = criterion.benchmark_group("ring/batches_of_one_sample");
    group.throughput(Throughput::Elements(1));
    for (workers, slots) in [(1, 2), (1, 64), (2, 8), (2, 64)] {
        let config = LoaderConfig { batch_size: 1, seq_len: 8, workers, slots, ..LoaderConfig::default() };
        let mut loader = Loader::builder(Arc::clone(&corpus), &config).start().unwrap();
        group.bench_function(format!("{workers}_workers/{slots}_slots"), |bencher| {
            bencher.iter(|| loader.next().unwrap().unwrap().step);
        });
    }
    group.finish();
}

criterion_group!(benches, hand_over);
criterion_main!(benches);
