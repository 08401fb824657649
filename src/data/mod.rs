//! Reads text into batches: the settings that give files and columns a meaning, the encoder that is
//! learned from the training rows, and the encoded rows.
//!
//! 1. [`DataConfig`] is the user's configuration: files, the label, the split, dense and
//!    categorical columns.
//! 2. [`Encoder::fit`] streams the files once (twice with a split by time) and learns from the
//!    training rows only: dictionaries, means, quantiles. An encoder is self-contained: stored as
//!    JSON, it encodes raw text anywhere.
//! 3. [`Splits::load`] streams the files again and keeps the encoded rows in memory; [`RowStream`]
//!    encodes rows in constant memory.
//! 4. [`Batch`] is the input of a model: `dense` of shape `[B, num_dense]` and key-major bags, as
//!    in [`Jagged`](crate::Jagged).
//!
//! No contents of a file make this module panic: data that cannot be read are a [`DataError`] that
//! names file, line and column.
//!
//! ```
//! use bagdot::data::{Batch, DataConfig, Encoder, Splits};
//! # let folder = tempfile::tempdir()?;
//! # let page = |k: usize| ["a", "b", "c", "d"][k % 4];
//! # let rows: String = (0..64).map(|k| format!("{},{},{}\n", k % 3, page(k), k % 2)).collect();
//! # std::fs::write(folder.path().join("clicks.csv"), format!("age,page,clicked\n{rows}"))?;
//! let config: DataConfig = toml::from_str(r#"
//!     train = "clicks.csv"
//!     label = "clicked"
//!     dense = [{ column = "age", transform = "zscore" }]
//!     categorical = [{ column = "page" }]
//! "#)?;
//! let encoder = Encoder::fit(&config, folder.path(), &mut |_read, _total| ())?;
//! assert_eq!(encoder.features()[0].num_embeddings, 5); // a, b, c, d, and row 0 for all others
//! let splits = Splits::load(&config, &encoder, folder.path(), &mut |_read, _total| ())?;
//! let mut batch = Batch::default();
//! splits.train.gather(&[0, 1, 2], &mut batch);
//! assert_eq!((batch.dense.len(), batch.offsets.as_slice()), (3, [0, 1, 2, 3].as_slice()));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
#![forbid(unsafe_code)]

mod bytes;
mod categorical;
mod columns;
mod config;
mod container;
mod coverage;
mod criteo;
mod dataset;
mod date;
mod delimited;
mod dense;
mod derive;
mod dictionary;
mod encoder;
mod error;
mod fields;
mod fit;
mod hash;
mod join;
mod label;
mod label_values;
mod meter;
mod note;
mod number;
mod part;
mod patterns;
mod peek;
#[cfg(feature = "cli")]
mod profile;
mod row_encoder;
mod rows;
mod shown;
mod source;
mod splits;
mod splitter;
mod statistics;
mod stream;
mod synthetic;
mod texts;
mod unknown_share;
mod unpack;
mod validate;
mod wildcard;

#[cfg(feature = "cli")]
pub(crate) use self::{
    date::Date, error::Place, label::Label, number::Notation, number::parse as parse_number,
    profile::*, shown::percent, wildcard::find_files,
};
pub use config::{
    Categorical, Criteo, DataConfig, Dense, Derive, Format, Join, JoinOn, Missing, Split,
    Transform, Unknown,
};
pub use coverage::Coverage;
pub(crate) use dataset::position_of;
pub use dataset::{Batch, Dataset};
pub use date::{DateOrder, DatePart};
pub use encoder::{EncodedFeature, Encoder};
pub use error::{DataError, Result};
pub use hash::hash64;
pub use note::Note;
pub use part::Part;
pub(crate) use shown::shortened;
#[cfg(feature = "cli")]
pub(crate) use shown::{Shown, ShownLines};
pub use source::Source;
pub use splits::Splits;
pub use stream::{LabelUse, ReadReport, RowStream};
pub use synthetic::{IdDistribution, Synthetic};
pub use texts::Texts;
pub use unknown_share::UnknownShare;
