//! Decompresses text: members of gzip or frames of zstd, one after the other.

use std::io::{self, BufRead, ErrorKind, Read};
use std::mem;
use std::sync::Arc;

use flate2::bufread::GzDecoder;
use ruzstd::decoding::errors::FrameDecoderError;
use ruzstd::decoding::{BlockDecodingStrategy, FrameDecoder};

use super::container::Packing;
use super::meter::Meter;
use super::peek::Peekable;

/// A reader of the text of all members. Data after the last member are noted in the meter, unless
/// they are zeros, which pad tapes and disks.
pub(crate) struct Unpacked<R: Read> {
    packing: Packing,
    member: Member<R>,
    meter: Arc<Meter>,
}

/// The part of the packed data that is being read.
enum Member<R: Read> {
    /// The position before a member, or after the last one.
    Between(Peekable<R>),
    Gzip(Box<GzDecoder<Peekable<R>>>),
    Zstd(Peekable<R>, Box<FrameDecoder>),
    /// The end of the data.
    Over,
}

impl<R: Read> Unpacked<R> {
    /// Wraps packed data; nothing is read yet.
    pub(crate) fn new(packed: Peekable<R>, packing: Packing, meter: Arc<Meter>) -> Self {
        Self { packing, member: Member::Between(packed), meter }
    }

    /// Begins the next member, or skips a skippable frame.
    fn begin(&self, mut packed: Peekable<R>) -> io::Result<Member<R>> {
        skip_zeros(&mut packed)?;
        let head = packed.peek(4)?;
        match (Packing::of(head), head) {
            (Some(Packing::Gzip), _) if self.packing == Packing::Gzip => {
                Ok(Member::Gzip(Box::new(GzDecoder::new(packed))))
            }
            (Some(Packing::Zstd), [0x50..=0x5f, ..]) if self.packing == Packing::Zstd => {
                skip_frame(&mut packed)?;
                Ok(Member::Between(packed))
            }
            (Some(Packing::Zstd), _) if self.packing == Packing::Zstd => {
                let mut decoder = FrameDecoder::new();
                decoder.init(&mut packed).map_err(|error| of_zstd(&error, &mut packed))?;
                Ok(Member::Zstd(packed, Box::new(decoder)))
            }
            (_, []) => Ok(Member::Over),
            _ => {
                self.meter.note_junk();
                Ok(Member::Over)
            }
        }
    }
}

impl<R: Read> Read for Unpacked<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        loop {
            let count = match &mut self.member {
                Member::Gzip(decoder) => decoder
                    .read(buffer)
                    .map_err(|error| explained(decoder.get_mut(), error.kind(), Packing::Gzip))?,
                Member::Zstd(packed, decoder) => read_frame(packed, decoder, buffer)?,
                Member::Between(_) => 0,
                Member::Over => return Ok(0),
            };
            if count > 0 {
                return Ok(count);
            }
            self.member = match mem::replace(&mut self.member, Member::Over) {
                Member::Gzip(decoder) => Member::Between(decoder.into_inner()),
                Member::Zstd(packed, _) => Member::Between(packed),
                Member::Between(packed) => self.begin(packed)?,
                Member::Over => Member::Over,
            };
        }
    }
}

fn skip_zeros<R: Read>(packed: &mut Peekable<R>) -> io::Result<()> {
    loop {
        let there = packed.fill_buf()?;
        let zeros = there.iter().take_while(|&&byte| byte == 0).count();
        let all = zeros == there.len();
        packed.consume(zeros);
        if zeros == 0 || !all {
            return Ok(());
        }
    }
}

/// Skips a skippable frame: a magic number, the frame's length, and as many bytes.
fn skip_frame<R: Read>(packed: &mut Peekable<R>) -> io::Result<()> {
    let mut head = [0; 8];
    packed.read_exact(&mut head).map_err(|error| explained(packed, error.kind(), Packing::Zstd))?;
    let [_, _, _, _, length @ ..] = head;
    let length = u64::from(u32::from_le_bytes(length));
    if io::copy(&mut packed.take(length), &mut io::sink())? < length {
        return Err(cut_off(Packing::Zstd));
    }
    Ok(())
}

/// Reads more of a frame; returns 0 at its end.
fn read_frame<R: Read>(
    packed: &mut Peekable<R>,
    decoder: &mut FrameDecoder,
    buffer: &mut [u8],
) -> io::Result<usize> {
    while decoder.can_collect() == 0 && !decoder.is_finished() {
        let block = decoder.decode_blocks(&mut *packed, BlockDecodingStrategy::UptoBlocks(1));
        block.map_err(|error| of_zstd(&error, packed))?;
    }
    let count = decoder.read(buffer)?;
    let expected = decoder.get_checksum_from_data();
    if count == 0 && expected.is_some() && expected != decoder.get_calculated_checksum() {
        return Err(damaged(Packing::Zstd));
    }
    Ok(count)
}

