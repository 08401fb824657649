//! Tests of `export`, `import` and `encode`. `tests/interchange/` runs the exported files in
//! PyTorch and onnxruntime.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};

use crate::common::*;

/// Returns a folder with rows of four columns, and the configuration `model.toml` of a model with
/// one member that both dialects know, with `settings` under `[model]`.
fn project_of(settings: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let mut random = bagdot::Philox::new(8, 0);
    let mut text = String::from("age,page,tags,city,clicked\n");
    for _ in 0..600 {
        let (page, city, age) = (random.below(5), random.below(3), 18 + random.below(50));
        let tags: Vec<_> = (0..random.below(4)).map(|_| format!("t{}", random.below(9))).collect();
        let clicked = random.uniform() < 0.15 + 0.15 * page as f64;
        text += &format!("{age},p{page},{},c{city},{}\n", tags.join(" "), u8::from(clicked));
    }
    fs::write(folder.path().join("clicks.csv"), text).unwrap();
    fs::write(folder.path().join("model.toml"), config_of(settings)).unwrap();
    folder
}

fn config_of(settings: &str) -> String {
    let columns = "{ column = \"page\" }, { column = \"tags\", separator = \" \" }, { column = \
                   \"city\" }]";
    let config = CONFIG.replace("members = 2", "members = 1");
    let config =
        config.replace("{ column = \"page\" }, { column = \"tags\", separator = \" \" }]", columns);
    assert!(config.contains("city"));
    config.replace("[model]", &format!("[model]\n{settings}\n"))
}

/// Settings of the model that both dialects know.
const PLAIN: &str = "append_sparse = false";

fn train(folder: &Path, out: &str) {
    succeed(folder, &["train", "model.toml", "--quiet", "--out", out]);
}

fn export(folder: &Path, model: &str, format: &str, output: &str) {
    succeed(folder, &["export", model, "--format", format, "--output", output]);
}

fn import(folder: &Path, file: &str, format: &str, out: &str) {
    let like = ["--format", format, "--like", "m", "--out", out, "--quiet"];
    succeed(folder, &[&["import", file], &like[..]].concat());
}

fn fail_import(folder: &Path, file: &str, format: &str) -> String {
    let like = ["--format", format, "--like", "m", "--out", "new"];
    let (code, message) = fail(folder, &[&["import", file], &like[..]].concat());
    assert_eq!(code, 1, "{message}");
    assert!(!folder.join("new").exists(), "nothing is made of a bad file: {message}");
    message
}

type Tensors = BTreeMap<String, (Dtype, Vec<usize>, Vec<u8>)>;

fn read(path: &Path) -> Tensors {
    let bytes = fs::read(path).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let tensors = file.iter().map(|(name, tensor)| {
        (name.to_owned(), (tensor.dtype(), tensor.shape().to_vec(), tensor.data().to_vec()))
    });
    tensors.collect()
}

fn write(path: &Path, tensors: &Tensors) {
    let views = tensors.iter().map(|(name, (dtype, shape, bytes))| {
        (name, TensorView::new(*dtype, shape.clone(), bytes).unwrap())
    });
    safetensors::serialize_to_file(views, None, path).unwrap();
}

/// Returns the tensors of the model in a directory.
fn model_of(model: &Path) -> Tensors {
    read(&model.join(manifest(model)["files"]["best"]["name"].as_str().unwrap()))
}

fn names(tensors: &Tensors) -> Vec<&str> {
    tensors.keys().map(String::as_str).collect()
}

fn predictions(folder: &Path, model: &str) -> String {
    succeed(folder, &["predict", model, "clicks.csv"])
}

