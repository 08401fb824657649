//! Checks a [`Config`] as far as that needs no file.

use super::config::{Config, EvaluateEvery, ModelConfig, PrecisionKind, TrainConfig};
use super::optimizer::{GroupConfig, ScheduleConfig};
use crate::dtype::DType;
use crate::nn::TableInit;
use crate::ops::cast::check_power_of_two;
use crate::ops::{Loss, WeightDecay};

impl Config {
    /// Checks the configuration as far as that needs no data. [`Self::parse`] calls this. The
    /// reader of a configuration from elsewhere, such as a manifest, must call it.
    ///
    /// # Errors
    /// Returns a message that names the key and explains its fault.
    pub fn validate(&self) -> Result<(), String> {
        validate(self)
    }
}

fn validate(config: &Config) -> Result<(), String> {
    config.data.validate().map_err(|error| error.to_string())?;
    model(&config.model)?;
    train(&config.train)?;
    let within = |name: &str, value: f32| {
        check(format!("[train]: `{name}`"), value, "in [0, 1)", |x| (0.0..1.0).contains(&x))
    };
    within("averaging", config.averaging())?;
    within("bag_dropout", config.bag_dropout())?;
    if config.averaging() > 0.0 && config.model.table_dtype != DType::F32 {
        return Err("[train]: `averaging` needs `table_dtype = \"f32\"`".into());
    }
    if let Some(scale) = config.train.loss_scale {
        if config.model.precision != PrecisionKind::F16 {
            return Err(
                "[train]: `loss_scale` has a meaning with `precision = \"f16\"` only".into()
            );
        }
        check_power_of_two("[train]", "loss_scale", scale).map_err(|error| error.to_string())?;
    }
    if config.bag_dropout() > 0.0 && config.has_max() {
        return Err(
            "[train]: `bag_dropout` scales the remaining ids, which has no meaning with max pooling"
                .into(),
        );
    }
    Ok(())
}

fn model(model: &ModelConfig) -> Result<(), String> {
    if model.bottom_mlp.is_empty() {
        return Err(
            "[model]: `bottom_mlp` is empty, but its last size is the dimension of the embeddings"
                .into(),
        );
    }
    for (name, sizes) in [("bottom_mlp", &model.bottom_mlp), ("top_mlp", &model.top_mlp)] {
        if sizes.contains(&0) {
            return Err(format!(
                "[model]: `{name}` is {sizes:?}, but every size must be 1 or more"
            ));
        }
    }
    let (name, spread) = match model.table_init {
        TableInit::InverseRoot => return Ok(()),
        TableInit::Uniform(bound) => ("uniform", bound),
        TableInit::Normal(deviation) => ("normal", deviation),
    };
    // A 16-bit table could not hold larger values, and they are of no use.
    check(format!("[model]: `table_init.{name}`"), spread, "between 0 and 1000", |x| {
        (0.0..=1000.0).contains(&x)
    })
}

fn train(train: &TrainConfig) -> Result<(), String> {
    if train.epochs == 0 || train.batch_size == 0 || train.members == 0 {
        return Err("[train]: `epochs`, `batch_size` and `members` must be 1 or more".into());
    }
    if let Some(EvaluateEvery::Steps(0) | EvaluateEvery::Rows(0)) = train.evaluate_every {
        return Err("[train]: `evaluate_every` is 0, but must be 1 or more".into());
    }
    train.optimizers(1)?;
    for (section, group) in
        [("optimizer", &train.optimizer), ("tables", &train.tables), ("dense", &train.dense)]
    {
        self::group(&format!("[train.{section}]"), group)?;
    }
    schedule(&train.schedule)?;
    let threshold = "[train]: `loss_threshold`".to_owned();
    check(threshold, train.loss_threshold, "in [0, 0.5)", |x| (0.0..0.5).contains(&x))?;
    let Loss::WeightedBce { negative, positive } = train.loss else { return Ok(()) };
    [("negative", negative), ("positive", positive)].into_iter().try_for_each(|(name, weight)| {
        check(format!("[train]: `loss.weighted_bce.{name}`"), weight, ABOVE_ZERO, is_above_zero)
    })
}

fn group(section: &str, group: &GroupConfig) -> Result<(), String> {
    let decay = match group.weight_decay {
        Some(WeightDecay::L2(decay) | WeightDecay::Decoupled(decay)) => Some(decay),
        Some(WeightDecay::None) | None => None,
    };
    let number = |name: &str, value: Option<f32>, expected: &str, is_right: fn(f32) -> bool| {
        value.map_or(Ok(()), |value| {
            check(format!("{section}: `{name}`"), value, expected, is_right)
        })
    };
    let not_negative = |x: f32| x.is_finite() && x >= 0.0;
    for (name, value) in
        [("learning_rate", group.learning_rate), ("eps", group.eps), ("weight_decay", decay)]
    {
        number(name, value, "a number of 0 or more", not_negative)?;
    }
    for (name, value) in [("beta1", group.beta1), ("beta2", group.beta2)] {
        number(name, value, "in [0, 1)", |x| (0.0..1.0).contains(&x))?;
    }
    number("max_gradient", group.max_gradient, ABOVE_ZERO, is_above_zero)
}

