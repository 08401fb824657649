//! The keys of a configuration file: the kinds of their values, their defaults, and what they mean.
//! They make the explanations of files that cannot be read, the reference, and the schema for
//! editors.

mod check;
#[cfg(feature = "cli")]
mod defaults;
mod reference;
mod schema;
#[cfg(test)]
mod tests;

pub(super) use check::first_fault;
#[cfg(feature = "cli")]
pub(super) use defaults::default_lines;
pub(super) use reference::reference;
pub(super) use schema::schema;

/// A key of a table.
struct Key {
    name: &'static str,
    kind: Kind,
    default: Preset,
    /// One or several valid lines.
    example: &'static str,
    doc: &'static str,
}

/// The value of a key that is left out.
enum Preset {
    /// The key must be there.
    Required,
    /// A value as it is written in the file.
    Value(&'static str),
    /// A value that depends on other settings, or the effect of having none.
    Words(&'static str),
    /// The defaults of the table's keys.
    OfKeys,
}

impl Key {
    fn is_required(&self) -> bool {
        matches!(self.default, Preset::Required)
    }
}

/// The kind of value that a key takes.
enum Kind {
    /// A whole number, up to this one.
    Whole(u64),
    Number,
    Switch,
    Text,
    Character,
    Choice(&'static [&'static str]),
    /// A list of whole numbers.
    Wholes,
    /// One value of this kind, or a list of them.
    OneOrMany(&'static Kind),
    Either(&'static [Kind]),
    Table(&'static [Key]),
    /// A table with exactly one of these keys.
    OneOf(&'static [Key]),
    /// A table in which the key of this name decides the other keys.
    Tagged(&'static str, &'static [(&'static str, &'static [Key])]),
    Tables(&'static [Key]),
}

use Kind::{
    Character, Choice, Either, Number, OneOf, OneOrMany, Switch, Table, Tables, Tagged, Text,
    Whole, Wholes,
};
use Preset::{OfKeys, Value, Words};

const fn key(
    name: &'static str,
    kind: Kind,
    default: Preset,
    example: &'static str,
    doc: &'static str,
) -> Key {
    Key { name, kind, default, example, doc }
}

const fn required(name: &'static str, kind: Kind, example: &'static str, doc: &'static str) -> Key {
    key(name, kind, Preset::Required, example, doc)
}

const U32: Kind = Whole(u32::MAX as u64);
const U64: Kind = Whole(u64::MAX);
const NONE: Preset = Words("none");

const FILE: &[Key] = &[
    required(
        "data",
        Table(DATA),
        "[data]\ntrain = \"clicks.csv\"\nlabel = \"clicked\"",
        "The files to read, and the meaning of their columns.",
    ),
    key(
        "model",
        Table(MODEL),
        OfKeys,
        "[model]\nbottom_mlp = [32, 16]",
        "The shape of the model, except for the sizes that the data decide.",
    ),
    key("train", Table(TRAIN), OfKeys, "[train]\nepochs = 15", "The settings of training."),
];

const DATA: &[Key] = &[
    key(
        "format",
        Choice(&["delimited", "criteo"]),
        Value("\"delimited\""),
        "format = \"criteo\"",
        "The syntax of the files: `delimited` for fields between delimiters, quoted as in RFC \
         4180, with the names of the columns in the first line; `criteo` for the Criteo click \
         logs. Files packed with gzip or zstd are recognised by their contents.",
    ),
    key(
        "train",
        OneOrMany(&Text),
        Words("must be there"),
        "train = \"clicks.csv\"",
        "The files, read in this order: paths, folders, and patterns such as `clicks/2024-*.csv`, \
         whose files are sorted by name. The order of the columns may differ between files. \
         Relative paths count from the folder of the configuration file.",
    ),
    key(
        "validation",
        OneOrMany(&Text),
        NONE,
        "validation = \"later.csv\"",
        "The files of the validation rows, only with `split = { by = \"file\" }`.",
    ),
    key(
        "test",
        OneOrMany(&Text),
        NONE,
        "test = \"last.csv\"",
        "The files of the test rows, only with `split = { by = \"file\" }`.",
    ),
    key(
        "delimiter",
        Character,
        Words("`,`; between tabs with `format = \"criteo\"`"),
        "delimiter = \";\"",
        "The character between the fields of a delimited file: one ASCII character.",
    ),
    key(
        "header",
        OneOrMany(&Text),
        Words("the first line of each file"),
        "header = [\"time\", \"shop\", \"clicked\"]",
        "The names of the columns, of files that have none in their first line.",
    ),
    key(
        "missing_values",
        OneOrMany(&Text),
        Words("none: only an empty field is missing"),
        "missing_values = [\"NA\", \"?\", \"\\\\N\"]",
        "The texts that mark a missing value in any column, besides the empty text. They are \
         compared with whole fields, and not with the values of a list.",
    ),
    key(
        "decimal",
        Character,
        Value("\".\""),
        "decimal = \",\"",
        "The character between the whole and the fraction of numbers, `.` or `,`. Numbers in the \
         configuration always have a point.",
    ),
    key(
        "thousands",
        Character,
        NONE,
        "thousands = \".\"",
        "The character between groups of digits of large numbers, such as `,`, `.`, `_`, an \
         apostrophe or a blank.",
    ),
    key(
        "trim",
        Switch,
        Value("true"),
        "trim = false",
        "If true, blanks and tabs around fields are ignored, and around the values of a column \
         with a `separator`. The contents of quotes stay as they are.",
    ),
    key(
        "max_field_bytes",
        U64,
        Value("1048576"),
        "max_field_bytes = 1048576",
        "The longest field of a delimited file, in bytes, with its quotes. A longer one is an \
         error, since most often a quote is never closed.",
    ),
    key(
        "label",
        Text,
        Words("must be there, except with `format = \"criteo\"`, which has `label`"),
        "label = \"rating >= 4\"",
        "The label: a column that holds 0 or 1, or a condition under which a row counts as 1: a \
         column, one of `>= <= > < = !=`, and a value.",
    ),
    key(
        "split",
        Tagged("by", SPLITS),
        Value("{ by = \"hash\" }"),
        "split = { by = \"hash\", test = 0.2 }",
        "The assignment of rows to training, validation and test: `by = \"hash\"` at random, `by = \
         \"time\"` the latest rows for test, `by = \"file\"` by the files of `train`, `validation` \
         and `test`.",
    ),
    key(
        "join",
        Tables(JOIN),
        NONE,
        "[[data.join]]\npath = \"movies.csv\"\non = \"movieId\"",
        "A side table: its columns become columns of every row that has the same key.",
    ),
    key(
        "derive",
        Tables(DERIVE),
        NONE,
        "[[data.derive]]\nname = \"decade\"\nfrom = \"year\"\nbucket = 10",
        "A new column, made of other columns.",
    ),
    key(
        "dense",
        Tables(DENSE_COLUMN),
        Words("none; with `format = \"criteo\"` the 13 numbers"),
        "[[data.dense]]\ncolumn = \"age\"",
        "A column of numbers, which the bottom MLP reads.",
    ),
    key(
        "categorical",
        Tables(CATEGORICAL),
        Words("none; with `format = \"criteo\"` the 26 categories"),
        "[[data.categorical]]\ncolumn = \"shop\"",
        "A column whose values select rows of an embedding table.",
    ),
    key(
        "max_unknown",
        Number,
        Words("no limit: large shares are only reported"),
        "max_unknown = 0.5",
        "The largest share of values that training has not seen, and of keys that a side table \
         lacks, from 0 to 1. A larger share is an error.",
    ),
    key(
        "criteo",
        Table(CRITEO),
        OfKeys,
        "criteo = { min_count = 4 }",
        "The encoding of the 26 categories of Criteo logs, unless `categorical` names columns.",
    ),
];

const SPLITS: &[(&str, &[Key])] = &[
    (
        "hash",
        &[
            key(
                "seed",
                U64,
                Value("0"),
                "seed = 7",
                "The seed of the hash; each seed gives another split.",
            ),
            key(
                "validation",
                Number,
                Value("0.0625"),
                "validation = 0.1",
                "The share of the validation rows, which decide when training stops.",
            ),
            key(
                "test",
                Number,
                Value("0.1875"),
                "test = 0.2",
                "The share of the test rows, which measure the final model.",
            ),
        ],
    ),
    (
        "time",
        &[
            required(
                "column",
                Text,
                "column = \"timestamp\"",
                "The column that holds the time, as a number. Rows of the same time stay together.",
            ),
            key(
                "validation",
                Number,
                Value("0.1"),
                "validation = 0.1",
                "The share of the validation rows, which come before the test rows.",
            ),
            key(
                "test",
                Number,
                Value("0.1"),
                "test = 0.2",
                "The share of the test rows, the latest ones.",
            ),
        ],
    ),
    ("file", &[]),
];

const JOIN: &[Key] = &[
    required(
        "path",
        Text,
        "path = \"movies.csv\"",
        "The side table, a delimited file with a header.",
    ),
    required(
        "on",
        Either(&[Text, Table(PAIR)]),
        "on = \"movieId\"",
        "The key: a column of both tables, or one column of each. If the side table lacks a row's \
         key, the joined columns are empty.",
    ),
    key(
        "delimiter",
        Character,
        Words("that of the data files"),
        "delimiter = \";\"",
        "The character between the fields of the side table.",
    ),
];

const PAIR: &[Key] = &[
    required("left", Text, "left = \"column here\"", "The name of the key in the rows."),
    required("right", Text, "right = \"column there\"", "The name of the key in the side table."),
];

const DERIVE: &[Key] = &[
    required("name", Text, "name = \"decade\"", "The name of the new column."),
    required(
        "from",
        OneOrMany(&Text),
        "from = \"year\"",
        "The source: a column of the file, of a side table, or derived before; of several columns \
         the texts are joined by a space.",
    ),
    key(
        "pattern",
        Text,
        Value("\"(?s).+\""),
        "pattern = '^(\\d+)'",
        "A regular expression. The text of its first group becomes the value; without a group, the \
         whole match. A row that does not match is empty.",
    ),
    key(
        "date",
        Choice(&["seconds", "days", "year", "month", "day", "weekday", "hour"]),
        NONE,
        "date = \"weekday\"",
        "A part of a date or time such as 2024-01-31 or 2024-01-31T12:00:00Z, as a number: \
         `seconds` since 1970 in UTC, `days` since 1970, `weekday` from 1 for Monday. Seconds and \
         days suit dense columns and `split`, weekday and hour categorical ones.",
    ),
    key(
        "date_order",
        Choice(&["year-month-day", "day-month-year", "month-day-year"]),
        Value("\"year-month-day\""),
        "date_order = \"day-month-year\"",
        "The order of year, month and day in the text, with `date`.",
    ),
    key(
        "bucket",
        Number,
        NONE,
        "bucket = 10",
        "The size of buckets: the text must be a number, or have a `date`, and is rounded down to \
         a multiple of it.",
    ),
];

const COLUMN: Key = key(
    "column",
    Text,
    Words("must be there, or `columns`"),
    "column = \"age\"",
    "The name of the column.",
);
const COLUMNS: Key = key(
    "columns",
    OneOrMany(&Text),
    Words("must be there, or `column`"),
    "columns = [\"genre_*\", \"x1\"]",
    "Several columns with the same settings: names, and patterns in which `*` stands for any text. \
     A pattern takes the columns that its list does not name, but never the label; `\"*\"` alone \
     takes every column that no other setting names or matches.",
);

const TRANSFORM: Kind = Choice(&["none", "log1p", "signed_log1p", "zscore", "quantile"]);

const DENSE_COLUMN: &[Key] = &[
    COLUMN,
    COLUMNS,
    key(
        "transform",
        OneOrMany(&TRANSFORM),
        Value("[\"signed_log1p\", \"zscore\"]"),
        "transform = \"zscore\"",
        "The transforms of the number, in their order: `log1p` is ln(1 + x) for numbers above -1, \
         `signed_log1p` is sign(x) ln(1 + |x|), `zscore` subtracts the mean and divides by the \
         standard deviation, `quantile` is the share of training rows with a smaller number, \
         `none` changes nothing. Only the last may be `zscore` or `quantile`.",
    ),
    key(
        "missing",
        Either(&[Choice(&["mean", "zero", "error"]), Number]),
        Value("\"mean\""),
        "missing = \"mean\"",
        "The substitute for a missing number: `mean` of the training rows after the transforms, \
         `zero` after the transforms, a number before them, or `error` for none.",
    ),
    key(
        "bins",
        U64,
        Value("0"),
        "bins = 64",
        "The number of quantile bins, which become a categorical feature besides the number; 0 for \
         none. A missing number has a bin of its own.",
    ),
    key(
        "knots",
        U64,
        Value("0"),
        "knots = 64",
        "The number of knots at quantiles, between which the number is embedded as a function that \
         is linear; 0 for none. It suits numbers that decide, beside `bins`: what lies next to \
         each other stays alike. It has no meaning with max pooling.",
    ),
    key(
        "count",
        Switch,
        Value("false"),
        "count = true",
        "If true, the number is the count of training rows with the same text, instead of the \
         text's own number: the activity of a user, the popularity of an item.",
    ),
];

const CATEGORICAL: &[Key] = &[
    COLUMN,
    COLUMNS,
    key(
        "separator",
        Text,
        Words("none: the column has one value"),
        "separator = \"|\"",
        "The text between the values of a multi-valued column, whose values make a bag.",
    ),
    key(
        "min_count",
        U32,
        Value("1"),
        "min_count = 10",
        "The number of training rows in which a value must occur to have a row of its own. Rarer \
         values share row 0, or are left out of a bag.",
    ),
    key(
        "hash",
        U32,
        Words("none: a dictionary of the values"),
        "hash = 100000",
        "The number of rows of a hashed column, which needs no dictionary: for columns with too \
         many values to keep.",
    ),
    key(
        "pooling",
        Choice(&["sum", "mean", "max"]),
        Value("\"sum\""),
        "pooling = \"mean\"",
        "The function that reduces the rows of a bag to one vector.",
    ),
    key(
        "unknown",
        Choice(&["drop", "row"]),
        Words("`row`; with a `separator` `drop`"),
        "unknown = \"row\"",
        "The treatment of a value without a row of its own: it is left out of the bag, or it \
         becomes row 0.",
    ),
];

const CRITEO: &[Key] = &[
    key(
        "min_count",
        U32,
        Words("10; none with `hash`"),
        "min_count = 4",
        "The number of training rows in which a value must occur to have a row of its own.",
    ),
    key(
        "hash",
        U32,
        Words("none: a dictionary of the values"),
        "hash = 100000",
        "The number of rows of each hashed column.",
    ),
];

const MODEL: &[Key] = &[
    key(
        "bottom_mlp",
        Wholes,
        Value("[32, 16]"),
        "bottom_mlp = [32, 16]",
        "The sizes of the bottom MLP's layers. The last one is the dimension of the embeddings.",
    ),
    key(
        "top_mlp",
        Wholes,
        Value("[64, 32]"),
        "top_mlp = [64, 32]",
        "The sizes of the top MLP's hidden layers; the layer of the logit comes after them.",
    ),
    key(
        "interaction",
        Choice(&["dot", "cat"]),
        Value("\"dot\""),
        "interaction = \"dot\"",
        "The interaction of the features: all pairwise dot products, or their concatenation.",
    ),
    key(
        "pair_order",
        Choice(&["lower_triangle", "upper_triangle"]),
        Value("\"lower_triangle\""),
        "pair_order = \"lower_triangle\"",
        "The order of the pairs, for models of other programs: that of facebookresearch/dlrm, or \
         that of TorchRec. It has no effect with `interaction = \"cat\"`.",
    ),
    key(
        "include_self",
        Switch,
        Value("false"),
        "include_self = true",
        "If true, each feature is also paired with itself.",
    ),
    key(
        "append_sparse",
        Switch,
        Value("true"),
        "append_sparse = true",
        "If true, the pooled vectors are inputs of the top MLP besides the dot products.",
    ),
    key(
        "table_dtype",
        Choice(&["f32", "f16", "bf16"]),
        Value("\"f32\""),
        "table_dtype = \"f32\"",
        "The element type of the tables: 16 bits halve their memory.",
    ),
    key(
        "table_init",
        Either(&[Choice(&["inverse_root"]), OneOf(TABLE_INIT)]),
        Value("{ uniform = 0.02 }"),
        "table_init = { uniform = 0.02 }",
        "The initial values of the tables; `inverse_root` is uniform within the root of 1 / rows, \
         as in facebookresearch/dlrm.",
    ),
    key(
        "precision",
        Choice(&["f32", "tf32", "bf16", "f16"]),
        Value("\"f32\""),
        "precision = \"bf16\"",
        "The precision of pooled vectors, interaction and layers. The last layer always computes \
         in f32, and parameters of layers are kept in f32.",
    ),
];

const TABLE_INIT: &[Key] = &[
    key("uniform", Number, NONE, "uniform = 0.02", "The bound of uniform values, on both sides."),
    key("normal", Number, NONE, "normal = 0.02", "The standard deviation of normal values."),
];

const TRAIN: &[Key] = &[
    key(
        "epochs",
        U32,
        Value("15"),
        "epochs = 15",
        "The largest number of passes over the training rows.",
    ),
    key(
        "batch_size",
        U64,
        Value("256"),
        "batch_size = 256",
        "The number of rows of a step; the last one of an epoch may have fewer.",
    ),
    key(
        "seed",
        U64,
        Value("1"),
        "seed = 1",
        "The seed of the initial parameters and of the order of the rows.",
    ),
    key(
        "evaluate_every",
        OneOf(EVALUATE_EVERY),
        Words("the end of each epoch only"),
        "evaluate_every = { steps = 1000 }",
        "The distance of evaluations on the validation rows within an epoch. There is also one at \
         the end of every epoch.",
    ),
    key(
        "patience",
        U32,
        Value("3"),
        "patience = 3",
        "Training stops after this many evaluations without a better validation score; 0 for \
         never.",
    ),
    key(
        "select",
        Choice(&["loss", "logloss", "auc"]),
        Value("\"loss\""),
        "select = \"auc\"",
        "The validation score that selects the best evaluation: the lowest `loss` that training \
         minimises, the lowest `logloss`, or the highest `auc`.",
    ),
    key(
        "loss",
        Either(&[Choice(&["bce_with_logits", "mse"]), OneOf(LOSS)]),
        Value("\"bce_with_logits\""),
        "loss = \"bce_with_logits\"",
        "The loss that training minimises: the log-loss, the squared error of the probability, or \
         a log-loss with a weight for each class.",
    ),
    key(
        "loss_threshold",
        Number,
        Value("0.0"),
        "loss_threshold = 0.0",
        "Probabilities are clamped to [threshold, 1 - threshold] in the loss; 0 for no clamp.",
    ),
    key(
        "loss_scale",
        Number,
        Value("4096.0"),
        "loss_scale = 4096.0",
        "The factor of the loss with `precision = \"f16\"`, so that small gradients do not become \
         0: a power of two. If it is too large, gradients become infinite.",
    ),
    key(
        "non_finite",
        Choice(&["error", "skip-step"]),
        Value("\"error\""),
        "non_finite = \"skip-step\"",
        "The treatment of a batch whose loss or gradient is infinite or not a number: `error` ends \
         training, `skip-step` continues without that batch.",
    ),
    key(
        "schedule",
        Table(SCHEDULE),
        OfKeys,
        "schedule = { decay_epochs = 15.0 }",
        "The schedule of the learning rates: a linear warm-up, constant rates, then a decay.",
    ),
    key(
        "members",
        U64,
        Value("1"),
        "members = 3",
        "The number of models that are trained side by side, whose mean probability is predicted: \
         better than any one of them, for as many times the work.",
    ),
    key(
        "averaging",
        Number,
        Words("0.998 with tables of f32, else 0"),
        "averaging = 0.998",
        "The decay of a moving average of all parameters, which is then the model; 0 for none. It \
         costs a pass over all parameters in each step, and needs tables of f32.",
    ),
    key(
        "bag_dropout",
        Number,
        Words("0.3, with max pooling 0"),
        "bag_dropout = 0.3",
        "The probability with which each id of a multi-valued column is left out in a step.",
    ),
    key(
        "even_decay",
        Switch,
        Value("true"),
        "even_decay = true",
        "If true, all rows of a table decay equally in an epoch; else frequent rows decay much \
         more than rare ones.",
    ),
    key(
        "checkpoint_seconds",
        U64,
        Value("300"),
        "checkpoint_seconds = 300",
        "The number of seconds between checkpoints within an epoch. There is also one at the end \
         of every epoch.",
    ),
    key(
        "optimizer",
        Table(GROUP),
        OfKeys,
        "[train.optimizer]\nkind = \"adam\"",
        "The optimizer of tables and layers, unless `tables` and `dense` say otherwise.",
    ),
    key(
        "tables",
        Table(GROUP),
        Words("that of `optimizer`"),
        "[train.tables]\nlearning_rate = 0.01",
        "The optimizer of the tables.",
    ),
    key(
        "dense",
        Table(GROUP),
        Words("that of `optimizer`"),
        "[train.dense]\nlearning_rate = 0.002",
        "The optimizer of the layers.",
    ),
];

const EVALUATE_EVERY: &[Key] = &[
    key("steps", U64, NONE, "steps = 1000", "The number of steps between two evaluations."),
    key(
        "rows",
        U64,
        NONE,
        "rows = 1000000",
        "The number of training rows between two evaluations.",
    ),
];

const LOSS: &[Key] = &[key(
    "weighted_bce",
    Table(WEIGHTS),
    NONE,
    "weighted_bce = { negative = 1.0, positive = 5.0 }",
    "The log-loss with a weight for each class. Predictions are then no longer calibrated.",
)];

const WEIGHTS: &[Key] = &[
    required("negative", Number, "negative = 1.0", "The weight of a row with label 0."),
    required("positive", Number, "positive = 5.0", "The weight of a row with label 1."),
];

const SCHEDULE: &[Key] = &[
    key(
        "warmup_steps",
        U64,
        Value("0"),
        "warmup_steps = 1000",
        "The number of steps of the warm-up.",
    ),
    key(
        "decay_start",
        U64,
        Value("0"),
        "decay_start = 10000",
        "The step at which the decay begins.",
    ),
    key(
        "decay_steps",
        U64,
        Value("0"),
        "decay_steps = 5000",
        "The number of steps of the decay; 0 to use `decay_epochs`.",
    ),
    key(
        "decay_epochs",
        Number,
        Value("15.0"),
        "decay_epochs = 15.0",
        "The number of epochs of the decay, if `decay_steps` is 0; 0 for no decay.",
    ),
    key("power", Number, Value("1.0"), "power = 1.0", "The exponent of the decay."),
    key(
        "floor",
        Number,
        Value("0.3"),
        "floor = 0.3",
        "The share of the base rate that is left at the end.",
    ),
];

const GROUP: &[Key] = &[
    key(
        "kind",
        Choice(&["sgd", "adagrad", "rowwise_adagrad", "adam"]),
        Value("\"adam\""),
        "kind = \"adam\"",
        "The update rule. `rowwise_adagrad` has one accumulator for each row of a table.",
    ),
    key(
        "learning_rate",
        Number,
        Words("0.01 for tables, 0.002 for layers"),
        "learning_rate = 0.01",
        "The base learning rate. The defaults suit Adam.",
    ),
    key(
        "eps",
        Number,
        Words("1e-8 for Adam; Adagrad needs it"),
        "eps = 1e-8",
        "The number added to the root: 1e-8 in FBGEMM's Adagrad, 1e-10 in PyTorch's.",
    ),
    key("beta1", Number, Value("0.9"), "beta1 = 0.9", "The decay of Adam's mean of the gradients."),
    key("beta2", Number, Value("0.999"), "beta2 = 0.999", "The decay of Adam's mean of squares."),
    key(
        "weight_decay",
        Either(&[Choice(&["none"]), OneOf(DECAY)]),
        Words("`{ l2 = 0.002 }` for tables, `\"none\"` for layers"),
        "weight_decay = { l2 = 1e-5 }",
        "The weight decay.",
    ),
    key(
        "max_gradient",
        Number,
        Words("no clamp"),
        "max_gradient = 10.0",
        "The bound to which gradients are clamped, element by element.",
    ),
    key(
        "rounding",
        Either(&[Choice(&["nearest"]), OneOf(ROUNDING)]),
        Value("\"nearest\""),
        "rounding = \"nearest\"",
        "The rounding of weights in 16-bit tables. Stochastic rounding keeps small updates.",
    ),
];

const DECAY: &[Key] = &[
    key("l2", Number, NONE, "l2 = 1e-5", "The rate of L2 regularisation, part of the gradient."),
    key(
        "decoupled",
        Number,
        NONE,
        "decoupled = 1e-2",
        "The rate of decoupled weight decay, as in AdamW.",
    ),
];

const ROUNDING: &[Key] = &[key(
    "stochastic",
    Table(SEED),
    NONE,
    "stochastic = { seed = 1 }",
    "Rounds up or down at random, so that the expectation is exact.",
)];

const SEED: &[Key] = &[required("seed", U64, "seed = 1", "The seed.")];

fn names(keys: &[Key]) -> String {
    list(keys.iter().map(|key| format!("`{}`", key.name)))
}

/// Formats a list as `a, b or c`.
fn list(items: impl Iterator<Item = String>) -> String {
    let mut items: Vec<String> = items.collect();
    let last = items.pop().unwrap_or_default();
    if items.is_empty() { last } else { format!("{} or {last}", items.join(", ")) }
}

fn join(path: &str, name: &str) -> String {
    if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") }
}
