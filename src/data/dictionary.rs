//! Distinct texts, numbered in order of first appearance.

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::split::mix;

/// The hash of a text, the same on every machine and in every version: 64-bit FNV-1a over its bytes, then the finaliser of
/// splitmix64 so that the low bits are good ones.
///
/// ```
/// use bagdot::data::hash64;
/// assert_eq!(hash64(b""), 0xf52a_15e9_a9b5_e89b);
/// assert_ne!(hash64(b"a") % 1000, hash64(b"b") % 1000);
/// ```
#[inline]
pub fn hash64(text: &[u8]) -> u64 {
    let fnv = |hash: u64, &byte: &u8| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
    mix(text.iter().fold(0xcbf2_9ce4_8422_2325, fnv))
}

/// A text of at most 8 ASCII characters as a number of its own, which is quicker to compare than a text; `None` for other texts.
#[inline]
pub(crate) fn word_of(text: &[u8]) -> Option<u64> {
    const NOT_ASCII: u64 = 0x8080_8080_8080_8080;
    let (bytes, length) = match <[u8; 8]>::try_from(text) {
        Ok(bytes) => (bytes, 0),
        Err(_) => {
            let mut bytes = [0; 8];
            bytes.get_mut(..text.len())?.copy_from_slice(text);
            // Shorter texts are told from those that end with zeros by a byte that no text of 8 ends with.
            (bytes, (0x80 | text.len() as u64) << 56)
        }
    };
    let word = u64::from_le_bytes(bytes);
    (word & NOT_ASCII == 0).then_some(word | length)
}

/// No [`word_of`] a text.
const LONG: u64 = u64::MAX;

/// A set of distinct texts, each with a number. All texts lie in one buffer, so that millions of short ones cost little more than
/// their bytes.
#[derive(Clone, Debug, Default)]
pub(crate) struct Dictionary {
    text: String,
    /// Where each text ends in `text`.
    ends: Vec<usize>,
    /// Each text's [`word_of`], or [`LONG`].
    words: Vec<u64>,
    /// An open hash table: 0 for a free slot, else the text's number plus 1. Its length is 0 or a power of two.
    slots: Vec<u32>,
}

impl Dictionary {
    /// The number of texts.
    pub(crate) fn len(&self) -> usize {
        self.ends.len()
    }

    /// The text with this number, which is below [`Self::len`].
    pub(crate) fn text(&self, number: usize) -> &str {
        let start = if number == 0 { 0 } else { self.ends[number - 1] };
        &self.text[start..self.ends[number]]
    }

    /// All texts, in the order of their numbers.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &str> {
        (0..self.len()).map(|number| self.text(number))
    }

    /// The number of a text.
    #[inline]
    pub(crate) fn get(&self, text: &str) -> Option<u32> {
        if self.slots.is_empty() {
            return None;
        }
        self.slots[self.slot_of(text)].checked_sub(1)
    }

    /// The number of the text with this [`word_of`].
    #[inline]
    pub(crate) fn get_word(&self, word: u64) -> Option<u32> {
        if self.slots.is_empty() {
            return None;
        }
        self.slots[self.slot_where(mix(word), |number| self.words[number] == word)].checked_sub(1)
    }

    /// The number of a text, which is added if it is new; `None` if there are too many.
    pub(crate) fn insert(&mut self, text: &str) -> Option<u32> {
        // At most half full, so that a search ends soon.
        if (self.len() + 1) * 2 > self.slots.len() {
            self.grow();
        }
        let slot = self.slot_of(text);
        if let Some(number) = self.slots[slot].checked_sub(1) {
            return Some(number);
        }
        // One number is left out for row 0 of a table, one for a free slot.
        let number = u32::try_from(self.len()).ok().filter(|&number| number < u32::MAX - 2)?;
        self.text.push_str(text);
        self.ends.push(self.text.len());
        self.words.push(word_of(text.as_bytes()).unwrap_or(LONG));
        self.slots[slot] = number + 1;
        Some(number)
    }

    /// The slot that holds the text, or the free one where it belongs.
    #[inline]
    fn slot_of(&self, text: &str) -> usize {
        match word_of(text.as_bytes()) {
            Some(word) => self.slot_where(mix(word), |number| self.words[number] == word),
            None => self.slot_where(hash64(text.as_bytes()), |number| self.text(number) == text),
        }
    }

    /// The slot of the text with this hash for which `is_it` holds, or the free one where it belongs.
    #[inline]
    fn slot_where(&self, hash: u64, is_it: impl Fn(usize) -> bool) -> usize {
        let mask = self.slots.len() - 1;
        let mut slot = hash as usize & mask;
        while self.slots[slot] != 0 && !is_it(self.slots[slot] as usize - 1) {
            slot = (slot + 1) & mask;
        }
        slot
    }

    fn grow(&mut self) {
        self.slots = vec![0; (self.slots.len() * 2).max(16)];
        for number in 0..self.len() {
            let slot = self.slot_of(self.text(number));
            self.slots[slot] = number as u32 + 1;
        }
    }
}