#[test]
fn a_model_comes_back_bit_for_bit() {
    for settings in [
        "append_sparse = false",
        "append_sparse = false\npair_order = \"upper_triangle\"\ntable_dtype = \"f16\"",
        "append_sparse = false\ntable_dtype = \"bf16\"",
    ] {
        let folder = project_of(settings);
        let folder = folder.path();
        train(folder, "m");
        for dialect in ["dlrm", "torchrec"] {
            let file = format!("{dialect}.safetensors");
            export(folder, "m", dialect, &file);
            import(folder, &file, dialect, dialect);
            assert_eq!(model_of(&folder.join(dialect)), model_of(&folder.join("m")), "{settings}");
            assert_eq!(predictions(folder, dialect), predictions(folder, "m"), "{settings}");
            // The same file again, from the model that was imported.
            export(folder, dialect, dialect, "again.safetensors");
            let [one, two] = [&file, "again.safetensors"].map(|file| fs::read(folder.join(file)));
            assert!(one.unwrap() == two.unwrap(), "{settings}, {dialect}");
        }
        // From one dialect to the other by way of this program.
        export(folder, "dlrm", "torchrec", "other.safetensors");
        assert_eq!(
            read(&folder.join("other.safetensors")),
            read(&folder.join("torchrec.safetensors"))
        );
    }
}

