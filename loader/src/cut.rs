//! Where a global batch is cut: between ranks, then between the micro-batches of a rank. The samples keep their order, so
//! cutting decides nothing but who computes what with what.
//!
//! Lengths are given as their running sum: `ends[i]` tokens stand before sample `i`, and `ends[n]` in all.

use std::ops::Range;

/// Cuts a batch between ranks at the boundaries nearest to equal numbers of tokens; each rank has one sample at least.
/// `parts` becomes the first sample of each rank, then the number of samples. The tokens of a rank exceed an equal share
/// by at most the longest sample.
///
/// # Panics
/// When there are more ranks than samples.
pub(crate) fn cut_ranks(ends: &[u64], world_size: usize, parts: &mut Vec<usize>) {
    let samples = ends.len() - 1;
    assert!(world_size <= samples, "{samples} samples for {world_size} ranks");
    parts.clear();
    parts.push(0);
    let mut start = 0;
    for rank in 1..=world_size {
        let equal = (u128::from(ends[samples]) * rank as u128 / world_size as u128) as u64;
        let after = ends.partition_point(|tokens| *tokens < equal);
        let before = after.saturating_sub(1);
        let nearest = if equal - ends[before].min(equal) < ends[after] - equal { before } else { after };
        start = nearest.clamp(start + 1, samples - (world_size - rank));
        parts.push(start);
    }
}

/// How many micro-batches of up to `budget` tokens the samples in `range` need. A longer sample is one by itself.
pub(crate) fn count_micro_batches(ends: &[u64], range: Range<usize>, budget: u64) -> usize {
    let (mut count, mut start) = (0, range.start);
    while start < range.end {
        start = micro_batch_end(ends, start, range.end, budget);
        count += 1;
    }
    count
}

/// Cuts the samples in `range` into at most `count` micro-batches, as many as [`count_micro_batches`] says or more, so
/// that the largest is as small as can be: none is left with a tiny rest. `cuts` becomes the end of each.
pub(crate) fn cut_micro_batches(
    ends: &[u64],
    range: Range<usize>,
    budget: u64,
    count: usize,
    cuts: &mut Vec<usize>,
) {
    let total = ends[range.end] - ends[range.start];
    let enough = |size| count_micro_batches(ends, range.clone(), size) <= count;
    // The smallest size with which so many are enough: at least an equal share, mostly about half a sample above it, and
    // at most the budget. So first upwards in growing steps, then in between.
    let (mut low, mut high, mut step) = (total.div_ceil(count.max(1) as u64).min(budget), budget, 1);
    while low + step < budget {
        if enough(low + step) {
            high = low + step;
            break;
        }
        low += step + 1;
        step *= 2;
    }
    while low < high {
        let middle = low + (high - low) / 2;
        match enough(middle) {
            true => high = middle,
            false => low = middle + 1,
        }
    }
    cuts.clear();
    let mut start = range.start;
    while start < range.end {
        start = micro_batch_end(ends, start, range.end, high);
        cuts.push(start);
    }
}

/// The end of the micro-batch that begins with sample `start`: as many samples as its size takes.
fn micro_batch_end(ends: &[u64], start: usize, last: usize, size: u64) -> usize {
    let fits = ends[start + 1..=last].partition_point(|end| end - ends[start] <= size);
    start + fits.max(1)
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    fn running_sum(lengths: &[u64]) -> Vec<u64> {
        let sums = lengths.iter().scan(0, |sum, len| {
            *sum += len;
            Some(*sum)
        });
        std::iter::once(0).chain(sums).collect()
    }

    fn sizes(ends: &[u64], cuts: &[usize], first: usize) -> Vec<u64> {
        let starts = std::iter::once(first).chain(cuts.iter().copied());
        starts.zip(cuts).map(|(start, end)| ends[*end] - ends[start]).collect()
    }

    proptest! {
        #[test]
        fn ranks_have_nearly_equal_parts_of_everything(
            lengths in vec(1..200u64, 1..400), world_size in 1..70usize,
        ) {
            prop_assume!(world_size <= lengths.len());
            let ends = running_sum(&lengths);
            let mut parts = Vec::new();
            cut_ranks(&ends, world_size, &mut parts);
            prop_assert_eq!(parts.len(), world_size + 1);
            prop_assert_eq!((parts[0], parts[world_size]), (0, lengths.len()));
            let longest = *lengths.iter().max().unwrap();
            for part in parts.windows(2) {
                prop_assert!(part[0] < part[1]);
                let tokens = ends[part[1]] - ends[part[0]];
                prop_assert!(tokens <= ends[lengths.len()] / world_size as u64 + longest);
            }
        }

        /// Complete, within the budget, no more than need be, and no other cut into so many has a smaller largest part.
        #[test]
        fn micro_batches_are_few_and_as_even_as_can_be(
            lengths in vec(1..60u64, 1..14), budget in 1..200u64, more in 0..3usize,
        ) {
            let ends = running_sum(&lengths);
            let range = lengths.len() / 5..lengths.len();
            let few = count_micro_batches(&ends, range.clone(), budget);
            let mut cuts = Vec::new();
            cut_micro_batches(&ends, range.clone(), budget, few + more, &mut cuts);
            prop_assert_eq!(*cuts.last().unwrap(), range.end);
            prop_assert!(cuts.len() <= few + more);
            let largest = *sizes(&ends, &cuts, range.start).iter().max().unwrap();
            prop_assert!(largest <= budget.max(*lengths.iter().max().unwrap()));

            // All ways to cut: a bit for each boundary.
            let inner = range.len() - 1;
            for chosen in 0..1u32 << inner {
                let all = (0..inner).filter(|bit| chosen >> bit & 1 == 1).map(|bit| range.start + bit + 1);
                let all: Vec<usize> = all.chain([range.end]).collect();
                let of_these = *sizes(&ends, &all, range.start).iter().max().unwrap();
                let oversize = |size: u64| size > budget;
                if !oversize(of_these) {
                    prop_assert!(all.len() >= few);
                    prop_assert!(all.len() > few + more || of_these >= largest);
                }
            }
        }
    }

    /// Ragged samples as a training has them: where a greedy cut leaves a rest of any size, these differ little.
    #[test]
    fn no_micro_batch_is_left_with_a_tiny_rest() {
        for seed in 1..50u64 {
            let lengths: Vec<u64> =
                (0..4096).map(|i: u64| 32 + (i + seed).wrapping_mul(0x9e37_79b9_7f4a_7c15) % 97).collect();
            let ends = running_sum(&lengths);
            let count = count_micro_batches(&ends, 0..4096, 16_384);
            let mut cuts = Vec::new();
            cut_micro_batches(&ends, 0..4096, 16_384, count, &mut cuts);
            let sizes = sizes(&ends, &cuts, 0);
            let (least, most) = (*sizes.iter().min().unwrap(), *sizes.iter().max().unwrap());
            assert!(sizes.len() == count && most <= 16_384);
            assert!(least > most - most / 10, "{sizes:?}");
        }
    }
}