fn schedule(schedule: &ScheduleConfig) -> Result<(), String> {
    let key = |name: &str| format!("[train.schedule]: `{name}`");
    if let Some(epochs) = schedule.decay_epochs {
        // This number of steps can be counted for any number of steps per epoch.
        check(key("decay_epochs"), epochs, "between 0 and 4294967295", |x| {
            (0.0..=f64::from(u32::MAX)).contains(&x)
        })?;
    }
    check(key("power"), schedule.power, ABOVE_ZERO, is_above_zero)?;
    check(key("floor"), schedule.floor, "in [0, 1)", |x| (0.0..1.0).contains(&x))
}

const ABOVE_ZERO: &str = "a number above 0";

fn is_above_zero(x: f32) -> bool {
    x.is_finite() && x > 0.0
}

/// Refuses a value that is not right. A NaN is refused too, since `is_right` is false for it.
fn check<T: Copy + std::fmt::Display>(
    key: String,
    value: T,
    expected: &str,
    is_right: impl Fn(T) -> bool,
) -> Result<(), String> {
    if is_right(value) { Ok(()) } else { Err(format!("{key} is {value}, but must be {expected}")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nonsense_is_named_by_its_key() {
        let data = "[data]\ntrain = 'a.csv'\nlabel = 'y'\ncategorical = [{ column = 'c' }]\n";
        let error = |text: &str| Config::parse(&format!("{data}{text}")).unwrap_err();
        for (text, expected) in [
            (
                "[train.optimizer]\nlearning_rate = nan",
                "[train.optimizer]: `learning_rate` is NaN, but must be a number of 0",
            ),
            ("[train.tables]\nlearning_rate = -0.1", "[train.tables]: `learning_rate` is -0.1"),
            ("[train.dense]\nlearning_rate = inf", "[train.dense]: `learning_rate` is inf"),
            ("[train.dense]\neps = -1e-8", "[train.dense]: `eps` is"),
            ("[train.dense]\nbeta1 = 1.0", "[train.dense]: `beta1` is 1, but must be in [0, 1)"),
            ("[train.tables]\nbeta2 = nan", "[train.tables]: `beta2` is NaN"),
            (
                "[train.optimizer]\nweight_decay = { l2 = -1.0 }",
                "[train.optimizer]: `weight_decay` is -1",
            ),
            (
                "[train.optimizer]\nmax_gradient = 0.0",
                "[train.optimizer]: `max_gradient` is 0, but must be a number above 0",
            ),
            ("[train.optimizer]\nmax_gradient = nan", "[train.optimizer]: `max_gradient` is NaN"),
            (
                "[train.schedule]\npower = nan",
                "[train.schedule]: `power` is NaN, but must be a number above 0",
            ),
            ("[train.schedule]\npower = 0.0", "[train.schedule]: `power` is 0"),
            (
                "[train.schedule]\ndecay_epochs = nan",
                "[train.schedule]: `decay_epochs` is NaN, but must be between 0 and",
            ),
            ("[train.schedule]\ndecay_epochs = -1.0", "[train.schedule]: `decay_epochs` is -1"),
            ("[train.schedule]\ndecay_epochs = 1e300", "[train.schedule]: `decay_epochs` is 1"),
            (
                "[train.schedule]\nfloor = 1.0",
                "[train.schedule]: `floor` is 1, but must be in [0, 1)",
            ),
            (
                "[train]\nloss = { weighted_bce = { negative = -1.0, positive = 1.0 } }",
                "[train]: `loss.weighted_bce.negative` is -1",
            ),
            (
                "[train]\nloss = { weighted_bce = { negative = 1.0, positive = 0.0 } }",
                "[train]: `loss.weighted_bce.positive` is 0",
            ),
            (
                "[train]\nloss_threshold = 0.5",
                "[train]: `loss_threshold` is 0.5, but must be in [0, 0.5)",
            ),
            ("[train]\naveraging = 1.0", "[train]: `averaging` is 1"),
            ("[train]\nbag_dropout = nan", "[train]: `bag_dropout` is NaN"),
            (
                "[train]\nevaluate_every = { rows = 0 }",
                "[train]: `evaluate_every` is 0, but must be 1 or more",
            ),
            (
                "[train]\nmembers = 0",
                "[train]: `epochs`, `batch_size` and `members` must be 1 or more",
            ),
            (
                "[model]\ntable_init = { uniform = -1.0 }",
                "[model]: `table_init.uniform` is -1, but must be between 0 and 1000",
            ),
            ("[model]\ntable_init = { normal = nan }", "[model]: `table_init.normal` is NaN"),
            ("[model]\nbottom_mlp = []", "[model]: `bottom_mlp` is empty"),
            (
                "[model]\ntop_mlp = [8, 0]",
                "[model]: `top_mlp` is [8, 0], but every size must be 1 or more",
            ),
        ] {
            let message = error(text);
            assert!(message.starts_with(expected), "{text}: {message}");
        }
    }
}
