//! Prefix codes of DEFLATE as lookup tables: one load decodes a symbol.
//!
//! A table is indexed with the next `BITS` bits of the stream. Codes longer than that have a second table behind the
//! entry of their first `BITS` bits. The layout of an entry is libdeflate's (Eric Biggers), where the reasons stand:
//!
//! ```text
//! bits  0..8    bits to take: the code's, and those of the number that follows it (length and distance)
//! bits  8..12   bits of the code alone; of a second table's index
//! bit  13       a second table, which begins at bits 16..
//! bit  14       end of block
//! bit  15       none of the usual: one of the above, or no code at all
//! bits 16..31   the literal, the base of a length or a distance, the symbol
//! bit  31       a literal
//! ```

/// Longest code of DEFLATE.
const MAX_BITS: usize = 15;

/// One of the facts above about the next bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Entry(u32);

impl Entry {
    const SECOND: u32 = 1 << 13;
    const END: u32 = 1 << 14;
    const UNUSUAL: u32 = 1 << 15;
    const LITERAL: u32 = 1 << 31;

    /// No code begins like this.
    pub(super) const INVALID: Entry = Entry(Entry::UNUSUAL);

    /// Bits to take in all.
    #[inline(always)]
    pub(super) fn take(self) -> u32 {
        self.0 & 0xff
    }

    /// Bits of the code alone.
    #[inline(always)]
    pub(super) fn code_bits(self) -> u32 {
        self.0 >> 8 & 0xf
    }

    #[inline(always)]
    pub(super) fn is_literal(self) -> bool {
        self.0 & Entry::LITERAL != 0
    }

    /// Whether it is not simply a literal, a length, a distance or a symbol.
    #[inline(always)]
    pub(super) fn is_unusual(self) -> bool {
        self.0 & Entry::UNUSUAL != 0
    }

    #[inline(always)]
    pub(super) fn is_second(self) -> bool {
        self.0 & Entry::SECOND != 0
    }

    #[inline(always)]
    pub(super) fn is_end(self) -> bool {
        self.0 & Entry::END != 0
    }

    /// The literal, base or symbol.
    #[inline(always)]
    pub(super) fn value(self) -> u32 {
        self.0 >> 16 & 0x7fff
    }
}

/// What an entry says but for the bits of its code, and how many bits follow the code.
#[derive(Clone, Copy)]
struct Meaning {
    entry: u32,
    extra: u32,
}

impl Meaning {
    const INVALID: Meaning = Meaning { entry: Entry::UNUSUAL, extra: 0 };

    const fn with_base(base: u32, extra: u32) -> Meaning {
        Meaning { entry: base << 16, extra }
    }

    /// Of a literal, the end of a block, or a length (RFC 1951, 3.2.5).
    fn of_literal_or_length(symbol: usize) -> Meaning {
        match symbol {
            0..=255 => Meaning { entry: Entry::LITERAL | (symbol as u32) << 16, extra: 0 },
            256 => Meaning { entry: Entry::UNUSUAL | Entry::END, extra: 0 },
            257..=264 => Meaning::with_base(symbol as u32 - 254, 0),
            265..=284 => {
                let extra = (symbol as u32 - 261) / 4;
                Meaning::with_base(((4 + (symbol as u32 - 265) % 4) << extra) + 3, extra)
            }
            285 => Meaning::with_base(258, 0),
            _ => Meaning::INVALID,
        }
    }

    /// Of a distance (RFC 1951, 3.2.5).
    fn of_distance(symbol: usize) -> Meaning {
        match symbol {
            0..=3 => Meaning::with_base(symbol as u32 + 1, 0),
            4..=29 => {
                let extra = (symbol as u32 - 2) / 2;
                Meaning::with_base(((2 + symbol as u32 % 2) << extra) + 1, extra)
            }
            _ => Meaning::INVALID,
        }
    }

    /// Of a symbol of the code of code lengths.
    fn of_code_length(symbol: usize) -> Meaning {
        Meaning::with_base(symbol as u32, 0)
    }

    /// The entry of a code of which `bits` are still to be taken.
    fn entry(self, bits: usize) -> Entry {
        Entry(self.entry | (bits as u32) << 8 | (bits as u32 + self.extra))
    }
}

