//! What documents are compared by: keys, of which duplicates share one.

/// Bytes of a key.
pub(super) const KEY_BYTES: usize = 16;
/// Words that are compared in a row, and groups of hashes of them: as FineWeb was deduplicated (Penedo et al., 2024).
/// Two documents that share a part `s` of their shingles share a key with probability `1 - (1 - s^8)^14`: one in two at
/// 0.69, 92 of 100 at 0.8, 2 of 1000 at 0.33.
const SHINGLE_WORDS: usize = 5;
const BANDS: usize = 14;
const BAND_HASHES: usize = 8;
const HASHES: usize = BANDS * BAND_HASHES;

pub(super) type Key = [u8; KEY_BYTES];

fn key(bytes: &[u8]) -> Key {
    let mut key = [0; KEY_BYTES];
    key.copy_from_slice(&blake3::hash(bytes).as_bytes()[..KEY_BYTES]);
    key
}

/// The key of a text, the same for texts that differ in case and white space only.
pub(super) fn exact(text: &str) -> Key {
    let mut normal = String::with_capacity(text.len());
    for word in text.split_whitespace() {
        if !normal.is_empty() {
            normal.push(' ');
        }
        normal.extend(word.chars().flat_map(char::to_lowercase));
    }
    key(normal.as_bytes())
}

/// MinHash (Broder, 1997) in bands: the keys of a text, of which texts that are much alike share one.
pub(super) struct MinHash {
    /// Each hash function is `x -> (a x + b) / 2^32` modulo 2^64 (Dietzfelbinger et al., 1997).
    functions: Vec<(u64, u64)>,
    words: Vec<u64>,
}

impl MinHash {
    pub(super) fn new() -> Self {
        let mut random = blake3::Hasher::new_derive_key("Tessera: hash functions of MinHash").finalize_xof();
        let mut number = || {
            let mut bytes = [0; 8];
            random.fill(&mut bytes);
            u64::from_le_bytes(bytes)
        };
        Self { functions: (0..HASHES).map(|_| (number() | 1, number())).collect(), words: Vec::new() }
    }

    /// The keys of a text; none for one without words.
    pub(super) fn keys(&mut self, text: &str) -> Vec<Key> {
        self.words.clear();
        let mut lower = String::new();
        for word in text.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty()) {
            lower.clear();
            lower.extend(word.chars().flat_map(char::to_lowercase));
            let hash = blake3::hash(lower.as_bytes());
            let [a, b, c, d, e, f, g, h, ..] = *hash.as_bytes();
            self.words.push(u64::from_le_bytes([a, b, c, d, e, f, g, h]));
        }
        if self.words.is_empty() {
            return Vec::new();
        }
        let mut least = [u32::MAX; HASHES];
        for shingle in self.words.windows(SHINGLE_WORDS.min(self.words.len())) {
            let shingle = shingle.iter().fold(0u64, |sum, word| {
                // Rotated, so that the order of the words matters.
                sum.rotate_left(13).wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(*word)
            });
            for (least, (a, b)) in least.iter_mut().zip(&self.functions) {
                *least = (*least).min((a.wrapping_mul(shingle).wrapping_add(*b) >> 32) as u32);
            }
        }
        let bands = least.chunks_exact(BAND_HASHES).zip(0u32..);
        bands
            .map(|(band, number)| {
                let bytes: Vec<u8> =
                    band.iter().chain([&number]).flat_map(|hash| hash.to_le_bytes()).collect();
                key(&bytes)
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(from: u32, count: u32) -> String {
        (from..from + count).map(|word| format!("word{word} ")).collect()
    }

    #[test]
    fn case_and_white_space_do_not_tell_texts_apart() {
        assert_eq!(exact(" One\n two\tTHREE "), exact("one two three"));
        assert_ne!(exact("one two three"), exact("one twothree"));
    }

    #[test]
    fn texts_much_alike_share_a_key_and_others_do_not() {
        let mut min_hash = MinHash::new();
        let mut shared = |a: &str, b: &str| {
            let (a, b) = (min_hash.keys(a), min_hash.keys(b));
            a.iter().filter(|key| b.contains(key)).count()
        };
        let text = words(0, 300);
        assert_eq!(shared(&text, &text.to_uppercase().replace(' ', ", ")), BANDS);
        // One word of 300 changed changes five of 296 shingles.
        assert!(shared(&text, &text.replace("word150 ", "another ")) > 5);
        assert_eq!(shared(&text, &words(1000, 300)), 0);
        // A third in common.
        assert!(shared(&text, &format!("{}{}", words(0, 100), words(5000, 200))) <= 1);
        assert_eq!(min_hash.keys("one two").len(), BANDS);
        assert!(min_hash.keys(" ,.! ").is_empty());
    }
}