fn of_zstd<R: Read>(error: &FrameDecoderError, packed: &mut Peekable<R>) -> io::Error {
    let unsupported = |reason: &str| io::Error::new(ErrorKind::Unsupported, reason);
    match error {
        FrameDecoderError::WindowSizeTooBig { .. } => unsupported(
            "zstd with a window of more than 128 MiB: unpack it with `zstd -d --long=31`",
        ),
        FrameDecoderError::DictNotProvided { .. } => {
            unsupported("zstd with a dictionary: unpack it with `zstd -d -D DICTIONARY`")
        }
        // Blocks are decoded as a whole: if the last one is cut off, the decoder has reached the
        // end.
        _ if packed.is_exhausted() => explained(packed, ErrorKind::UnexpectedEof, Packing::Zstd),
        _ => explained(packed, ErrorKind::InvalidData, Packing::Zstd),
    }
}

/// Translates an error of a decoder for the user. If reading failed, the result is the system's
/// error, and otherwise an error about data that are cut off or damaged.
fn explained<R: Read>(packed: &mut Peekable<R>, kind: ErrorKind, packing: Packing) -> io::Error {
    match packed.take_fault() {
        Some(fault) => fault,
        None if kind == ErrorKind::UnexpectedEof => cut_off(packing),
        None => damaged(packing),
    }
}

fn cut_off(packing: Packing) -> io::Error {
    let reason =
        format!("the {} data are cut off: the file is not whole, copy it anew", packing.name());
    io::Error::new(ErrorKind::UnexpectedEof, reason)
}

fn damaged(packing: Packing) -> io::Error {
    io::Error::new(
        ErrorKind::InvalidData,
        format!("the {} data are damaged: copy the file anew", packing.name()),
    )
}

#[cfg(test)]
mod tests {
    use std::io::{Cursor, Write};

    use flate2::Compression;
    use flate2::write::GzEncoder;
    use ruzstd::encoding::{CompressionLevel, compress_to_vec};

    use super::super::source::Source;
    use super::*;

    /// The output of `zstd -19 --check` for [`text`].
    const OF_ZSTD: &[u8] = b"\
        \x28\xb5\x2f\xfd\x04\x68\x0d\x03\x00\xf2\x86\x11\x10\xb0\xa9\x03\x9d\x44\x60\xa8\
        \x6b\x46\xd2\xb6\xb0\x98\xa9\xba\x13\x36\x0f\xcd\x95\x23\x37\x4e\x5c\xb8\xbb\xde\
        \x07\xce\xb4\x94\x74\x54\x34\xf4\xda\x5e\x50\x73\x99\x3c\x16\x87\xef\xfe\x60\x53\
        \xc8\xb0\x99\x28\x0c\x10\x31\xd8\x3c\x3c\x03\x4c\xac\x4d\xc4\x0d\xf0\x10\xd8\x62\
        \xa2\x0a\x21\xa4\x11\x70\xf4\xfd\x7f\x03\xa0\x33\x0f\x02\xfd\xa7\x89\x6d\xa1\x4a\
        \xa2\x16\x7b\xed\x10\x35\x55\x5f\x52\x44";
    const SKIPPABLE: &[u8] = b"\x53\x2a\x4d\x18\x03\0\0\0abc";

    fn text() -> String {
        (0..40).fold("x,c,y\n".to_owned(), |text, k| {
            text + &format!("{k},{},{}\n", ["a", "b", "c"][k % 3], k % 2)
        })
    }

    fn gzip(text: &str) -> Vec<u8> {
        let mut gzip = GzEncoder::new(vec![], Compression::default());
        gzip.write_all(text.as_bytes()).unwrap();
        gzip.finish().unwrap()
    }

    fn zstd(text: &str) -> Vec<u8> {
        compress_to_vec(text.as_bytes(), CompressionLevel::Fastest)
    }

    /// Returns the text of packed data and whether other data follow it, or the error.
    fn read(packed: &[u8]) -> Result<(String, bool), String> {
        let reader = Box::new(Cursor::new(packed.to_vec()));
        let meter = Arc::default();
        let mut text = String::new();
        let mut unpacked = Source::Reader { name: "f".into(), reader }
            .open(&meter)
            .map_err(|error| error.to_string())?;
        unpacked.read_to_string(&mut text).map_err(|error| error.to_string())?;
        Ok((text, meter.take_junk()))
    }

