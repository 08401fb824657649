//! Recognises files that hold something other than text, by their first bytes.

use super::error::DataError;

/// The number of bytes at the beginning of a file that are examined: a tar archive identifies
/// itself at byte 257.
pub(crate) const HEAD_BYTES: usize = 512;

/// The compression of a text, among those that can be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Packing {
    Gzip,
    Zstd,
}

impl Packing {
    /// Returns the compression of data that begin with `head`, or `None` if they have none of
    /// these.
    pub(crate) fn of(head: &[u8]) -> Option<Self> {
        match head {
            [0x1f, 0x8b, ..] => Some(Self::Gzip),
            // A frame, or a skippable frame, which may precede others.
            [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Some(Self::Zstd),
            _ => None,
        }
    }

    /// Returns the name of the format.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Gzip => "gzip",
            Self::Zstd => "zstd",
        }
    }
}

const UNPACK: &str = "unpack it, and name the text file that is inside";
const EXPORT: &str = "save it as CSV, and name that file";
const CONVERT: &str = "convert it to UTF-8, for example with `iconv -f UTF-16 -t UTF-8`";

/// The formats that begin with bytes that no text begins with.
const MAGIC: [(&[u8], &str, &str); 14] = [
    (b"PK\x03\x04", "a zip archive", UNPACK),
    (b"PK\x05\x06", "an empty zip archive", UNPACK),
    (
        b"\xfd7zXZ\0",
        "compressed with xz",
        "unpack it with `xz -d`; gzip and zstd can be read as they are",
    ),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive", UNPACK),
    (
        b"\x04\x22\x4d\x18",
        "compressed with lz4",
        "unpack it with `lz4 -d`; gzip and zstd can be read as they are",
    ),
    (
        b"\x1f\x9d",
        "compressed with compress",
        "unpack it with `gzip -d`; gzip and zstd can be read as they are",
    ),
    (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "a document of an old Excel or Word", EXPORT),
    (b"ARROW1\0\0", "an Arrow file", EXPORT),
    (b"\x89HDF\r\n\x1a\n", "an HDF5 file", EXPORT),
    (b"\x93NUMPY", "a NumPy array", EXPORT),
    (b"SQLite format 3\0", "an SQLite database", EXPORT),
    (
        b"\xff\xfe\0\0",
        "text in UTF-32",
        "convert it to UTF-8, for example with `iconv -f UTF-32 -t UTF-8`",
    ),
    (b"\xff\xfe", "text in UTF-16", CONVERT),
    (b"\xfe\xff", "text in UTF-16", CONVERT),
];

/// The formats that begin with letters. A file is one of them only if bytes follow that no text
/// contains.
const LETTERS: [(&[u8], &str, &str); 6] = [
    (b"PAR1", "a Parquet file", EXPORT),
    (
        b"BZh",
        "compressed with bzip2",
        "unpack it with `bzip2 -d`; gzip and zstd can be read as they are",
    ),
    (
        b"LZIP",
        "compressed with lzip",
        "unpack it with `lzip -d`; gzip and zstd can be read as they are",
    ),
    (b"FEA1", "a Feather file", EXPORT),
    (b"ORC", "an ORC file", EXPORT),
    (b"Obj\x01", "an Avro file", EXPORT),
];

/// Refuses data that begin with `head` if they are not text.
pub(crate) fn refuse(file: &str, head: &[u8]) -> Result<(), DataError> {
    match recognise(head) {
        Some((what, remedy)) => Err(DataError::NoText { file: file.to_owned(), what, remedy }),
        None => Ok(()),
    }
}

