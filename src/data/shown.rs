//! Formats text from files for people and terminals.

use std::fmt::{self, Display, Write};

/// A text or name from a file, escaped for output: control characters, line ends, invisible
/// characters and those that change the direction of writing appear as in `\u{1b}`.
pub(crate) struct Shown<'a>(pub(crate) &'a str);

impl Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_escaped(f, self.0, |_| false)
    }
}

/// A message of several lines, escaped like [`Shown`] except for line ends and tabs.
#[cfg(feature = "cli")]
pub(crate) struct ShownLines<'a>(pub(crate) &'a str);

#[cfg(feature = "cli")]
impl Display for ShownLines<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_escaped(f, self.0, |c| matches!(c, '\n' | '\t'))
    }
}

/// Returns the beginning of a text: enough to find it in the file.
pub(crate) fn shortened(text: &str) -> String {
    const SHOWN: usize = 60;
    match text.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

/// Formats a share in percent. Rounding never turns a share into 0 % or 100 %.
pub(crate) fn percent(share: f64) -> String {
    match 100.0 * share {
        0.0 => "0 %".into(),
        below if below < 0.1 => "less than 0.1 %".into(),
        above if above < 100.0 => format!("{:.1} %", above.min(99.9)),
        _ => "100 %".into(),
    }
}

fn write_escaped(
    f: &mut fmt::Formatter<'_>,
    text: &str,
    stays: impl Fn(char) -> bool,
) -> fmt::Result {
    for c in text.chars() {
        match c {
            c if stays(c) || !is_hidden(c) => f.write_char(c)?,
            '\n' | '\r' | '\t' => write!(f, "{}", c.escape_default())?,
            c => write!(f, "{}", c.escape_unicode())?,
        }
    }
    Ok(())
}

/// Returns whether a character is a control character (C0, C1), ends a line, has no width, or sets
/// the direction of writing.
fn is_hidden(c: char) -> bool {
    let zero_width = matches!(
        c,
        '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2060}'..='\u{206f}'
            | '\u{feff}'
    );
    let separates =
        matches!(c, '\u{2028}'..='\u{202e}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}');
    c.is_control() || zero_width || separates
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_reaches_a_terminal_that_controls_it() {
        let text = "a\u{1b}[2Jb\u{7}\u{9b}1m\u{7f}\r\n\t\u{202e}x\u{2066}\u{feff}é \"漢\\";
        let shown =
            "a\\u{1b}[2Jb\\u{7}\\u{9b}1m\\u{7f}\\r\\n\\t\\u{202e}x\\u{2066}\\u{feff}é \"漢\\";
        assert_eq!(Shown(text).to_string(), shown);
        assert!(Shown(text).to_string().chars().all(|c| !is_hidden(c)));
    }

    #[test]
    #[cfg(feature = "cli")]
    fn lines_of_a_message_stay() {
        assert_eq!(ShownLines("a\n\tb\u{1b}\r").to_string(), "a\n\tb\\u{1b}\\r");
    }
}
