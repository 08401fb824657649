//! Distinct texts, numbered in order of first appearance.

use std::mem;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::hash::{LONG, hash64, length_of_word, mix, word_of};

/// The number of texts in a bucket: as many as fit into a cache line.
const BUCKET: usize = 5;

/// A bucket of a hash table; its slots are filled from the first one on.
#[derive(Clone, Debug, Default)]
#[repr(align(64))]
struct Bucket {
    /// Each text's word ([`word_of`]), or [`LONG`].
    words: [u64; BUCKET],
    /// Each text's number plus 1; 0 in a free slot. The last entry is always 0.
    numbers: [u32; BUCKET + 1],
}

impl Bucket {
    /// Returns the number plus 1 of the text with this word; 0 if it is not here. There are no
    /// branches, since the processor could not predict them.
    #[inline]
    fn find(&self, word: u64) -> u32 {
        let equal = |place: usize| u32::from(self.words[place] == word) << place;
        let places = (0..BUCKET).fold(1 << BUCKET, |places, place| places | equal(place));
        self.numbers[places.trailing_zeros() as usize % (BUCKET + 1)]
    }

    /// Returns the number plus 1 of a text without a word; 0 if it is not here.
    fn find_long(&self, is_it: impl Fn(usize) -> bool) -> u32 {
        let mut numbers = self.words.iter().zip(&self.numbers);
        numbers
            .find(|&(&word, &number)| word == LONG && is_it(number as usize - 1))
            .map_or(0, |(_, &number)| number)
    }

    #[inline]
    fn is_full(&self) -> bool {
        self.numbers[BUCKET - 1] != 0
    }
}

/// A set of distinct texts, each with a number. All texts share one buffer, so that millions of
/// short ones cost little more than their bytes.
#[derive(Clone, Debug, Default)]
pub(crate) struct Dictionary {
    text: String,
    /// The end of each text in `text`.
    ends: Vec<usize>,
    /// The hash table. A text is in the first bucket, from the bucket of its hash on, that had a
    /// free slot. The number of buckets is 0 or a power of two.
    buckets: Vec<Bucket>,
}

impl Dictionary {
    /// Returns the number of texts.
    pub(crate) fn len(&self) -> usize {
        self.ends.len()
    }

    /// Returns the text with this number, which is below [`Self::len`].
    pub(crate) fn text(&self, number: usize) -> &str {
        let start = if number == 0 { 0 } else { self.ends[number - 1] };
        &self.text[start..self.ends[number]]
    }

