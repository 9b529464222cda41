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

use std::collections::BTreeMap;

/// Ids must stay below this, so that `id + 1` fits a node's 28 bits.
pub(super) const MAX_ID: u32 = (1 << 28) - 2;

/// Nodes tried from the back of the array before a new block is opened; bounds the time to build.
const OPEN_BLOCKS: usize = 4;

/// Where a walk starts.
#[derive(Clone, Copy, Debug)]
pub(super) struct Root(u32);

/// Byte strings to ids, with several independent roots.
#[derive(Debug, Default)]
pub(super) struct Trie {
    nodes: Vec<u64>,
    /// Building only: a base that some node uses already.
    base_used: Vec<bool>,
    /// Building only: a slot that some node occupies.
    occupied: Vec<bool>,
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
        trie.occupied[0] = true;
        trie.base_used[0] = true;
        trie
    }

    /// Adds one set of strings; empty strings are left out, since no walk can end on one.
    pub(super) fn insert<'a>(&mut self, strings: impl IntoIterator<Item = (&'a str, u32)>) -> Root {
        let sorted: BTreeMap<&[u8], u32> =
            strings.into_iter().filter(|(s, _)| !s.is_empty()).map(|(s, id)| (s.as_bytes(), id)).collect();
        let sorted: Vec<(&[u8], u32)> = sorted.into_iter().collect();
        let root = self.free_slot();
        self.occupied[root] = true;
        self.base_used[root] = true;
        self.children_of(root, &sorted, 0);
        Root(root as u32)
    }

    /// Gives back what only building needs.
    pub(super) fn finish(&mut self) {
        self.base_used = Vec::new();
        self.occupied = Vec::new();
        self.nodes.shrink_to_fit();
    }

    /// Places the children of `parent`, whose strings are `sorted` and share their first `depth` bytes.
    fn children_of(&mut self, parent: usize, sorted: &[(&[u8], u32)], depth: usize) {
        let groups: Vec<&[(&[u8], u32)]> = sorted.chunk_by(|a, b| a.0[depth] == b.0[depth]).collect();
        if groups.is_empty() {
            return;
        }
        let labels: Vec<u8> = groups.iter().map(|group| group[0].0[depth]).collect();
        let base = self.free_base(&labels);
        self.base_used[base] = true;
        self.nodes[parent] |= (base as u64) << 8;
        for &label in &labels {
            self.occupied[base ^ usize::from(label)] = true;
        }
        for group in groups {
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

    fn grow(&mut self) {
        let len = self.nodes.len() + 256;
        self.nodes.resize(len, 0);
        self.base_used.resize(len, false);
        self.occupied.resize(len, false);
    }

    fn first_open(&self) -> usize {
        self.nodes.len().saturating_sub(256 * OPEN_BLOCKS)
    }

    /// A slot for a root. A root has no label, which reads as label 0, so nobody may have its slot as base.
    fn free_slot(&mut self) -> usize {
        let free = |slot: &usize| !self.occupied[*slot] && !self.base_used[*slot];
        if let Some(slot) = (self.first_open()..self.nodes.len()).find(free) {
            return slot;
        }
        self.grow();
        self.nodes.len() - 256
    }

    /// A base nobody uses under which all `labels` are free.
    fn free_base(&mut self, labels: &[u8]) -> usize {
        loop {
            // A base and its slots lie in the same block of 256, because only the low eight bits differ.
            for slot in self.first_open()..self.nodes.len() {
                let base = slot ^ usize::from(labels[0]);
                if !self.occupied[slot]
                    && !self.base_used[base]
                    && labels.iter().all(|&label| !self.occupied[base ^ usize::from(label)])
                {
                    return base;
                }
            }
            self.grow();
        }
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
