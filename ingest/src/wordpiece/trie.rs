//! The vocabulary as a double-array trie over bytes, and WordPiece's longest match on it.
//!
//! A double array (Aoe 1989) keeps all nodes in one vector: the child of node `s` by byte `b` can only lie at
//! `base(s) ^ b`, and does if the label stored there is `b`. One node is one `u64`, so one step is one load:
//!
//! ```text
//! bits  0..8    label: the byte that leads here
//! bits  8..36   base: where children lie, exclusive-or their byte; 0 = no children
//! bits 36..64   id of the token that ends here, plus one; 0 = none
//! ```
//!
//! Comparing labels instead of parents is sound because no two nodes share a base (as in Yata's darts-clone): the
//! slots `base ^ b` of one node with label `b` can then belong to no other node.
//!
//! Word-initial pieces and continuations ("##ing") live in one array under two roots. Text and tokens are both
//! valid UTF-8, so a byte-wise match ends on a character boundary.
//!
//! Matching is greedy, restarting after each piece. Song et al. 2021 ("Fast WordPiece Tokenization", LinMaxMatch)
//! reach one step a byte with failure links. Measured on the words of web text that are not in the vocabulary, a
//! restart here re-reads 0.9 bytes a piece, 1.3 steps a byte in all, so links would save a quarter of the steps and
//! cost twelve bytes a node in a table that has to stay in the processor's cache. Either way a word's work is bounded,
//! here by `max_input_chars_per_word` times the longest token.

/// Ids must stay below this, so that `id + 1` fits a node's 28 bits.
pub(super) const MAX_ID: u32 = (1 << 28) - 2;

/// Blocks at the end of the array that are looked into before a new one is opened; bounds the time to build.
const OPEN_BLOCKS: usize = 2;

/// Where a walk starts.
#[derive(Clone, Copy, Debug)]
pub(super) struct Root(u32);

/// Byte strings to ids, with several independent roots.
#[derive(Debug, Default)]
pub(super) struct Trie {
    nodes: Vec<u64>,
    /// Building only: what is still free in each block of the array.
    free: Vec<Free>,
}

/// What is still free of 256 slots, a bit each. A base and its slots lie in the same block, because only the low eight
/// bits differ.
#[derive(Clone, Copy, Debug)]
struct Free {
    /// Slots that no node occupies.
    slots: [u64; 4],
    /// Bases that no node uses.
    bases: [u64; 4],
}

impl Free {
    const ALL: Free = Free { slots: [!0; 4], bases: [!0; 4] };

    fn occupy(&mut self, slot: usize) {
        self.slots[slot / 64] &= !(1 << (slot % 64));
    }

    fn use_base(&mut self, base: usize) {
        self.bases[base / 64] &= !(1 << (base % 64));
    }

    /// The first base that is free and under which all `labels` are.
    fn base_for(&self, labels: &[u8]) -> Option<usize> {
        (0..4).filter(|&word| self.bases[word] != 0).find_map(|word| {
            // Bit `i` of the slots of label `l` for the bases of this word is bit `i ^ l` of the slots.
            let slots = |label: u8| exchanged(self.slots[word ^ usize::from(label / 64)], label % 64);
            let bases = labels.iter().fold(self.bases[word], |bases, &label| bases & slots(label));
            (bases != 0).then(|| word * 64 + bases.trailing_zeros() as usize)
        })
    }
}

/// The word whose bit `i` is bit `i ^ with` of `bits`.
#[inline(always)]
fn exchanged(bits: u64, with: u8) -> u64 {
    const LOWER: [u64; 6] = [!0 / 3, !0 / 5, !0 / 17, !0 / 257, !0 / 65537, !0 >> 32];
    (0..6).fold(bits, |bits, power| {
        let by = 1 << power;
        let swapped = (bits & LOWER[power]) << by | bits >> by & LOWER[power];
        if with & by == 0 { bits } else { swapped }
    })
}

fn label(node: u64) -> u8 {
    node as u8
}

fn base(node: u64) -> u32 {
    (node >> 8) as u32 & 0x0fff_ffff
}

impl Trie {
    /// An empty trie; slot 0 stays unused so that base 0 can mean "no children".
    pub(super) fn new() -> Trie {
        let mut trie = Trie::default();
        trie.grow();
        trie.free[0].occupy(0);
        trie.free[0].use_base(0);
        trie
    }

