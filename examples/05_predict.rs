//! Loads a model that `bagdot train` kept, and predicts rows in memory.
//!
//! `cargo run --release -- train examples/clothing.toml`, then
//! `cargo run --release --example 05_predict runs/clothing`

use std::error::Error;
use std::io::Cursor;
use std::path::Path;

use bagdot::Cpu;
use bagdot::data::{LabelUse, Source};
use bagdot::train::{TrainError, TrainedModel};

/// Rows with the columns that the model was trained with; columns may come in any order.
const ROWS: &str = "\
words,age,positive_feedback,division,department,class,clothing_id
love perfect comfortable,34,3,General,Dresses,Dresses,1078
returned disappointed cheap,51,0,General,Tops,Knits,862
";

fn main() -> Result<(), Box<dyn Error>> {
    let path =
        std::env::args().nth(1).ok_or("give the folder of a model, such as runs/clothing")?;
    for probability in predict(Path::new(&path), ROWS)? {
        println!("{probability:.3}");
    }
    Ok(())
}

/// Returns the probability of each row of some text.
fn predict(model: &Path, rows: &'static str) -> Result<Vec<f32>, TrainError> {
    let mut model = TrainedModel::open(Cpu::new()?, model)?;
    let source = Source::Reader { name: "rows".into(), reader: Box::new(Cursor::new(rows)) };
    let mut probabilities = Vec::new();
    model.predict([source], LabelUse::Optional, None, |batch, _labels, _progress| {
        probabilities.extend_from_slice(batch);
        Ok::<(), TrainError>(())
    })?;
    Ok(probabilities)
}
