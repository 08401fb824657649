//! Finds the fields of a row by the names in the header.

use super::error::{DataError, Place, Result};

/// Returns the number of the field with this name, if there is one.
pub(crate) fn field_of(header: &[String], name: &str, file: &str) -> Result<Option<usize>> {
    let mut fields =
        header.iter().enumerate().filter(|(_, column)| *column == name).map(|(field, _)| field);
    let first = fields.next();
    match fields.next() {
        Some(_) => {
            Err(DataError::DuplicateColumn { file: file.to_owned(), column: name.to_owned() })
        }
        None => Ok(first),
    }
}

/// Returns a field as text.
#[inline]
pub(crate) fn text_of<'a>(field: &'a [u8], place: Place<'_>, column: &str) -> Result<&'a str> {
    std::str::from_utf8(field).map_err(|_| place.not_utf8(column))
}
