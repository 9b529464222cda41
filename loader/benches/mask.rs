//! How many tokens a second does a core mask, with each kind of instructions that it has? And what does counting the masked
//! tokens of other ranks cost?

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use loader::shard::{SpecialTokens, TokenizerInfo, Tokens};
use loader::{Instructions, Masker, Room, SampleId};

const SAMPLES: usize = 256;
const TEXT: usize = 126;

fn tokenizer() -> TokenizerInfo {
    TokenizerInfo {
        file: "tokenizer.json".into(),
        blake3: String::new(),
        vocab_size: 30_522,
        model_vocab_size: 30_528,
        special: SpecialTokens { pad: 0, unk: 100, cls: 101, sep: 102, mask: 103 },
    }
}

fn mask(criterion: &mut Criterion) {
    let text: Vec<u16> =
        (0..(SAMPLES * TEXT) as u64).map(|i| 1000 + (i * 2_654_435_761 % 29_000) as u16).collect();
    let (mut ids, mut positions, mut labels) =
        (vec![0; text.len()], vec![0; text.len()], vec![0; text.len()]);
    let masker = Masker::new(17, &tokenizer());
    let draw = masker.draw(0.3);
    let mut group = criterion.benchmark_group("mask/30%/126");
    group.throughput(Throughput::Elements(text.len() as u64));
    for kind in Instructions::ALL {
        let Some(masker) = masker.using(kind) else { continue };
        group.bench_function(format!("{kind:?}"), |bencher| {
            bencher.iter(|| {
                let mut count = 0;
                for (number, (text, ids)) in text.chunks(TEXT).zip(ids.chunks_mut(TEXT)).enumerate() {
                    let id = SampleId { epoch: 0, sample: number as u64 };
                    let room = Room { ids, positions: &mut positions[count..], labels: &mut labels[count..] };
                    count += masker.mask(&draw, id, Tokens::U16(text), number * TEXT, room).chosen;
                }
                black_box(count)
            });
        });
    }
    group.bench_function("count_only", |bencher| {
        bencher.iter(|| {
            let id = |number: usize| SampleId { epoch: 0, sample: number as u64 };
            let samples = black_box(&text).chunks(TEXT).enumerate();
            samples
                .map(|(number, text)| masker.count(&draw, id(number), Tokens::U16(text)).chosen)
                .sum::<usize>()
        });
    });
    group.finish();
}

criterion_group!(benches, mask);
criterion_main!(benches);
