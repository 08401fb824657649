//! Splits PTX text into tokens.

use super::error::{LoadError, Result};

/// A token.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Token<'a> {
    /// A name, a directive, an opcode or a number.
    Word(&'a str),
    /// The text of a string.
    Text(&'a str),
    /// A punctuation mark.
    Mark(u8),
}

/// A token with its line and its offset in the text.
#[derive(Clone, Copy, Debug)]
pub(super) struct Placed<'a> {
    pub(super) token: Token<'a>,
    pub(super) line: u32,
    pub(super) start: usize,
}

/// Returns the tokens of a text.
pub(super) fn tokens(source: &str) -> Result<Vec<Placed<'_>>> {
    let bytes = source.as_bytes();
    let mut out = Vec::with_capacity(bytes.len() / 5);
    let (mut at, mut line) = (0, 1u32);
    let word = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'_' | b'$' | b'%' | b'.');
    while at < bytes.len() {
        let start = at;
        match bytes[at] {
            b'\n' => {
                line += 1;
                at += 1;
            }
            c if c.is_ascii_whitespace() => at += 1,
            b'/' if bytes.get(at + 1) == Some(&b'/') => {
                while at < bytes.len() && bytes[at] != b'\n' {
                    at += 1;
                }
            }
            b'/' if bytes.get(at + 1) == Some(&b'*') => {
                let end = source[at..]
                    .find("*/")
                    .ok_or_else(|| LoadError::new(line, "a comment without an end"))?;
                line += source[at..at + end].matches('\n').count() as u32;
                at += end + 2;
            }
            b'"' => {
                let end = source[at + 1..]
                    .find('"')
                    .ok_or_else(|| LoadError::new(line, "a string without an end"))?;
                at += end + 2;
                out.push(Placed { token: Token::Text(&source[start + 1..at - 1]), line, start });
            }
            c if word(c) => {
                // "::" is part of an opcode (ld.global.L1::no_allocate), ":" ends a label.
                while at < bytes.len() && (word(bytes[at]) || bytes[at..].starts_with(b"::")) {
                    at += if bytes[at] == b':' { 2 } else { 1 };
                }
                let mut from = start;
                // Inline assembly may write ".reg.b32 x" where nvcc writes ".reg .b32 x".
                if source[start..at].starts_with(".reg.") {
                    out.push(Placed { token: Token::Word(".reg"), line, start });
                    from += ".reg".len();
                }
                out.push(Placed { token: Token::Word(&source[from..at]), line, start });
            }
            c => {
                at += 1;
                out.push(Placed { token: Token::Mark(c), line, start });
            }
        }
    }
    Ok(out)
}

/// Returns the bits of a number as an instruction reads them: an integer in 64 bits, a number with
/// 0f or 0d as its pattern.
pub(super) fn number(text: &str) -> Option<u64> {
    let lower = text.as_bytes().first().is_some_and(u8::is_ascii_digit).then_some(text)?;
    for (prefix, radix) in [
        ("0f", 16),
        ("0F", 16),
        ("0d", 16),
        ("0D", 16),
        ("0x", 16),
        ("0X", 16),
        ("0b", 2),
        ("0B", 2),
    ] {
        if let Some(digits) = lower.strip_prefix(prefix) {
            return u64::from_str_radix(digits.trim_end_matches('U'), radix).ok();
        }
    }
    lower.trim_end_matches('U').parse().ok()
}