    /// Adds one set of strings, which are different; empty strings are left out, since no walk can end on one.
    pub(super) fn insert<'a>(&mut self, strings: impl IntoIterator<Item = (&'a str, u32)>) -> Root {
        let strings = strings.into_iter().filter(|(string, _)| !string.is_empty());
        let mut sorted: Vec<(&[u8], u32)> = strings.map(|(string, id)| (string.as_bytes(), id)).collect();
        sorted.sort_unstable();
        let root = self.free_slot();
        self.free[root / 256].occupy(root % 256);
        self.free[root / 256].use_base(root % 256);
        self.children_of(root, &sorted, 0);
        Root(root as u32)
    }

    /// Gives back what only building needs.
    pub(super) fn finish(&mut self) {
        self.free = Vec::new();
        self.nodes.shrink_to_fit();
    }

    /// Places the children of `parent`, whose strings are `sorted` and share their first `depth` bytes.
    fn children_of(&mut self, parent: usize, sorted: &[(&[u8], u32)], depth: usize) {
        match *sorted {
            [] => return,
            // As most are.
            [(string, id)] => return self.only_child(parent, &string[depth..], id),
            _ => {}
        }
        let groups = || sorted.chunk_by(|a, b| a.0[depth] == b.0[depth]);
        let mut labels = [0; 256];
        let count = groups().zip(&mut labels).map(|(group, label)| *label = group[0].0[depth]).count();
        let base = self.base_under(parent, &labels[..count]);
        for group in groups() {
            let byte = group[0].0[depth];
            let node = base ^ usize::from(byte);
            // Sorted order puts the string that ends here first.
            let (id, rest) = match group[0] {
                (string, id) if string.len() == depth + 1 => (u64::from(id) + 1, &group[1..]),
                _ => (0, group),
            };
            self.nodes[node] = u64::from(byte) | id << 36;
            self.children_of(node, rest, depth + 1);
        }
    }

    /// Places the only string below `parent`, of which `rest` is left.
    fn only_child(&mut self, parent: usize, rest: &[u8], id: u32) {
        let mut node = parent;
        for &byte in rest {
            node = self.base_under(node, &[byte]) ^ usize::from(byte);
            self.nodes[node] = u64::from(byte);
        }
        self.nodes[node] |= (u64::from(id) + 1) << 36;
    }

    /// Takes a base for the children of `parent` with these `labels`, and their slots.
    fn base_under(&mut self, parent: usize, labels: &[u8]) -> usize {
        let base = self.free_base(labels);
        self.nodes[parent] |= (base as u64) << 8;
        let free = &mut self.free[base / 256];
        free.use_base(base % 256);
        labels.iter().for_each(|&label| free.occupy((base % 256) ^ usize::from(label)));
        base
    }

    /// Opens a new block; returns its first slot.
    fn grow(&mut self) -> usize {
        let len = self.nodes.len();
        self.nodes.resize(len + 256, 0);
        self.free.push(Free::ALL);
        len
    }

    /// The blocks that are still looked into, with the first slot of each.
    fn open(&self) -> impl Iterator<Item = (usize, &Free)> {
        let first = self.free.len().saturating_sub(OPEN_BLOCKS);
        self.free.iter().enumerate().skip(first).map(|(block, free)| (block * 256, free))
    }

    /// A slot for a root. A root has no label, which reads as label 0, so nobody may have its slot as base.
    fn free_slot(&mut self) -> usize {
        // Its slot under label 0 is the base itself.
        self.free_base(&[0])
    }

    /// A base nobody uses under which all `labels` are free.
    fn free_base(&mut self, labels: &[u8]) -> usize {
        let found = self.open().find_map(|(start, free)| Some(start + free.base_for(labels)?));
        // In an empty block every base will do.
        found.unwrap_or_else(|| self.grow())
    }

    /// The longest string under `root` that `bytes` begins with: its id and its length in bytes.
    #[inline]
    pub(super) fn longest_prefix(&self, root: Root, bytes: &[u8]) -> Option<(u32, usize)> {
        let mut node = self.nodes[root.0 as usize];
        let mut best = None;
        for (i, &byte) in bytes.iter().enumerate() {
            // A childless node (base 0) leads to a slot whose label differs, because nobody uses base 0. Only byte 0
            // needs the second test: an empty slot is all zeros.
            node = self.nodes[(base(node) ^ u32::from(byte)) as usize];
            if label(node) != byte || node == 0 {
                break;
            }
            if node >> 36 != 0 {
                best = Some(((node >> 36) as u32 - 1, i + 1));
            }
        }
        best
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    /// Strings over few letters share many prefixes; NUL is the label of an empty slot.
    fn strings() -> impl Strategy<Value = HashMap<String, u32>> {
        prop::collection::hash_map("[\0ab\u{7f}é]{0,6}|[a-z]{1,3}", 0..MAX_ID, 0..200)
    }

    fn longest_of(strings: &HashMap<String, u32>, text: &str) -> Option<(u32, usize)> {
        let ends = (1..=text.len()).rev().filter(|&end| text.is_char_boundary(end));
        ends.filter_map(|end| Some((*strings.get(&text[..end])?, end))).next()
    }

    proptest! {
        #[test]
        fn the_longest_prefix_is_found_under_each_root(
            sets in prop::collection::vec(strings(), 1..4),
            texts in prop::collection::vec("[\0ab\u{7f}éz]{0,9}|[a-z]{0,5}", 1..50),
        ) {
            let mut trie = Trie::new();
            let roots: Vec<Root> =
                sets.iter().map(|set| trie.insert(set.iter().map(|(s, &id)| (s.as_str(), id)))).collect();
            trie.finish();
            for (set, &root) in sets.iter().zip(&roots) {
                for text in texts.iter().chain(set.keys()) {
                    prop_assert_eq!(trie.longest_prefix(root, text.as_bytes()), longest_of(set, text));
                }
            }
        }
    }

    #[test]
    fn bits_are_exchanged_as_their_places_are() {
        let bits = 0x0123_4567_89ab_cdef;
        for with in 0..64u8 {
            let expected = (0..64).map(|i| (bits >> (i ^ with) & 1) << i).fold(0, |sum: u64, bit| sum | bit);
            assert_eq!(exchanged(bits, with), expected, "with {with}");
        }
    }

    #[test]
    fn every_byte_may_follow_every_byte() {
        // Valid UTF-8 or not makes no difference here, but the interface takes text: two-byte characters have
        // every continuation byte, ASCII every other.
        let strings: Vec<String> = ('\0'..='\u{7ff}').map(String::from).collect();
        let mut trie = Trie::new();
        let root = trie.insert(strings.iter().zip(0..).map(|(s, id)| (s.as_str(), id)));
        trie.finish();
        for (string, id) in strings.iter().zip(0..) {
            assert_eq!(trie.longest_prefix(root, string.as_bytes()), Some((id, string.len())));
        }
        assert_eq!(trie.longest_prefix(root, &[0xff]), None);
        assert_eq!(trie.longest_prefix(root, &[]), None);
    }
}