    /// Returns all texts, in the order of their numbers.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &str> {
        (0..self.len()).map(|number| self.text(number))
    }

    /// Returns the number of a text.
    pub(crate) fn get(&self, text: &str) -> Option<u32> {
        match word_of(text.as_bytes()) {
            Some(word) => self.get_word(word),
            None => self.find(hash64(text.as_bytes()), |bucket| {
                bucket.find_long(|number| self.text(number) == text)
            }),
        }
    }

    /// Returns the number of the text with this [`word_of`].
    #[inline]
    pub(crate) fn get_word(&self, word: u64) -> Option<u32> {
        self.find(mix(word), |bucket| bucket.find(word))
    }

    /// Returns the number of a text, and adds the text if it is new; `None` if there are too many
    /// texts.
    pub(crate) fn insert(&mut self, text: &str) -> Option<u32> {
        self.get(text).or_else(|| self.push(word_of(text.as_bytes()), |texts| texts.push_str(text)))
    }

    /// Returns the number of the text with this [`word_of`], and adds the text if it is new; `None`
    /// if there are too many texts.
    pub(crate) fn insert_word(&mut self, word: u64) -> Option<u32> {
        // Words are ASCII.
        let text =
            word.to_le_bytes().into_iter().take(length_of_word(word) as usize).map(char::from);
        self.get_word(word).or_else(|| self.push(Some(word), |texts| texts.extend(text)))
    }

    /// Adds a new text.
    fn push(&mut self, word: Option<u64>, append: impl FnOnce(&mut String)) -> Option<u32> {
        // Two numbers are reserved: for row 0 of a table, and for a free slot.
        let number = u32::try_from(self.len()).ok().filter(|&number| number < u32::MAX - 2)?;
        append(&mut self.text);
        self.ends.push(self.text.len());
        // The table is at most half full, so that probes are short.
        if self.len() * 2 > self.buckets.len() * BUCKET {
            self.grow();
        }
        self.place(word.unwrap_or(LONG), number + 1);
        Some(number)
    }

    /// Probes bucket after bucket for the number plus 1 of a text with this hash.
    #[inline]
    fn find(&self, hash: u64, search: impl Fn(&Bucket) -> u32) -> Option<u32> {
        let mask = self.buckets.len().wrapping_sub(1);
        let mut place = hash as usize;
        loop {
            let bucket = self.buckets.get(place & mask)?;
            let found = search(bucket);
            if !(bucket.is_full() & (found == 0)) {
                return found.checked_sub(1);
            }
            place = place.wrapping_add(1);
        }
    }

    /// Puts a text that is in no bucket into the first one with a free slot, which must exist.
    fn place(&mut self, word: u64, number: u32) {
        let hash = if word == LONG {
            hash64(self.text(number as usize - 1).as_bytes())
        } else {
            mix(word)
        };
        let mask = self.buckets.len() - 1;
        let mut place = hash as usize & mask;
        while self.buckets[place].is_full() {
            place = (place + 1) & mask;
        }
        let Bucket { words, numbers } = &mut self.buckets[place];
        if let Some(free) = numbers[..BUCKET].iter().position(|&number| number == 0) {
            (words[free], numbers[free]) = (word, number);
        }
    }

    fn grow(&mut self) {
        let buckets = vec![Bucket::default(); (self.buckets.len() * 2).max(4)];
        for Bucket { words, numbers } in mem::replace(&mut self.buckets, buckets) {
            words
                .into_iter()
                .zip(numbers)
                .filter(|&(_, number)| number > 0)
                .for_each(|(word, number)| self.place(word, number));
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

/// The counts of texts.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Counts {
    texts: Dictionary,
    counts: Vec<u64>,
}

impl Counts {
    /// Counts a text; returns `None` if there are too many.
    pub(crate) fn add(&mut self, text: &str) -> Option<()> {
        let number = self.texts.insert(text)?;
        self.add_number(number);
        Some(())
    }

    /// Counts texts by their [`word_of`]; returns `None` if there are too many.
    pub(crate) fn add_words(&mut self, words: &[u64]) -> Option<()> {
        // The lookups of a group are independent, so that their cache misses overlap.
        for words in words.chunks(64) {
            let mut numbers = [None; 64];
            numbers
                .iter_mut()
                .zip(words)
                .for_each(|(number, &word)| *number = self.texts.get_word(word));
            for (&word, number) in words.iter().zip(numbers) {
                let number = match number {
                    Some(number) => number,
                    None => self.texts.insert_word(word)?,
                };
                self.add_number(number);
            }
        }
        Some(())
    }

    #[inline]
    fn add_number(&mut self, number: u32) {
        match self.counts.get_mut(number as usize) {
            Some(count) => *count += 1,
            None => self.counts.push(1),
        }
    }

    /// Returns the count of a text.
    pub(crate) fn get(&self, text: &str) -> u64 {
        self.texts
            .get(text)
            .and_then(|number| self.counts.get(number as usize))
            .copied()
            .unwrap_or(0)
    }

    /// Returns all counts, in order of the first appearance of their texts.
    pub(crate) fn counts(&self) -> &[u64] {
        &self.counts
    }

    /// Returns all texts with their counts, in order of their first appearance.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&str, u64)> {
        self.texts.iter().zip(self.counts.iter().copied())
    }

    /// Returns the texts that occur at least `min_count` times, in order of first appearance.
    pub(crate) fn frequent(self, min_count: u64) -> Dictionary {
        if self.counts.iter().all(|&count| count >= min_count) {
            return self.texts;
        }
        let mut frequent = Dictionary::default();
        for (text, _) in
            self.texts.iter().zip(&self.counts).filter(|&(_, &count)| count >= min_count)
        {
            frequent.insert(text);
        }
        frequent
    }

    /// Returns whether there is one count for each text.
    pub(crate) fn is_consistent(&self) -> bool {
        self.texts.len() == self.counts.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_follow_first_appearance() {
        let mut dictionary = Dictionary::default();
        assert_eq!(dictionary.get(""), None);
        let texts: Vec<String> =
            (0..1000).map(|k| format!("{}", k * k % 733)).chain([String::new()]).collect();
        let mut expected: Vec<&str> = vec![];
        for text in &texts {
            let number = expected.iter().position(|known| known == text).unwrap_or_else(|| {
                expected.push(text);
                expected.len() - 1
            });
            assert_eq!(dictionary.insert(text), Some(number as u32));
        }
        assert!(dictionary.iter().eq(expected.iter().copied()));
        assert!(
            expected.iter().enumerate().all(|(k, text)| dictionary.get(text) == Some(k as u32))
        );
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
        let texts =
            ["", "\0", "a", "a\0", "\0a", "b", "0123456", "0123456\0", "01234567", "\u{7f}\u{7f}"];
        let words: Vec<u64> = texts.iter().map(|text| word_of(text.as_bytes()).unwrap()).collect();
        assert!(
            (1..words.len()).all(|k| !words[..k].contains(&words[k]) && words[k] != LONG),
            "{words:x?}"
        );
        for text in ["é", "012345678", "\u{10ffff}\u{10ffff}"] {
            assert_eq!(word_of(text.as_bytes()), None, "{text}");
        }
        let mut dictionary = Dictionary::default();
        let texts = [&texts[..], &["é", "012345678"]].concat();
        for (k, text) in texts.iter().enumerate() {
            assert_eq!(dictionary.insert(text), Some(k as u32));
        }
        let found = texts
            .iter()
            .map(|text| word_of(text.as_bytes()).and_then(|word| dictionary.get_word(word)));
        assert!(
            found.take(10).eq((0..10).map(Some))
                && texts.iter().all(|text| dictionary.get(text).is_some())
        );
    }

    #[test]
    fn rare_texts_have_no_number() {
        let mut counts = Counts::default();
        for text in ["b", "a", "c", "a", "b", "a"] {
            counts.add(text).unwrap();
        }
        assert_eq!(
            (counts.get("a"), counts.get("x"), counts.counts()),
            (3, 0, [2, 3, 1].as_slice())
        );
        assert!(counts.frequent(2).iter().eq(["b", "a"]));
    }
}