    #[test]
    fn members_are_read_one_after_the_other() {
        let text = text();
        let long = "0123456789abcdef\n".repeat(50_000);
        let zeros = vec![0; 300_000];
        let (twice, empty) = (text.repeat(2), String::new());
        for (packed, expected) in [
            (gzip(&text), &text),
            (zstd(&text), &text),
            (OF_ZSTD.to_vec(), &text),
            (gzip(&long), &long),
            (zstd(&long), &long),
            ([gzip(&text), gzip(""), gzip(&text)].concat(), &twice),
            ([OF_ZSTD, &zstd(""), OF_ZSTD].concat(), &twice),
            ([SKIPPABLE, OF_ZSTD, SKIPPABLE, SKIPPABLE, &zstd(&text)].concat(), &twice),
            ([gzip(&text), zeros.clone()].concat(), &text),
            ([OF_ZSTD.to_vec(), zeros.clone()].concat(), &text),
            ([gzip(&text), vec![0; 512], gzip(&text), vec![0]].concat(), &twice),
            (SKIPPABLE.to_vec(), &empty),
            (gzip(""), &empty),
        ] {
            assert!(
                read(&packed) == Ok((expected.clone(), false)),
                "{:x?}",
                &packed[..packed.len().min(300)]
            );
        }
    }

    #[test]
    fn what_stands_behind_the_members_is_told() {
        let text = text();
        for packed in [gzip(&text), zstd(&text), OF_ZSTD.to_vec()] {
            for junk in [
                b"x".as_slice(),
                b"\n",
                b"\0\0x",
                b"\x1f",
                b"junk that is longer than four bytes",
                text.as_bytes(),
            ] {
                assert_eq!(read(&[&packed, junk].concat()), Ok((text.clone(), true)), "{junk:x?}");
            }
        }
        // Members of the other format are not unpacked.
        for packed in [[gzip(&text), zstd(&text)].concat(), [zstd(&text), gzip(&text)].concat()] {
            assert_eq!(read(&packed), Ok((text.clone(), true)));
        }
    }

    #[test]
    fn what_is_cut_off_says_so() {
        let text = text();
        for (name, packed) in
            [("gzip", gzip(&text)), ("zstd", zstd(&text)), ("zstd", OF_ZSTD.to_vec())]
        {
            let whole = packed.len();
            for packed in [packed.clone(), [packed.clone(), packed].concat()] {
                // Four bytes identify the format. Between two members, a cut-off file looks
                // complete.
                for end in (4..packed.len()).filter(|&end| !(whole..whole + 4).contains(&end)) {
                    let error = read(&packed[..end]).unwrap_err();
                    assert!(
                        error.ends_with(&format!(
                            "the {name} data are cut off: the file is not whole, copy it anew"
                        )),
                        "{end}: {error}"
                    );
                }
            }
        }
        let error = read(&[SKIPPABLE, &SKIPPABLE[..10]].concat()).unwrap_err();
        assert!(error.contains("the zstd data are cut off"), "{error}");
    }

    #[test]
    fn damage_is_found_or_does_not_matter() {
        let text = text();
        for packed in [gzip(&text), zstd(&text), OF_ZSTD.to_vec()] {
            for at in 4..packed.len() {
                for bit in 0..8 {
                    let mut packed = packed.clone();
                    packed[at] ^= 1 << bit;
                    if let Ok((read, _)) = read(&packed) {
                        assert_eq!(read, text, "byte {at}, bit {bit}");
                    }
                }
            }
        }
        let mut wrong_sum = OF_ZSTD.to_vec();
        wrong_sum[OF_ZSTD.len() - 1] ^= 1;
        assert_eq!(
            read(&wrong_sum).unwrap_err(),
            "f: the zstd data are damaged: copy the file anew"
        );
        let mut packed = gzip(&text);
        let at = packed.len() - 6;
        packed[at] ^= 1;
        assert_eq!(read(&packed).unwrap_err(), "f: the gzip data are damaged: copy the file anew");
        assert!(
            read(&gzip(&"x".repeat(9)).into_iter().chain([0x1f, 0x8b, 9, 9]).collect::<Vec<_>>())
                .is_err()
        );
    }

    #[test]
    fn what_zstd_is_not_read_says_what_to_do() {
        // A window of 2 GiB, and then a dictionary.
        let window = [0x28, 0xb5, 0x2f, 0xfd, 0x00, 0xa8, 0x01, 0, 0];
        assert!(read(&window).unwrap_err().contains("unpack it with `zstd -d --long=31`"));
        let dictionary = [0x28, 0xb5, 0x2f, 0xfd, 0x01, 0x58, 0x07, 0x01, 0, 0];
        assert!(
            read(&dictionary).unwrap_err().contains("zstd with a dictionary"),
            "{:?}",
            read(&dictionary)
        );
    }

    #[test]
    fn what_is_packed_twice_is_named() {
        let twice = |packed: &[u8]| {
            let mut gzip = GzEncoder::new(vec![], Compression::default());
            gzip.write_all(packed).unwrap();
            read(&gzip.finish().unwrap()).unwrap_err()
        };
        assert_eq!(
            twice(&gzip("x")),
            "f: this is compressed twice, which cannot be read: unpack it once"
        );
        assert!(twice(b"PK\x03\x04\x14\0\x06\0t.csv").starts_with("f: this is a zip archive"));
    }
}
