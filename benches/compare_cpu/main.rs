//! The side of bagdot in `scripts/compare_cpu.sh`. It reads a JSON object from each line of its
//! input, which says the work to measure, and answers with a line: the times of the runs in
//! milliseconds, or the reason of a refusal. It keeps the inputs of the last line, so that the same
//! line again measures the same work. Ids come from a file, so that the peers get the same ones. It
//! has no arguments; `cargo bench` passes one, which is ignored.

mod dlrm;
mod embedding;
#[path = "../common/gather.rs"]
mod gather;
mod interaction;
mod memory;

use std::error::Error;
use std::io::{BufRead, Write};
use std::time::Instant;

use bagdot::Cpu;
use serde::Deserialize;
use serde_json::{Value, json};

/// The work to measure, and the conditions.
#[derive(Deserialize)]
struct Request {
    threads: usize,
    /// The time of the measurement, at least.
    seconds: f64,
    #[serde(flatten)]
    work: Work,
}

#[derive(Deserialize)]
#[serde(tag = "work", rename_all = "snake_case")]
enum Work {
    Embedding(embedding::Shape),
    Interaction(interaction::Shape),
    Dlrm(dlrm::Shape),
}

/// A function that runs on one of several sets of inputs.
type Step = Box<dyn FnMut(usize) -> bagdot::Result<()>>;

/// The work of a request, with its inputs.
struct Run {
    work: Step,
    floor: Option<Floor>,
}

/// The gather that bounds the work: see `gather.rs`.
struct Floor {
    gather: Step,
    /// The bytes that the work and the gather move.
    bytes: [usize; 2],
}

impl Run {
    fn without_floor(work: impl FnMut(usize) -> bagdot::Result<()> + 'static) -> Self {
        Self { work: Box::new(work), floor: None }
    }
}

fn prepare(request: Request) -> Result<Run, Box<dyn Error>> {
    let cpu = Cpu::with_threads(request.threads)?;
    match request.work {
        Work::Embedding(shape) => embedding::prepare(cpu, shape),
        Work::Interaction(shape) => interaction::prepare(cpu, &shape),
        Work::Dlrm(shape) => dlrm::prepare(cpu, shape),
    }
}

fn measure(run: &mut Step, seconds: f64) -> bagdot::Result<Vec<f64>> {
    const MIN_RUNS: usize = 7;
    for set in 0..2 {
        run(set)?;
    }
    let (start, mut times) = (Instant::now(), vec![]);
    while times.len() < MIN_RUNS || start.elapsed().as_secs_f64() < seconds {
        let before = Instant::now();
        run(times.len())?;
        times.push(before.elapsed().as_secs_f64() * 1e3);
    }
    Ok(times)
}

/// Measures the work of a line, and its floor.
fn answer(line: String, last: &mut Option<(String, f64, Run)>) -> Result<Value, Box<dyn Error>> {
    if last.as_ref().is_none_or(|(known, ..)| *known != line) {
        *last = None;
        let request: Request = serde_json::from_str(&line)?;
        *last = Some((line, request.seconds, prepare(request)?));
    }
    let Some((_, seconds, run)) = last else { return Err("no request".into()) };
    let times = measure(&mut run.work, *seconds)?;
    Ok(match &mut run.floor {
        None => json!({ "times": times }),
        Some(Floor { gather, bytes }) => {
            json!({ "times": times, "gather": measure(gather, *seconds)?, "bytes": bytes })
        }
    })
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut last = None;
    for line in std::io::stdin().lock().lines() {
        let answer = answer(line?, &mut last).unwrap_or_else(|reason| {
            eprintln!("refused: {reason}");
            json!({ "refused": reason.to_string() })
        });
        println!("{answer}");
        std::io::stdout().flush()?;
    }
    Ok(())
}