/// Why a set of code lengths gives no code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum BadCode {
    /// More codes than bits can tell apart.
    TooMany,
    /// Some bits are no code.
    TooFew,
}

/// A code with `SIZE` = 2 to the power of `BITS` entries in its first table.
#[derive(Debug)]
pub(super) struct Table<const BITS: usize, const SIZE: usize> {
    first: Box<[Entry; SIZE]>,
    second: Vec<Entry>,
}

/// For literals and lengths.
pub(super) type LiteralTable = Table<11, 2048>;
/// For distances.
pub(super) type DistanceTable = Table<8, 256>;
/// For the lengths of codes.
pub(super) type CodeLengthTable = Table<7, 128>;

impl<const BITS: usize, const SIZE: usize> Table<BITS, SIZE> {
    pub(super) fn new() -> Self {
        const { assert!(SIZE == 1 << BITS) }
        Self { first: Box::new([Entry::INVALID; SIZE]), second: Vec::new() }
    }

    /// The entry of the next bits, in the first table.
    #[inline(always)]
    pub(super) fn first(&self, bits: u64) -> Entry {
        self.first[bits as usize & (SIZE - 1)]
    }

    /// The entry behind `entry`, for the bits after those that led there.
    #[inline(always)]
    pub(super) fn second(&self, entry: Entry, bits: u64) -> Entry {
        let index = bits as usize & ((1 << entry.code_bits()) - 1);
        self.second[entry.value() as usize + index]
    }

    /// Becomes the code in which symbol `i` has `lengths[i]` bits, 0 for none (RFC 1951, 3.2.2). As in zlib, a code may
    /// be incomplete if it is empty or has one symbol of one bit.
    fn build(&mut self, lengths: &[u8], meaning: fn(usize) -> Meaning) -> Result<(), BadCode> {
        let mut counts = [0usize; MAX_BITS + 1];
        for &bits in lengths {
            counts[usize::from(bits)] += 1;
        }
        let used = lengths.len() - counts[0];
        counts[0] = 0;
        let mut next = [0usize; MAX_BITS + 1];
        let mut free = 1isize;
        for bits in 1..=MAX_BITS {
            free = 2 * free - counts[bits] as isize;
            if free < 0 {
                return Err(BadCode::TooMany);
            }
            next[bits] = (next[bits - 1] + counts[bits - 1]) << 1;
        }
        if free > 0 && !(used == 0 || used == 1 && counts[1] == 1) {
            return Err(BadCode::TooFew);
        }
        // Codes as they come in the stream, first bit lowest.
        let codes = lengths.iter().enumerate().filter(|(_, bits)| **bits > 0).map(|(symbol, &bits)| {
            let bits = usize::from(bits);
            let code = next[bits];
            next[bits] += 1;
            (symbol, bits, (code as u16).reverse_bits() as usize >> (16 - bits))
        });
        self.first.fill(Entry::INVALID);
        let mut long = Vec::new();
        for (symbol, bits, code) in codes {
            if bits > BITS {
                long.push((symbol, bits, code));
            } else {
                let entry = meaning(symbol).entry(bits);
                self.first[code..].iter_mut().step_by(1 << bits).for_each(|place| *place = entry);
            }
        }
        self.build_second(&mut long, meaning);
        Ok(())
    }

    /// The second tables, each as large as its longest code needs.
    fn build_second(&mut self, long: &mut [(usize, usize, usize)], meaning: fn(usize) -> Meaning) {
        self.second.clear();
        long.sort_unstable_by_key(|&(_, _, code)| code & (SIZE - 1));
        for group in long.chunk_by(|a, b| a.2 & (SIZE - 1) == b.2 & (SIZE - 1)) {
            let longest = group.iter().map(|&(_, bits, _)| bits).max().unwrap_or(BITS) - BITS;
            let start = self.second.len();
            let head = Entry::UNUSUAL | Entry::SECOND | (start as u32) << 16;
            self.first[group[0].2 & (SIZE - 1)] = Entry(head | (longest as u32) << 8 | BITS as u32);
            self.second.resize(start + (1 << longest), Entry::INVALID);
            for &(symbol, bits, code) in group {
                let entry = meaning(symbol).entry(bits - BITS);
                let places = self.second[start + (code >> BITS)..].iter_mut();
                places.step_by(1 << (bits - BITS)).for_each(|place| *place = entry);
            }
        }
    }
}