#[test]
fn tensors_have_the_names_and_the_order_of_the_other_library() {
    let folder = project_of(PLAIN);
    let folder = folder.path();
    train(folder, "m");
    for dialect in ["dlrm", "torchrec"] {
        export(folder, "m", dialect, dialect);
    }
    let (ours, dlrm, torchrec) =
        (model_of(&folder.join("m")), read(&folder.join("dlrm")), read(&folder.join("torchrec")));
    assert_eq!(
        names(&dlrm),
        [
            "bot_l.0.bias",
            "bot_l.0.weight",
            "bot_l.2.bias",
            "bot_l.2.weight",
            "emb_l.0.weight",
            "emb_l.1.weight",
            "emb_l.2.weight",
            "top_l.0.bias",
            "top_l.0.weight",
            "top_l.2.bias",
            "top_l.2.weight",
        ]
    );
    assert_eq!(
        names(&torchrec),
        [
            "dense_arch.model._mlp.0._linear.bias",
            "dense_arch.model._mlp.0._linear.weight",
            "dense_arch.model._mlp.1._linear.bias",
            "dense_arch.model._mlp.1._linear.weight",
            "over_arch.model.0._mlp.0._linear.bias",
            "over_arch.model.0._mlp.0._linear.weight",
            "over_arch.model.1.bias",
            "over_arch.model.1.weight",
            "sparse_arch.embedding_bag_collection.embedding_bags.t_city.weight",
            "sparse_arch.embedding_bag_collection.embedding_bags.t_page.weight",
            "sparse_arch.embedding_bag_collection.embedding_bags.t_tags.weight",
        ]
    );
    let tables = "sparse_arch.embedding_bag_collection.embedding_bags";
    for (ours_name, dlrm_name, torchrec_name) in [
        ("members.0.tables.1.weight", "emb_l.1.weight", &*format!("{tables}.t_tags.weight")),
        (
            "members.0.bottom_mlp.1.weight",
            "bot_l.2.weight",
            "dense_arch.model._mlp.1._linear.weight",
        ),
        ("members.0.top_mlp.1.bias", "top_l.2.bias", "over_arch.model.1.bias"),
    ] {
        assert!(ours[ours_name] == dlrm[dlrm_name] && ours[ours_name] == torchrec[torchrec_name]);
    }
    // Pairs of the dense vector and three features. Here and in dlrm: 10 20 21 30 31 32; in
    // TorchRec 01 02 03 12 13 23. The dense vector comes first, with four columns.
    let weight = |(_, shape, bytes): &(Dtype, Vec<usize>, Vec<u8>)| {
        assert_eq!(*shape, [8, 10]);
        bytes.chunks(40).map(|row| row.chunks(4).map(<[u8]>::to_vec).collect::<Vec<_>>()).collect()
    };
    let ours: Vec<Vec<Vec<u8>>> = weight(&ours["members.0.top_mlp.0.weight"]);
    assert_eq!(weight(&dlrm["top_l.0.weight"]), ours);
    let theirs = weight(&torchrec["over_arch.model.0._mlp.0._linear.weight"]);
    let order = [0, 1, 2, 3, 4, 5, 7, 6, 8, 9];
    for (row, our_row) in theirs.iter().zip(&ours) {
        let moved: Vec<_> = order.iter().map(|&column| our_row[column].clone()).collect();
        assert_eq!(*row, moved);
    }
    let header = String::from_utf8_lossy(&fs::read(folder.join("dlrm")).unwrap()).into_owned();
    assert!(header.contains(r#"\"page\",\"tags\",\"city\""#), "the features are named");
}

#[test]
fn names_may_have_a_prefix_and_tables_the_names_of_features() {
    let folder = project_of(PLAIN);
    let folder = folder.path();
    train(folder, "m");
    for (dialect, from, to) in
        [("dlrm", "", ""), ("torchrec", ".t_", "."), ("torchrec", "over_arch", "over_arch")]
    {
        export(folder, "m", dialect, "file");
        let tensors = read(&folder.join("file")).into_iter();
        let renamed = tensors
            .map(|(name, tensor)| (format!("module.model.{}", name.replace(from, to)), tensor));
        write(&folder.join("prefixed"), &renamed.collect());
        import(folder, "prefixed", dialect, "new");
        assert_eq!(model_of(&folder.join("new")), model_of(&folder.join("m")));
        fs::remove_dir_all(folder.join("new")).unwrap();
    }
}

#[test]
fn bad_files_are_named_with_tensor_and_shapes() {
    let folder = project_of(PLAIN);
    let folder = folder.path();
    train(folder, "m");
    for dialect in ["dlrm", "torchrec"] {
        export(folder, "m", dialect, dialect);
    }
    let good = read(&folder.join("dlrm"));
    let failure = |change: &dyn Fn(&mut Tensors)| {
        let mut tensors = good.clone();
        change(&mut tensors);
        write(&folder.join("bad"), &tensors);
        let message = fail_import(folder, "bad", "dlrm");
        assert!(message.starts_with("bagdot: bad: "), "{message}");
        message
    };
    let missing = failure(&|tensors| drop(tensors.remove("top_l.2.bias")));
    assert!(missing.contains("tensor top_l.2.bias is missing"), "{missing}");
    let shape = failure(&|tensors| {
        let (_, shape, bytes) = tensors.get_mut("emb_l.0.weight").unwrap();
        assert_eq!(*shape, [6, 4]);
        shape[0] = 7;
        bytes.extend([0; 16]);
    });
    assert!(shape.contains("tensor emb_l.0.weight has the shape [7, 4], not [6, 4]"), "{shape}");
    let transposed = failure(&|tensors| tensors.get_mut("top_l.0.weight").unwrap().1.reverse());
    assert!(
        transposed.contains("tensor top_l.0.weight has the shape [10, 8], not [8, 10]"),
        "{transposed}"
    );
    let dtype = failure(&|tensors| {
        let (dtype, _, bytes) = tensors.get_mut("bot_l.0.bias").unwrap();
        *dtype = Dtype::F16;
        bytes.truncate(bytes.len() / 2);
    });
    assert!(dtype.contains("bot_l.0.bias holds f16, not f32"), "{dtype}");
    let unknown = failure(&|tensors| {
        let table = tensors["emb_l.2.weight"].clone();
        tensors.insert("emb_l.3.weight".into(), table);
    });
    assert!(unknown.contains("the model has no parameter for tensor emb_l.3.weight"), "{unknown}");
    let nan = failure(&|tensors| {
        tensors.get_mut("emb_l.2.weight").unwrap().2[8..12].copy_from_slice(&[0xff; 4]);
    });
    assert!(nan.contains("element 2 of tensor emb_l.2.weight is not a finite number"), "{nan}");
    // The other library's names are not there.
    let other = fail_import(folder, "dlrm", "torchrec");
    assert!(other.contains("tensor dense_arch.model._mlp.0._linear.weight is missing"), "{other}");
    // Files that are not whole, not safetensors, or no files.
    let whole = fs::read(folder.join("dlrm")).unwrap();
    for len in [0, 7, 8, 60, whole.len() - 1] {
        fs::write(folder.join("bad"), &whole[..len]).unwrap();
        let message = fail_import(folder, "bad", "dlrm");
        assert!(message.contains("bad: no safetensors file"), "{len}: {message}");
    }
    fs::write(folder.join("bad"), "a pickled checkpoint of PyTorch").unwrap();
    let message = fail_import(folder, "bad", "dlrm");
    assert!(message.contains("bad: no safetensors file: a header of"), "{message}");
    assert!(fail_import(folder, "nothing", "dlrm").contains("cannot open nothing"));
    assert!(fail_import(folder, "m", "dlrm").contains("m: not a regular file"));
}

#[test]
fn settings_that_the_other_library_lacks_are_named() {
    for (settings, dialects, said) in [
        ("", "dlrm torchrec", "append_sparse = false"),
        ("append_sparse = false\ninclude_self = true", "torchrec", "include_self = false"),
        ("interaction = \"cat\"", "torchrec", r#"interaction = "dot""#),
    ] {
        let folder = project_of(settings);
        let folder = folder.path();
        succeed(folder, &["train", "model.toml", "--quiet", "--epochs", "1", "--out", "m"]);
        for dialect in ["dlrm", "torchrec"] {
            let arguments = ["export", "m", "--format", dialect, "--output", "file"];
            if !dialects.contains(dialect) {
                succeed(folder, &arguments);
                continue;
            }
            let (code, message) = fail(folder, &arguments);
            assert!(code == 1 && message.contains(said), "{dialect}: {message}");
        }
    }
    for (pooling, dialects) in [("mean", "dlrm"), ("max", "dlrm torchrec")] {
        let folder = project_of(PLAIN);
        let folder = folder.path();
        let pooled = format!("separator = \" \", pooling = \"{pooling}\"");
        let config = config_of(PLAIN).replace("separator = \" \"", &pooled);
        fs::write(folder.join("model.toml"), config).unwrap();
        succeed(folder, &["train", "model.toml", "--quiet", "--epochs", "1", "--out", "m"]);
        for dialect in dialects.split(' ') {
            let (code, message) =
                fail(folder, &["export", "m", "--format", dialect, "--output", "file"]);
            assert!(code == 1 && message.contains("(column \"tags\")"), "{dialect}: {message}");
        }
    }
}

#[test]
fn members_are_exported_one_by_one_and_imported_together() {
    let folder = project_of(PLAIN);
    let folder = folder.path();
    let config = config_of(PLAIN).replace("members = 1", "members = 3");
    fs::write(folder.join("model.toml"), config).unwrap();
    train(folder, "m");
    let (code, message) = fail(folder, &["export", "m", "--format", "dlrm", "--output", "file"]);
    assert!(code == 2 && message.contains("--member 1 to 3"), "{message}");
    let of = |member: &str, output: &str| {
        let arguments = ["--format", "torchrec", "--member", member, "--output", output];
        run(folder, &[&["export", "m"], &arguments[..]].concat())
    };
    let message = String::from_utf8(of("4", "four").stderr).unwrap();
    assert!(message.contains("m: there is no member 4"), "{message}");
    assert!(!folder.join("four").exists());
    for member in ["1", "2", "3"] {
        assert!(of(member, member).status.success());
    }
    assert_ne!(fs::read(folder.join("1")).unwrap(), fs::read(folder.join("2")).unwrap());
    let like = ["--format", "torchrec", "--like", "m", "--quiet"];
    succeed(folder, &[&["import", "1", "2", "3", "--out", "all"], &like[..]].concat());
    assert_eq!(model_of(&folder.join("all")), model_of(&folder.join("m")));
    succeed(folder, &[&["import", "2", "--out", "one"], &like[..]].concat());
    let (one, all) = (model_of(&folder.join("one")), model_of(&folder.join("m")));
    assert_eq!(one.len(), all.len() / 3);
    assert!(one["members.0.tables.0.weight"] == all["members.1.tables.0.weight"]);
    assert_ne!(predictions(folder, "one"), predictions(folder, "m"));
}

#[test]
fn an_import_keeps_what_is_in_its_directory() {
    let folder = project_of(PLAIN);
    let folder = folder.path();
    train(folder, "m");
    export(folder, "m", "dlrm", "file");
    succeed(folder, &["train", "model.toml", "--quiet", "--seed", "9", "--out", "serve"]);
    let before = predictions(folder, "serve");
    assert_ne!(before, predictions(folder, "m"));
    let arguments = ["import", "file", "--format", "dlrm", "--like", "m", "--out"];
    let said = run(folder, &[&arguments[..], &["serve"]].concat());
    let said = String::from_utf8(said.stderr).unwrap();
    assert!(said.contains("the model that was in serve is now in serve~1"), "{said}");
    assert_eq!(predictions(folder, "serve~1"), before);
    assert_eq!(predictions(folder, "serve"), predictions(folder, "m"));
    // A model can be imported over the one that it is like.
    succeed(folder, &[&arguments[..], &["m", "--quiet"]].concat());
    assert_eq!(predictions(folder, "m"), predictions(folder, "m~1"));
    fs::create_dir(folder.join("mine")).unwrap();
    fs::write(folder.join("mine/thesis.tex"), "precious").unwrap();
    let (code, message) = fail(folder, &[&arguments[..], &["mine"]].concat());
    assert!(code == 1 && message.contains("holds no model"), "{message}");
    assert_eq!(fs::read_dir(folder.join("mine")).unwrap().count(), 1);
}

#[test]
fn an_imported_model_can_be_measured_and_trained_on() {
    let folder = project_of(PLAIN);
    let folder = folder.path();
    train(folder, "m");
    export(folder, "m", "torchrec", "file");
    import(folder, "file", "torchrec", "new");
    let eval = |model| succeed(folder, &["eval", model, "--json"]);
    assert_eq!(eval("new"), eval("m"));
    assert!(succeed(folder, &["info", "new"]).contains("unfinished: 0 epochs"));
    succeed(folder, &["train", "model.toml", "--quiet", "--out", "new", "--resume"]);
    let first_loss = |model: &str| {
        let lines = fs::read_to_string(folder.join(model).join("metrics.jsonl")).unwrap();
        let first: serde_json::Value = serde_json::from_str(lines.lines().next().unwrap()).unwrap();
        assert_eq!(first["epoch"], 1);
        first["train"]["logloss"].as_f64().unwrap()
    };
    // The first epoch begins with what four epochs have learned.
    let (scratch, imported) = (first_loss("m"), first_loss("new"));
    assert!(imported < scratch - 0.01, "{imported} from the import, {scratch} from scratch");
    assert!(succeed(folder, &["info", "new"]).contains("finished: 4 epochs"));
}

#[test]
fn an_export_replaces_its_output_only_when_it_is_whole() {
    let folder = project_of(PLAIN);
    let folder = folder.path();
    train(folder, "m");
    let entries = || {
        let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name());
        let mut entries: Vec<_> = entries.map(|name| name.into_string().unwrap()).collect();
        entries.sort();
        entries
    };
    let before = entries();
    // Its own model is no output.
    let best = manifest(&folder.join("m"))["files"]["best"]["name"].as_str().unwrap().to_owned();
    let best = format!("m/{best}");
    for format in ["dlrm", "torchrec", "onnx"] {
        let (code, message) = fail(folder, &["export", "m", "--format", format, "--output", &best]);
        assert!(code == 2 && message.contains("is one of the inputs"), "{message}");
        let (code, message) =
            fail(folder, &["export", "m", "--format", format, "--output", "none/file"]);
        assert!(code == 1 && message.contains("cannot write none/file"), "{message}");
    }
    let onnx = ["export", "m", "--format", "onnx", "--external-data", "--output"];
    let (code, message) = fail(folder, &[&onnx[..], &["/dev/null"]].concat());
    assert!(code == 2 && message.contains("must be a regular file"), "{message}");
    for wrong in [&["--member", "1"][..], &["--member", "0"]] {
        assert_eq!(fail(folder, &[&onnx[..], &["file"], wrong].concat()).0, 2);
    }
    assert_eq!(entries(), before, "nothing is left behind");
    // A damaged model leaves the old output.
    fs::write(folder.join("file"), "old").unwrap();
    let whole = fs::read(folder.join(&best)).unwrap();
    fs::write(folder.join(&best), &whole[1..]).unwrap();
    for format in ["dlrm", "torchrec", "onnx"] {
        let (code, message) =
            fail(folder, &["export", "m", "--format", format, "--output", "file"]);
        assert!(code == 1 && message.contains("damaged"), "{message}");
        assert_eq!(fs::read(folder.join("file")).unwrap(), b"old");
    }
    fs::write(folder.join(&best), &whole).unwrap();
    export(folder, "m", "dlrm", "file");
    assert!(read(&folder.join("file")).len() == 11);
}

#[test]
fn weights_of_onnx_stand_inside_or_beside() {
    let folder = project_of("");
    let folder = folder.path();
    let config = config_of("").replace("bottom_mlp = [8, 4]", "bottom_mlp = [64, 32]");
    fs::write(folder.join("model.toml"), config).unwrap();
    train(folder, "m");
    export(folder, "m", "onnx", "inside.onnx");
    export(folder, "m", "onnx", "plain.onnx");
    let beside = ["export", "m", "--format", "onnx", "--output", "beside.onnx"];
    succeed(folder, &[&beside[..], &["--external-data"]].concat());
    let file = |name: &str| fs::read(folder.join(name)).unwrap();
    assert_eq!(file("inside.onnx"), file("plain.onnx"), "the same bytes always");
    assert!(!folder.join("inside.onnx.data").exists());
    let finds =
        |bytes: &[u8], part: &[u8]| bytes.windows(part.len()).position(|window| window == part);
    let model = model_of(&folder.join("m"));
    let (_, _, weight) = &model["members.0.bottom_mlp.1.weight"];
    assert!(finds(&file("inside.onnx"), weight).is_some());
    assert!(finds(&file("beside.onnx"), weight).is_none());
    assert!(finds(&file("beside.onnx"), b"beside.onnx.data").is_some());
    let at = finds(&file("beside.onnx.data"), weight).unwrap();
    assert!(at.is_multiple_of(4096), "{at}");
    assert!(finds(&file("beside.onnx"), at.to_string().as_bytes()).is_some());
}

#[test]
fn encoded_rows_are_the_inputs_of_the_model() {
    let folder = project_of(PLAIN);
    let folder = folder.path();
    train(folder, "m");
    let text = fs::read_to_string(folder.join("clicks.csv")).unwrap();
    let header = text.lines().next().unwrap();
    let rows = ["20,p1,t1 t2,c0,1", "30,p9,,c1,0", "40,p1,t2,c9,0"];
    fs::write(folder.join("new.csv"), format!("{header}\n{}\n", rows.join("\n"))).unwrap();
    let encode = ["encode", "m", "new.csv", "--output", "rows"];
    succeed(folder, &encode);
    let plain = read(&folder.join("rows"));
    assert_eq!(names(&plain), ["city", "dense", "page", "tags.offsets", "tags.values"]);
    succeed(folder, &[&encode[..], &["--labels"]].concat());
    let rows = read(&folder.join("rows"));
    assert_eq!(rows.len(), 6);
    let ids = |name: &str| -> Vec<i64> {
        let (dtype, shape, bytes) = &rows[name];
        assert_eq!((*dtype, shape.len()), (Dtype::I64, 1));
        bytes.chunks(8).map(|id| i64::from_le_bytes(id.try_into().unwrap())).collect()
    };
    let floats = |name: &str| -> Vec<f32> {
        assert_eq!(rows[name].0, Dtype::F32);
        rows[name].2.chunks(4).map(|x| f32::from_le_bytes(x.try_into().unwrap())).collect()
    };
    assert_eq!(floats("label"), [1.0, 0.0, 0.0]);
    assert_eq!(rows["dense"].1, [3, 1]);
    let dense = floats("dense");
    assert!(dense[0] < dense[1] && (dense[1] - dense[0] - (dense[2] - dense[1])).abs() < 1e-5);
    let (page, city) = (ids("page"), ids("city"));
    // Unknown values are row 0; the same text is the same row.
    assert!(page[0] == page[2] && page[0] > 0 && page[1] == 0, "{page:?}");
    assert!(city[2] == 0 && city[0] > 0 && city[1] > 0 && city[0] != city[1], "{city:?}");
    assert_eq!(ids("tags.offsets"), [0, 2, 2, 3]);
    let tags = ids("tags.values");
    assert!(tags.len() == 3 && tags[1] == tags[2] && tags[0] != tags[1], "{tags:?}");
    // More rows than are encoded at a time.
    let many: String = text.lines().skip(1).map(|line| format!("{line}\n")).collect();
    fs::write(folder.join("new.csv"), format!("{header}\n{}", many.repeat(5))).unwrap();
    succeed(folder, &encode);
    let rows = read(&folder.join("rows"));
    assert_eq!(rows["dense"].1, [3000, 1]);
    let part = |name: &str, bytes: usize| {
        let all = &rows[name].2;
        all.chunks(bytes).all(|chunk| chunk == &all[..bytes])
    };
    assert!(part("dense", 2400) && part("page", 4800));
    let values = rows["tags.values"].1[0] / 5;
    assert!(part("tags.values", 8 * values));
    let offsets: Vec<i64> = rows["tags.offsets"]
        .2
        .chunks(8)
        .map(|end| i64::from_le_bytes(end.try_into().unwrap()))
        .collect();
    for (k, end) in offsets.iter().enumerate().skip(600) {
        assert_eq!(*end, offsets[k - 600] + values as i64, "{k}");
    }
    // The files of the model and the rows are no outputs.
    for output in ["new.csv", "clicks.csv", "m/manifest.json"] {
        let (code, message) = fail(folder, &["encode", "m", "new.csv", "--output", output]);
        assert!(code == 2 && message.contains("is one of the inputs"), "{message}");
    }
    fs::write(folder.join("new.csv"), "age,page,tags,city\n20,p1,t1,c0\n").unwrap();
    succeed(folder, &encode);
    let (code, message) = fail(folder, &[&encode[..], &["--labels"]].concat());
    assert!(code == 1 && message.contains("clicked"), "{message}");
}

#[test]
fn inputs_that_would_have_one_name_are_refused() {
    let folder = project_of(PLAIN);
    let folder = folder.path();
    for name in ["dense", "label", "tags.values"] {
        let header = fs::read_to_string(folder.join("clicks.csv")).unwrap();
        let (_, rows) = header.split_once('\n').unwrap();
        fs::write(folder.join("clicks.csv"), format!("age,page,tags,{name},clicked\n{rows}"))
            .unwrap();
        let config = config_of(PLAIN).replace("\"city\"", &format!("\"{name}\""));
        fs::write(folder.join("model.toml"), config).unwrap();
        succeed(folder, &["train", "model.toml", "--quiet", "--epochs", "1", "--out", "m"]);
        for arguments in [
            &["export", "m", "--format", "onnx", "--output", "file"][..],
            &["encode", "m", "clicks.csv", "--output", "file"],
        ] {
            let (code, message) = fail(folder, arguments);
            assert!(code == 1 && message.contains(&format!("{name:?}")), "{message}");
        }
    }
}

#[test]
fn tables_of_columns_with_dots_have_underscores_in_torchrec() {
    let folder = project_of(PLAIN);
    let folder = folder.path();
    let named = |city: &str| {
        let text = fs::read_to_string(folder.join("clicks.csv")).unwrap();
        let (_, rows) = text.split_once('\n').unwrap();
        let text = format!("age,a_b,tags,{city},clicked\n{rows}");
        fs::write(folder.join("clicks.csv"), text).unwrap();
        let config = config_of(PLAIN).replace("\"city\"", &format!("{city:?}"));
        fs::write(folder.join("model.toml"), config.replace("\"page\"", "\"a_b\"")).unwrap();
        succeed(folder, &["train", "model.toml", "--quiet", "--epochs", "1", "--out", "m"]);
    };
    named("a.c");
    export(folder, "m", "torchrec", "file");
    let tables = "sparse_arch.embedding_bag_collection.embedding_bags";
    assert!(read(&folder.join("file")).contains_key(&format!("{tables}.t_a_c.weight")));
    import(folder, "file", "torchrec", "new");
    assert_eq!(model_of(&folder.join("new")), model_of(&folder.join("m")));
    named("a.b");
    let (code, message) =
        fail(folder, &["export", "m", "--format", "torchrec", "--output", "file"]);
    assert!(code == 1 && message.contains("t_a_b.weight: rename a column"), "{message}");
}
