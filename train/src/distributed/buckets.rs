//! Where gradients lie: one after the other in one piece of memory, in the order in which a backward pass completes them, cut
//! into buckets that are exchanged as soon as they are complete.

use std::ops::Range;

/// A bucket ends with the parameter that fills it to this many elements: 25 MiB of float32, as in PyTorch's DDP. Large enough
/// for the network's full speed, small enough that the first is under way early and the last is over soon.
pub(super) const BUCKET_ELEMENTS: usize = 25 << 18;

/// Elements to a multiple of which every parameter and every rank's share begins: 256 bytes of float32.
const ALIGNMENT: usize = 64;

/// Where one parameter lies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place {
    /// Its number in the model's order.
    pub(super) parameter: usize,
    /// Its elements.
    pub(super) range: Range<usize>,
    /// Its bucket.
    pub(super) bucket: usize,
}

/// The places of all parameters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Buckets {
    /// In the order of memory.
    pub(super) places: Vec<Place>,
    /// The elements of each bucket, gaps included: a multiple of the number of ranks.
    pub(super) ranges: Vec<Range<usize>>,
}

/// A part of a parameter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Piece {
    /// The parameter's number.
    pub(super) parameter: usize,
    /// Its elements.
    pub(super) range: Range<usize>,
}

impl Buckets {
    /// Parameters of `sizes` elements in the order of the forward pass, for `world_size` ranks.
    pub(super) fn new(sizes: &[usize], world_size: usize, bucket_elements: usize) -> Buckets {
        let (mut places, mut ranges, mut start, mut end) =
            (Vec::new(), Vec::<Range<usize>>::new(), 0, 0usize);
        for (parameter, &size) in sizes.iter().enumerate().rev() {
            places.push(Place { parameter, range: end..end + size, bucket: ranges.len() });
            end = (end + size).next_multiple_of(ALIGNMENT);
            if end - start >= bucket_elements || parameter == 0 {
                end = start + (end - start).next_multiple_of(world_size * ALIGNMENT);
                ranges.push(start..end);
                start = end;
            }
        }
        Buckets { places, ranges }
    }

    /// Elements in all, gaps included.
    pub(super) fn elements(&self) -> usize {
        self.ranges.last().map_or(0, |range| range.end)
    }

    /// The part of a bucket that a rank has in its share: the buckets are cut into parts of equal size.
    pub(super) fn part(&self, bucket: usize, rank: usize, world_size: usize) -> Range<usize> {
        let whole = &self.ranges[bucket];
        let elements = whole.len() / world_size;
        whole.start + rank * elements..whole.start + (rank + 1) * elements
    }

    /// The parts of parameters within `range`, in the order of memory.
    pub(super) fn pieces(&self, range: &Range<usize>) -> impl Iterator<Item = Piece> {
        self.places.iter().filter_map(|place| {
            let (from, to) = (place.range.start.max(range.start), place.range.end.min(range.end));
            (from < to).then_some(Piece { parameter: place.parameter, range: from..to })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn memory_follows_the_backward_pass() {
        let buckets = Buckets::new(&[100, 64, 30], 2, 128);
        assert_eq!(
            buckets.places,
            [
                Place { parameter: 2, range: 0..30, bucket: 0 },
                Place { parameter: 1, range: 64..128, bucket: 0 },
                Place { parameter: 0, range: 128..228, bucket: 1 },
            ]
        );
        assert_eq!(buckets.ranges, [0..128, 128..256]);
        assert_eq!([0, 1].map(|rank| buckets.part(1, rank, 2)), [128..192, 192..256]);
        let pieces: Vec<_> = buckets.pieces(&(192..256)).collect();
        assert_eq!(pieces, [Piece { parameter: 0, range: 192..228 }]);
    }

    proptest! {
        /// Every element of every parameter is in exactly one rank's share, and shares are alike and aligned.
        #[test]
        fn shares_are_the_whole(
            sizes in proptest::collection::vec(1..500usize, 1..30), world_size in 1..9usize, bucket in 1..2000usize,
        ) {
            let buckets = Buckets::new(&sizes, world_size, bucket);
            prop_assert_eq!(buckets.places.len(), sizes.len());
            let mut found = vec![0; sizes.len()];
            for (number, range) in buckets.ranges.iter().enumerate() {
                prop_assert_eq!(range.len() % (world_size * ALIGNMENT), 0);
                for rank in 0..world_size {
                    let part = buckets.part(number, rank, world_size);
                    prop_assert_eq!(part.start % ALIGNMENT, 0);
                    for piece in buckets.pieces(&part) {
                        prop_assert_eq!(piece.range.start % ALIGNMENT, 0);
                        found[piece.parameter] += piece.range.len();
                    }
                }
            }
            prop_assert_eq!(found, sizes);
            for place in &buckets.places {
                prop_assert!(buckets.ranges[place.bucket].start <= place.range.start);
                prop_assert!(place.range.end <= buckets.ranges[place.bucket].end);
            }
            prop_assert!(buckets.ranges.windows(2).all(|pair| pair[0].end == pair[1].start));
        }
    }
}