impl PartialEq for Dictionary {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text && self.ends == other.ends
    }
}

impl Serialize for Dictionary {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.iter())
    }
}

impl<'de> Deserialize<'de> for Dictionary {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut dictionary = Self::default();
        for (expected, text) in Vec::<String>::deserialize(deserializer)?.iter().enumerate() {
            if dictionary.insert(text).map(|number| number as usize) != Some(expected) {
                return Err(D::Error::custom(format!("{text:?} stands twice in a dictionary")));
            }
        }
        Ok(dictionary)
    }
}

/// How often each text occurs.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Counts {
    texts: Dictionary,
    counts: Vec<u64>,
}

impl Counts {
    /// Counts a text; `None` if there are too many.
    pub(crate) fn add(&mut self, text: &str) -> Option<()> {
        let number = self.texts.insert(text)? as usize;
        match self.counts.get_mut(number) {
            Some(count) => *count += 1,
            None => self.counts.push(1),
        }
        Some(())
    }

    /// How often a text has been counted.
    pub(crate) fn get(&self, text: &str) -> u64 {
        self.texts.get(text).and_then(|number| self.counts.get(number as usize)).copied().unwrap_or(0)
    }

    /// All counts, in order of the first appearance of their texts.
    pub(crate) fn counts(&self) -> &[u64] {
        &self.counts
    }

    /// The texts that occur at least `min_count` times, in order of first appearance.
    pub(crate) fn frequent(self, min_count: u64) -> Dictionary {
        if self.counts.iter().all(|&count| count >= min_count) {
            return self.texts;
        }
        let mut frequent = Dictionary::default();
        for (text, _) in self.texts.iter().zip(&self.counts).filter(|&(_, &count)| count >= min_count) {
            frequent.insert(text);
        }
        frequent
    }

    /// Whether there is one count for each text.
    pub(crate) fn is_consistent(&self) -> bool {
        self.texts.len() == self.counts.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hash_is_fixed() {
        // FNV-1a of "foobar" is a published test vector; the finaliser is applied by hand.
        assert_eq!(hash64(b"foobar"), mix(0x85944171f73967e8));
        // The first output of splitmix64 with seed 0 is the finaliser of its increment.
        assert_eq!(mix(0x9e3779b97f4a7c15), 0xe220_a839_7b1d_cdaf);
    }

    #[test]
    fn numbers_follow_first_appearance() {
        let mut dictionary = Dictionary::default();
        assert_eq!(dictionary.get(""), None);
        let texts: Vec<String> = (0..1000).map(|k| format!("{}", k * k % 733)).chain([String::new()]).collect();
        let mut expected: Vec<&str> = vec![];
        for text in &texts {
            let number = expected.iter().position(|known| known == text).unwrap_or_else(|| {
                expected.push(text);
                expected.len() - 1
            });
            assert_eq!(dictionary.insert(text), Some(number as u32));
        }
        assert!(dictionary.iter().eq(expected.iter().copied()));
        assert!(expected.iter().enumerate().all(|(k, text)| dictionary.get(text) == Some(k as u32)));
        assert_eq!(dictionary.get("734"), None);
        let json = serde_json::to_string(&dictionary).unwrap();
        assert_eq!(serde_json::from_str::<Dictionary>(&json).unwrap(), dictionary);
        assert!(
            serde_json::from_str::<Dictionary>(r#"["a","b","a"]"#)
                .unwrap_err()
                .to_string()
                .contains("\"a\" stands twice")
        );
    }

    #[test]
    fn words_tell_texts_apart() {
        let texts = ["", "\0", "a", "a\0", "\0a", "b", "0123456", "0123456\0", "01234567", "\u{7f}\u{7f}"];
        let words: Vec<u64> = texts.iter().map(|text| word_of(text.as_bytes()).unwrap()).collect();
        assert!((1..words.len()).all(|k| !words[..k].contains(&words[k]) && words[k] != LONG), "{words:x?}");
        for text in ["é", "012345678", "\u{10ffff}\u{10ffff}"] {
            assert_eq!(word_of(text.as_bytes()), None, "{text}");
        }
        let mut dictionary = Dictionary::default();
        let texts = [&texts[..], &["é", "012345678"]].concat();
        for (k, text) in texts.iter().enumerate() {
            assert_eq!(dictionary.insert(text), Some(k as u32));
        }
        let found = texts.iter().map(|text| word_of(text.as_bytes()).and_then(|word| dictionary.get_word(word)));
        assert!(found.take(10).eq((0..10).map(Some)) && texts.iter().all(|text| dictionary.get(text).is_some()));
    }

    #[test]
    fn rare_texts_have_no_number() {
        let mut counts = Counts::default();
        for text in ["b", "a", "c", "a", "b", "a"] {
            counts.add(text).unwrap();
        }
        assert_eq!((counts.get("a"), counts.get("x"), counts.counts()), (3, 0, [2, 3, 1].as_slice()));
        assert!(counts.frequent(2).iter().eq(["b", "a"]));
    }
}