/// Returns the kind of the data that begin with `head`, and a remedy; `None` for a text.
fn recognise(head: &[u8]) -> Option<(&'static str, &'static str)> {
    let begins = |(magic, what, remedy): &(&[u8], &'static str, &'static str)| {
        head.starts_with(magic).then_some((*what, *remedy))
    };
    let has = |part: &[u8]| head.windows(part.len()).any(|window| window == part);
    let is_binary =
        || head.iter().any(|&byte| byte < b' ' && !matches!(byte, b'\t' | b'\n' | b'\r'));
    if head.starts_with(b"PK\x03\x04") && (has(b"[Content_Types].xml") || has(b"xl/")) {
        return Some(("an Excel workbook (xlsx)", EXPORT));
    }
    if head.get(257..262) == Some(b"ustar") && is_binary() {
        return Some(("a tar archive", UNPACK));
    }
    if Packing::of(head).is_some() {
        return Some(("compressed twice", "unpack it once"));
    }
    let known = MAGIC
        .iter()
        .find_map(begins)
        .or_else(|| LETTERS.iter().find_map(begins).filter(|_| is_binary()));
    known.or_else(|| is_utf16(head).then_some(("text in UTF-16", CONVERT)))
}

/// Returns whether a text without a byte order mark is UTF-16. If its first letters are ASCII,
/// every other one of its first bytes is 0.
fn is_utf16(head: &[u8]) -> bool {
    let (pairs, _) = head[..head.len().min(16)].as_chunks::<2>();
    let all = |is: fn(&[u8; 2]) -> bool| pairs.len() > 1 && pairs.iter().all(is);
    all(|pair| pair[0] != 0 && pair[1] == 0) || all(|pair| pair[0] == 0 && pair[1] != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn what(head: &[u8]) -> &'static str {
        recognise(head).map_or("text", |(what, _)| what)
    }

    #[test]
    fn containers_are_told_by_their_first_bytes() {
        let mut tar = vec![0; HEAD_BYTES];
        tar[..5].copy_from_slice(b"t.csv");
        tar[257..262].copy_from_slice(b"ustar");
        let utf16 =
            |text: &str| text.encode_utf16().flat_map(u16::to_le_bytes).collect::<Vec<u8>>();
        let big = |text: &str| text.encode_utf16().flat_map(u16::to_be_bytes).collect::<Vec<u8>>();
        for (head, expected) in [
            (b"PK\x03\x04\x14\0\x06\0t.csv".to_vec(), "a zip archive"),
            (b"PK\x03\x04\x14\0\x06\0[Content_Types].xml".to_vec(), "an Excel workbook (xlsx)"),
            (b"BZh91AY&SY\x01\x02".to_vec(), "compressed with bzip2"),
            (b"\xfd7zXZ\0\0".to_vec(), "compressed with xz"),
            (b"PAR1\x15\x04\x15".to_vec(), "a Parquet file"),
            (tar, "a tar archive"),
            (b"\x1f\x8b\x08".to_vec(), "compressed twice"),
            (b"\x28\xb5\x2f\xfd".to_vec(), "compressed twice"),
            ([b"\xff\xfe".to_vec(), utf16("x,y")].concat(), "text in UTF-16"),
            ([b"\xfe\xff".to_vec(), big("x,y")].concat(), "text in UTF-16"),
            (utf16("x,y\n1,2\n"), "text in UTF-16"),
            (big("x,y\n1,2\n"), "text in UTF-16"),
        ] {
            assert_eq!(what(&head), expected, "{head:x?}");
        }
    }

    #[test]
    fn texts_are_left_alone() {
        let tar_like = [vec![b'x'; 257], b"ustar".to_vec()].concat();
        assert_eq!(what(&tar_like), "text");
        for text in [
            "",
            "x",
            "x,y\n1,2\n",
            "PAR1,ORC\n1,2\n",
            "BZh9,y\n",
            "ORC\tLZIP\r\n",
            "Obj,y\n",
            "PK,y\n",
            "é,漢\n",
            "\u{feff}x,y",
        ] {
            assert_eq!(what(text.as_bytes()), "text", "{text:?}");
        }
        assert_eq!((what(b"\0"), what(b"x\0\0y"), what(b"x\0")), ("text", "text", "text"));
    }
}
