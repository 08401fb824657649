//! `bagdot info`

use std::path::PathBuf;

use super::{CliResult, print_line};
use crate::Cpu;
use crate::train::TrainedModel;

/// Say what this program can use, or what a model directory holds.
#[derive(clap::Args, Debug)]
pub(super) struct Info {
    /// A model directory
    model: Option<PathBuf>,
}

impl Info {
    pub(super) fn run(&self) -> CliResult {
        let cpu = Cpu::new()?;
        match &self.model {
            None => {
                print_line(concat!("bagdot ", env!("CARGO_PKG_VERSION")))?;
                print_line(&format!("cpu: {} threads", cpu.num_threads()))?;
                print_line("cuda: not in this version")?;
            }
            Some(path) => {
                let model = TrainedModel::open(cpu, path)?;
                let (manifest, encoder) = (model.manifest(), model.encoder());
                print_line(&format!("{}: {}", path.display(), manifest.created_by))?;
                for member in model.members() {
                    let config = member.config();
                    let (bottom, top) = (&config.bottom_mlp, &config.top_mlp);
                    print_line(&format!("{} parameters; bottom {bottom:?}, top {top:?}", member.num_parameters()))?;
                }
                print_line(&format!("dense: {}", encoder.dense_names().join(", ")))?;
                for feature in encoder.features() {
                    print_line(&format!(
                        "sparse: {} ({} rows, {:?})",
                        feature.name, feature.num_embeddings, feature.pooling
                    ))?;
                }
                let progress = &manifest.progress;
                let state = if progress.finished { "finished" } else { "unfinished" };
                print_line(&format!("{state}: {} epochs, best {}", progress.epochs_done, progress.best_epoch))?;
            }
        }
        Ok(())
    }
}
