//! In which order examples are trained on, and how batches are cut for the device. Pure functions of seed and epoch.

use serde::{Deserialize, Serialize};

use super::examples::Example;
use crate::step::step_seed;

/// Batches whose examples are sorted by length together where [`Order::Grouped`] is asked for.
const GROUP: usize = 64;

/// The order of training.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Order {
    /// A new random order every epoch.
    #[default]
    Shuffled,
    /// The same, but batches are made of examples of about the same length: less padding where padding is computed on,
    /// and less random batches.
    Grouped,
    /// The order of the file, every epoch the same. MosaicML's fine-tuning does this (its sampler is built with
    /// `shuffle=False` for training too), so that a seed changes nothing but the head's first values and dropout.
    File,
}

/// The batches of an epoch: numbers of examples, each once. All batches have `batch_size` but the last one of the order.
pub fn epoch(
    examples: &[Example],
    order: Order,
    batch_size: usize,
    seed: u64,
    epoch: u64,
) -> Vec<Vec<usize>> {
    let mut all: Vec<usize> = (0..examples.len()).collect();
    if order == Order::File {
        return all.chunks(batch_size).map(<[usize]>::to_vec).collect();
    }
    // Not the seeds of steps, which decide dropout.
    let mut random = Random { seed: step_seed(seed ^ 0x6f72_6465_7221_7221, epoch) as u64, drawn: 0 };
    random.shuffle(&mut all);
    if order == Order::Grouped {
        for group in all.chunks_mut(GROUP * batch_size) {
            group.sort_by_key(|&at| examples[at].tokens());
        }
    }
    let mut batches: Vec<Vec<usize>> = all.chunks(batch_size).map(<[usize]>::to_vec).collect();
    if order == Order::Grouped {
        random.shuffle(&mut batches);
    }
    batches
}

/// Cuts a batch into micro-batches of at most `tokens` slots (at least one example each), shortest examples first, so that
/// what is laid out as a rectangle for attention wastes little. The sum of the gradients is the batch's.
pub fn micro_batches(examples: &[Example], batch: &[usize], tokens: usize) -> Vec<Vec<usize>> {
    let mut sorted = batch.to_vec();
    sorted.sort_by_key(|&at| (examples[at].tokens(), at));
    let mut cut: Vec<Vec<usize>> = Vec::new();
    for at in sorted {
        // The newest example is the longest.
        match cut.last_mut() {
            Some(last) if (last.len() + 1) * examples[at].tokens() <= tokens => last.push(at),
            _ => cut.push(vec![at]),
        }
    }
    cut
}

/// SplitMix64 as a sequence.
struct Random {
    seed: u64,
    drawn: u64,
}

impl Random {
    /// A number below `bound`; the bias of the multiplication is below 2⁻³² for fewer than four billion examples.
    fn below(&mut self, bound: usize) -> usize {
        let bits = step_seed(self.seed, self.drawn) as u64;
        self.drawn += 1;
        ((u128::from(bits) * bound as u128) >> 64) as usize
    }

    /// Fisher and Yates.
    fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            items.swap(last, self.below(last + 1));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn examples(lengths: &[usize]) -> Vec<Example> {
        lengths
            .iter()
            .map(|&length| Example { ids: vec![7; length], first_segment: length, label: 0.0 })
            .collect()
    }

    proptest! {
        #[test]
        fn every_example_is_in_every_epoch_once(
            lengths in prop::collection::vec(1usize..40, 1..300), batch_size in 1usize..50, seed in any::<u64>(),
        ) {
            let examples = examples(&lengths);
            for order in [Order::Shuffled, Order::Grouped, Order::File] {
                let batches = epoch(&examples, order, batch_size, seed, 3);
                prop_assert_eq!(batches.len(), lengths.len().div_ceil(batch_size));
                prop_assert!(batches.iter().all(|batch| !batch.is_empty() && batch.len() <= batch_size));
                let mut all = batches.concat();
                all.sort();
                prop_assert_eq!(all, (0..lengths.len()).collect::<Vec<_>>());
            }
        }

        #[test]
        fn micro_batches_keep_to_the_budget(lengths in prop::collection::vec(1usize..40, 1..80), tokens in 1usize..200) {
            let examples = examples(&lengths);
            let batch: Vec<usize> = (0..lengths.len()).rev().collect();
            let cut = micro_batches(&examples, &batch, tokens);
            for micro in &cut {
                let longest = micro.iter().map(|&at| lengths[at]).max().unwrap();
                prop_assert!(micro.len() == 1 || micro.len() * longest <= tokens);
            }
            let mut all = cut.concat();
            all.sort();
            prop_assert_eq!(all, (0..lengths.len()).collect::<Vec<_>>());
        }
    }

    #[test]
    fn the_order_depends_on_seed_and_epoch_or_on_neither() {
        let examples = examples(&[3; 100]);
        let of = |order, seed, number| epoch(&examples, order, 8, seed, number);
        assert_eq!(of(Order::Shuffled, 1, 0), of(Order::Shuffled, 1, 0));
        assert_ne!(of(Order::Shuffled, 1, 0), of(Order::Shuffled, 1, 1));
        assert_ne!(of(Order::Shuffled, 1, 0), of(Order::Shuffled, 2, 0));
        assert_eq!(of(Order::File, 1, 0), of(Order::File, 2, 5));
        assert_eq!(of(Order::File, 1, 0)[0], [0, 1, 2, 3, 4, 5, 6, 7]);
    }

    #[test]
    fn grouped_batches_hold_examples_of_like_length() {
        let lengths: Vec<usize> = (0..640).map(|at| 1 + at * 7 % 64).collect();
        let examples = examples(&lengths);
        let spread = |order| -> usize {
            epoch(&examples, order, 10, 5, 0)
                .iter()
                .map(|batch| {
                    let lengths = batch.iter().map(|&at| lengths[at]);
                    lengths.clone().max().unwrap() - lengths.min().unwrap()
                })
                .sum()
        };
        assert!(spread(Order::Grouped) * 10 < spread(Order::Shuffled));
    }
}
