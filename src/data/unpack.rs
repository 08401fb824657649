//! Compressed text: members of gzip or frames of zstd, one after the other.

use std::io::{self, BufRead, ErrorKind, Read};
use std::mem;
use std::sync::Arc;

use flate2::bufread::GzDecoder;
use ruzstd::decoding::errors::FrameDecoderError;
use ruzstd::decoding::{BlockDecodingStrategy, FrameDecoder};

use super::container::Packing;
use super::peek::Peekable;
use super::source::Meter;

/// The text of all members. What stands behind the last one is told to the meter, unless it is zeros, with which tapes and disks are padded.
pub(crate) struct Unpacked<R: Read> {
    packing: Packing,
    member: Member<R>,
    meter: Arc<Meter>,
}

/// What is being read.
enum Member<R: Read> {
    /// The place before a member, or behind the last one.
    Between(Peekable<R>),
    Gzip(Box<GzDecoder<Peekable<R>>>),
    Zstd(Peekable<R>, Box<FrameDecoder>),
    /// Nothing more.
    Over,
}

impl<R: Read> Unpacked<R> {
    /// Nothing is read yet.
    pub(crate) fn new(packed: Peekable<R>, packing: Packing, meter: Arc<Meter>) -> Self {
        Self { packing, member: Member::Between(packed), meter }
    }

    /// The member, or the frame to be skipped, that comes next.
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
                Member::Gzip(decoder) => decoder.read(buffer).map_err(|error| of_gzip(&error, decoder.get_mut()))?,
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

/// Skips a frame that is no text: a number, the frame's length, and as many bytes.
fn skip_frame<R: Read>(packed: &mut Peekable<R>) -> io::Result<()> {
    let mut head = [0; 8];
    packed.read_exact(&mut head).map_err(|error| of_gzip_or_zstd(packed, error.kind(), Packing::Zstd))?;
    let [_, _, _, _, length @ ..] = head;
    let length = u64::from(u32::from_le_bytes(length));
    if io::copy(&mut packed.take(length), &mut io::sink())? < length {
        return Err(cut_off(Packing::Zstd));
    }
    Ok(())
}

/// Reads on in a frame; 0 at its end.
fn read_frame<R: Read>(packed: &mut Peekable<R>, decoder: &mut FrameDecoder, buffer: &mut [u8]) -> io::Result<usize> {
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

fn of_gzip<R: Read>(error: &io::Error, packed: &mut Peekable<R>) -> io::Error {
    of_gzip_or_zstd(packed, error.kind(), Packing::Gzip)
}

fn of_zstd<R: Read>(error: &FrameDecoderError, packed: &mut Peekable<R>) -> io::Error {
    let unsupported = |reason: &str| io::Error::new(ErrorKind::Unsupported, reason);
    match error {
        FrameDecoderError::WindowSizeTooBig { .. } => {
            unsupported("zstd with a window of more than 128 MiB: unpack it with `zstd -d --long=31`")
        }
        FrameDecoderError::DictNotProvided { .. } => {
            unsupported("zstd with a dictionary: unpack it with `zstd -d -D DICTIONARY`")
        }
        // Blocks are read whole: where one ends too early, the decoder has met the end.
        _ if packed.is_exhausted() => of_gzip_or_zstd(packed, ErrorKind::UnexpectedEof, Packing::Zstd),
        _ => of_gzip_or_zstd(packed, ErrorKind::InvalidData, Packing::Zstd),
    }
}

/// What a decoder's error means for whoever has the file: that of the system, if reading failed.
fn of_gzip_or_zstd<R: Read>(packed: &mut Peekable<R>, kind: ErrorKind, packing: Packing) -> io::Error {
    match packed.take_fault() {
        Some(fault) => fault,
        None if kind == ErrorKind::UnexpectedEof => cut_off(packing),
        None => damaged(packing),
    }
}

fn cut_off(packing: Packing) -> io::Error {
    let reason = format!("the {} data are cut off: the file is not whole, copy it anew", packing.name());
    io::Error::new(ErrorKind::UnexpectedEof, reason)
}

fn damaged(packing: Packing) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, format!("the {} data are damaged: copy the file anew", packing.name()))
}
