//! Writes the metrics of a run as event files of TensorBoard.
//!
//! An event file is a sequence of records (`TFRecord`), each a length in 8 bytes, its checksum, the
//! data and their checksum; all are little-endian. The data are a message `Event`
//! (tensorflow/core/util/event.proto, tensorflow/core/framework/summary.proto).

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::metrics::Metrics;
use super::protobuf::Message;
use super::record::{EvaluationRecord, Outcome};

/// The fields of `Event`.
const WALL_TIME: u32 = 1;
const STEP: u32 = 2;
const FILE_VERSION: u32 = 3;
const SUMMARY: u32 = 5;
const SESSION_LOG: u32 = 7;
/// The fields of `Summary` and of its `Value`.
const VALUE: u32 = 1;
const TAG: u32 = 1;
const SIMPLE_VALUE: u32 = 2;
/// The field of `SessionLog`, and its value `START`.
const STATUS: u32 = 1;
const START: i64 = 1;

/// A file of events that TensorBoard reads, also while it grows.
#[derive(Debug)]
pub struct EventFile {
    file: File,
}

impl EventFile {
    /// Creates a new file in a folder, which is created if necessary. `step` is the step that the
    /// run has come to: events of later steps in other files of the folder are of a run that was
    /// interrupted, and TensorBoard drops them.
    ///
    /// # Errors
    /// Returns the error of the system.
    pub fn create(folder: &Path, step: u64) -> io::Result<Self> {
        fs::create_dir_all(folder)?;
        let seconds = since_1970().as_secs();
        // TensorBoard finds the file by a part of its name, and reads several in their order.
        let names = (0..).map(|k| format!("events.out.tfevents.{seconds:010}.bagdot.{k:03}"));
        for name in names {
            match OpenOptions::new().write(true).create_new(true).open(folder.join(name)) {
                Ok(file) => {
                    let mut events = Self { file };
                    let version =
                        |event: Message<'static>| event.text(FILE_VERSION, "brain.Event:2");
                    events.write(0, version)?;
                    let start = || Message::default().integer(STATUS, START);
                    events.write(step + 1, |event| event.message(SESSION_LOG, start()))?;
                    return Ok(events);
                }
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error),
            }
        }
        Err(io::ErrorKind::AlreadyExists.into())
    }

    /// Writes the metrics of an evaluation, as `auc/validation`, `logloss/training` and so on, and
    /// the number of rows per second.
    ///
    /// # Errors
    /// Returns the error of the system.
    pub fn evaluation(&mut self, record: &EvaluationRecord) -> io::Result<()> {
        let mut values = metrics("training", &record.train);
        values.extend(record.validation.iter().flat_map(|of| metrics("validation", of)));
        values.push(("rows_per_second".into(), record.samples_per_second));
        self.values(record.step, values)
    }

    /// Writes the metrics of the test rows, at the step of the best model.
    ///
    /// # Errors
    /// Returns the error of the system.
    pub fn outcome(&mut self, outcome: &Outcome) -> io::Result<()> {
        let values = outcome.test.iter().flat_map(|of| metrics("test", of)).collect();
        self.values(outcome.best_step, values)
    }

    fn values(&mut self, step: u64, values: Vec<(String, f64)>) -> io::Result<()> {
        let value = |(tag, value): (String, f64)| {
            Message::default().text(TAG, &tag).float(SIMPLE_VALUE, value as f32)
        };
        let summary = Message::default().messages(VALUE, values.into_iter().map(value));
        self.write(step, |event| event.message(SUMMARY, summary))
    }

    fn write(
        &mut self,
        step: u64,
        what: impl FnOnce(Message<'static>) -> Message<'static>,
    ) -> io::Result<()> {
        let event = Message::default()
            .double(WALL_TIME, since_1970().as_secs_f64())
            .integer(STEP, step as i64);
        let mut data = Vec::new();
        what(event).write(&mut data)?;
        // One call for a record, so that a reader hardly ever meets half of one.
        self.file.write_all(&record_of(&data))
    }
}

/// Returns the metrics of a part of the rows that are defined, with their tags.
fn metrics(part: &str, metrics: &Metrics) -> Vec<(String, f64)> {
    let named = [
        ("auc", metrics.auc),
        ("logloss", Some(metrics.logloss)),
        ("loss", metrics.loss),
        ("ne", metrics.ne),
        ("calibration", metrics.calibration),
        ("accuracy", Some(metrics.accuracy)),
    ];
    named.into_iter().filter_map(|(name, value)| Some((format!("{name}/{part}"), value?))).collect()
}

fn since_1970() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// Returns data as a record, with its length and both checksums.
fn record_of(data: &[u8]) -> Vec<u8> {
    let length = (data.len() as u64).to_le_bytes();
    let checksum = |bytes: &[u8]| masked(crc32c(bytes)).to_le_bytes();
    [&length, &checksum(&length)[..], data, &checksum(data)].concat()
}

/// Masks a checksum as `TFRecord` does, so that data may hold checksums of their own.
fn masked(checksum: u32) -> u32 {
    checksum.rotate_right(15).wrapping_add(0xa282_ead8)
}

/// Returns the CRC-32C (Castagnoli) of bytes, bit by bit: events are short.
fn crc32c(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |crc, &byte| {
        (0..8).fold(crc ^ u32::from(byte), |crc, _| {
            (crc >> 1) ^ if crc & 1 == 1 { 0x82f6_3b78 } else { 0 }
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksums_are_those_of_the_standard() {
        // RFC 3720, appendix B.4.
        assert_eq!(crc32c(&[0; 32]), 0x8a91_36aa);
        assert_eq!(crc32c(&[0xff; 32]), 0x62a8_ab43);
        assert_eq!(crc32c(&(0..32).collect::<Vec<u8>>()), 0x46dd_794e);
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
    }

    #[test]
    fn a_record_has_its_length_and_two_checksums() {
        let record = record_of(b"abc");
        assert_eq!((record.len(), &record[..8]), (8 + 4 + 3 + 4, &[3, 0, 0, 0, 0, 0, 0, 0][..]));
        assert_eq!(record[12..15], *b"abc");
        let checksums = [&record[..8], b"abc"].map(|bytes| masked(crc32c(bytes)).to_le_bytes());
        assert_eq!((&record[8..12], &record[15..]), (&checksums[0][..], &checksums[1][..]));
        // As TensorBoard computes it.
        assert_eq!(masked(crc32c(b"123456789")), 0xc78a_b0e5);
    }
}
