//! Writes messages in the encoding of protocol buffers
//! (<https://protobuf.dev/programming-guides/encoding/>), as far as ONNX and event files of
//! TensorBoard need it.

use std::borrow::Cow;
use std::io::{self, Write};

/// The wire type of integers.
const VARINT: u64 = 0;
/// The wire types of 8 and of 4 bytes.
const EIGHT_BYTES: u64 = 1;
const FOUR_BYTES: u64 = 5;
/// The wire type of bytes, texts and messages: a length, then so many bytes.
const LENGTH: u64 = 2;

/// A message in its encoding. Long contents are borrowed, so that a message with the weights of a
/// model is no second copy of them.
#[derive(Default)]
pub(super) struct Message<'a> {
    pieces: Vec<Cow<'a, [u8]>>,
    len: usize,
}

impl<'a> Message<'a> {
    /// Returns the length of the encoding in bytes.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Adds a field that holds an integer. A negative one is written as its two's complement, as
    /// `int64` requires.
    pub(super) fn integer(mut self, field: u32, value: i64) -> Self {
        self.tag(field, VARINT);
        self.varint(value as u64);
        self
    }

    /// Adds a field that holds a `double`.
    pub(super) fn double(mut self, field: u32, value: f64) -> Self {
        self.tag(field, EIGHT_BYTES);
        self.append(&value.to_le_bytes());
        self
    }

    /// Adds a field that holds a `float`.
    pub(super) fn float(mut self, field: u32, value: f32) -> Self {
        self.tag(field, FOUR_BYTES);
        self.append(&value.to_le_bytes());
        self
    }

    /// Adds a field that holds a text.
    pub(super) fn text(mut self, field: u32, text: &str) -> Self {
        self.tag(field, LENGTH);
        self.varint(text.len() as u64);
        self.append(text.as_bytes());
        self
    }

    /// Adds a field that holds bytes.
    pub(super) fn bytes(mut self, field: u32, bytes: Cow<'a, [u8]>) -> Self {
        self.tag(field, LENGTH);
        self.varint(bytes.len() as u64);
        self.len += bytes.len();
        self.pieces.push(bytes);
        self
    }

    /// Adds a field that holds a message.
    pub(super) fn message(mut self, field: u32, message: Message<'a>) -> Self {
        self.tag(field, LENGTH);
        self.varint(message.len as u64);
        self.len += message.len;
        self.pieces.extend(message.pieces);
        self
    }

    /// Adds a field for each of several messages.
    pub(super) fn messages(
        self,
        field: u32,
        messages: impl IntoIterator<Item = Message<'a>>,
    ) -> Self {
        messages.into_iter().fold(self, |all, message| all.message(field, message))
    }

    /// Writes the encoding.
    pub(super) fn write(&self, out: &mut dyn Write) -> io::Result<()> {
        self.pieces.iter().try_for_each(|piece| out.write_all(piece))
    }

    fn tag(&mut self, field: u32, wire_type: u64) {
        self.varint(u64::from(field) << 3 | wire_type);
    }

    /// Appends seven bits in each byte, the lowest first; the highest bit says that more follow.
    fn varint(&mut self, mut value: u64) {
        let (mut bytes, mut len) = ([0; 10], 0);
        loop {
            bytes[len] = (value & 0x7f) as u8 | if value > 0x7f { 0x80 } else { 0 };
            len += 1;
            value >>= 7;
            if value == 0 {
                return self.append(&bytes[..len]);
            }
        }
    }

    fn append(&mut self, bytes: &[u8]) {
        self.len += bytes.len();
        match self.pieces.last_mut() {
            Some(Cow::Owned(last)) => last.extend_from_slice(bytes),
            _ => self.pieces.push(Cow::Owned(bytes.to_vec())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encoding(message: &Message<'_>) -> Vec<u8> {
        let mut bytes = Vec::new();
        message.write(&mut bytes).unwrap();
        assert_eq!(bytes.len(), message.len());
        bytes
    }

    #[test]
    fn fields_are_encoded_as_the_documentation_says() {
        // The first three are the examples of the page above.
        assert_eq!(encoding(&Message::default().integer(1, 150)), [0x08, 0x96, 0x01]);
        assert_eq!(encoding(&Message::default().text(2, "testing")), *b"\x12\x07testing");
        let inner = || Message::default().integer(1, 150);
        assert_eq!(
            encoding(&Message::default().message(3, inner())),
            [0x1a, 0x03, 0x08, 0x96, 0x01]
        );
        assert_eq!(encoding(&Message::default().integer(1, 0)), [0x08, 0x00]);
        assert_eq!(
            encoding(&Message::default().float(2, 1.0).double(1, -2.0)),
            [0x15, 0, 0, 0x80, 0x3f, 0x09, 0, 0, 0, 0, 0, 0, 0, 0xc0]
        );
        let mut minus_two = vec![0x08, 0xfe];
        minus_two.extend([0xff; 8]);
        minus_two.push(0x01);
        assert_eq!(encoding(&Message::default().integer(1, -2)), minus_two);
        // The tag of field 20 takes two bytes.
        assert_eq!(encoding(&Message::default().integer(20, 1)), [0xa0, 0x01, 0x01]);
        let raw = vec![7_u8; 200];
        let with_raw = Message::default().bytes(9, Cow::Borrowed(&raw)).integer(1, 1);
        let two = encoding(&Message::default().messages(5, [inner(), with_raw]));
        assert_eq!(two[..8], [0x2a, 0x03, 0x08, 0x96, 0x01, 0x2a, 0xcd, 0x01]);
        assert_eq!(two[8..11], [0x4a, 0xc8, 0x01]);
        assert_eq!((&two[11..211], &two[211..]), (raw.as_slice(), [0x08, 0x01].as_slice()));
    }
}