impl LiteralTable {
    pub(super) fn literals_and_lengths(&mut self, lengths: &[u8]) -> Result<(), BadCode> {
        self.build(lengths, Meaning::of_literal_or_length)
    }
}

impl DistanceTable {
    pub(super) fn distances(&mut self, lengths: &[u8]) -> Result<(), BadCode> {
        self.build(lengths, Meaning::of_distance)
    }
}

impl CodeLengthTable {
    pub(super) fn code_lengths(&mut self, lengths: &[u8]) -> Result<(), BadCode> {
        self.build(lengths, Meaning::of_code_length)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The symbol at the front of `bits` in the canonical code of `lengths`, bit by bit (RFC 1951, 3.2.2).
    fn slow(lengths: &[u8], bits: u64) -> Option<(usize, usize)> {
        let mut code = 0u64;
        let mut first = 0u64;
        for len in 1..=MAX_BITS {
            code = code << 1 | bits >> (len - 1) & 1;
            let symbols: Vec<usize> =
                (0..lengths.len()).filter(|&i| usize::from(lengths[i]) == len).collect();
            if code >= first && code - first < symbols.len() as u64 {
                return Some((symbols[(code - first) as usize], len));
            }
            first = (first + symbols.len() as u64) << 1;
        }
        None
    }

    /// Lengths of a complete code: leaves are split until there are `symbols`.
    fn complete(splits: Vec<prop::sample::Index>) -> Vec<u8> {
        let mut lengths = vec![1u8, 1];
        for split in splits {
            let at = split.index(lengths.len());
            if usize::from(lengths[at]) < MAX_BITS {
                lengths[at] += 1;
                lengths.insert(at, lengths[at]);
            }
        }
        lengths
    }

    proptest! {
        #[test]
        fn tables_decode_what_the_code_says(
            splits in prop::collection::vec(any::<prop::sample::Index>(), 0..250),
            bits in prop::collection::vec(any::<u64>(), 20),
        ) {
            let lengths = complete(splits);
            let mut table = LiteralTable::new();
            table.literals_and_lengths(&lengths).unwrap();
            for bits in bits {
                let (symbol, len) = slow(&lengths, bits).unwrap();
                let entry = table.first(bits);
                let (entry, before) =
                    if entry.is_second() { (table.second(entry, bits >> entry.take()), 11) } else { (entry, 0) };
                prop_assert_eq!(entry.code_bits() as usize + before, len);
                prop_assert!(entry.is_literal());
                prop_assert_eq!(entry.value() as usize & 0xff, symbol);
            }
        }
    }

    #[test]
    fn codes_that_are_none_are_refused() {
        let mut table = CodeLengthTable::new();
        assert_eq!(table.code_lengths(&[1, 1, 1]), Err(BadCode::TooMany));
        assert_eq!(table.code_lengths(&[1, 2]), Err(BadCode::TooFew));
        assert_eq!(table.code_lengths(&[2]), Err(BadCode::TooFew));
        assert_eq!(table.code_lengths(&[0, 1]), Ok(()));
        assert_eq!((table.first(0).value(), table.first(1)), (1, Entry::INVALID));
        assert_eq!(table.code_lengths(&[]), Ok(()));
        assert_eq!(table.first(0), Entry::INVALID);
    }

    #[test]
    fn lengths_and_distances_have_the_bases_of_the_standard() {
        let length = |symbol| Meaning::of_literal_or_length(symbol);
        let distance = |symbol| Meaning::of_distance(symbol);
        let has = |meaning: Meaning, base: u32, extra| {
            assert_eq!((meaning.entry >> 16, meaning.extra), (base, extra));
        };
        has(length(257), 3, 0);
        has(length(264), 10, 0);
        has(length(265), 11, 1);
        has(length(284), 227, 5);
        has(length(285), 258, 0);
        has(distance(0), 1, 0);
        has(distance(4), 5, 1);
        has(distance(29), 24577, 13);
        assert_eq!(length(286).entry, Entry::UNUSUAL);
        assert_eq!(distance(30).entry, Entry::UNUSUAL);
    }
}
