//! The commands' own entry points, on the demo model.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on must panic")]

use coffer_checkpoint::{DType, TensorSource, blocks};
use coffer_compress::{
    Calibration, CompressError, Equalization,
    merge::{self, merge},
    prune::{self, PruneParams, prune},
    quantize::{self, Costs, Goal, Inputs, QuantizeParams, Rounded, Scheme, Variant, quantize},
};
use coffer_engine::{Engine, LoadOptions, Span, Want};
use coffer_kernels::{Isa, KvFormat};
use coffer_store::{Container, FileSet, Model, open};
use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

fn assets() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../assets/models")
}

fn scribe() -> Model {
    open(&assets().join("scribe-8m"), &[]).unwrap()
}

fn values(source: &dyn TensorSource, name: &str) -> Vec<f32> {
    let id = source.index().find(name).unwrap();
    let info = source.index().get(id);
    let mut raw = vec![0; info.bytes().unwrap() as usize];
    source.read_rows(id, 0..info.rows(), &mut raw).unwrap();
    let mut out = vec![0.0; info.elements().unwrap() as usize];
    blocks::decode(info.dtype, &raw, &mut out).unwrap();
    out
}

#[test]
fn quantized_models_are_as_planned_the_same_on_any_threads_and_close() {
    let dir = tempfile::tempdir().unwrap();
    let model = scribe();
    for (scheme, error) in [(Scheme::Q8_0, 0.01), (Scheme::Q6_K, 0.03), (Scheme::Q4_K_M, 0.12), (Scheme::Q4_0, 0.15)] {
        let params =
            |threads| QuantizeParams { scheme, types: BTreeMap::new(), requantize: false, inputs: Inputs::Unknown, threads };
        let path = |n: usize| dir.path().join(format!("{scheme}-{n}.gguf"));
        let mut last = (0, 0);
        let summary = quantize(&model, &path(1), &params(1), &mut |done, total| last = (done, total)).unwrap();
        assert_eq!(last, (summary.bytes_out, summary.bytes_out));
        assert_eq!(quantize::plan(&model, &params(1)).unwrap().summary, summary);
        for threads in [2, 4] {
            quantize(&model, &path(threads), &params(threads), &mut |_, _| ()).unwrap();
            assert!(fs::read(path(threads)).unwrap() == fs::read(path(1)).unwrap(), "{scheme}, {threads} threads");
        }
        let back = open(&path(1), &[]).unwrap();
        assert_eq!((back.container, back.weight_bytes), (Container::Gguf, summary.bytes_out));
        for name in ["model.layers.3.self_attn.q_proj.weight", "model.layers.3.mlp.down_proj.weight", "lm_head.weight"] {
            let (a, b) = (values(&*model.weights, name), values(&*back.weights, name));
            let sum = |f: &dyn Fn(usize) -> f32| (0..a.len()).map(|i| f64::from(f(i)).powi(2)).sum::<f64>();
            let relative = (sum(&|i| a[i] - b[i]) / sum(&|i| a[i])).sqrt();
            assert!(relative < error, "{scheme} {name}: {relative}");
        }
        let again = quantize(&back, &dir.path().join("again.gguf"), &params(2), &mut |_, _| ());
        assert!(matches!(again, Err(CompressError::Requantize { .. })), "{scheme}");
        assert!(!dir.path().join("again.gguf").exists());
    }
}

#[test]
fn pruned_models_have_the_wanted_zeros_and_open_again() {
    let dir = tempfile::tempdir().unwrap();
    let model = scribe();
    let params = |method: &str| PruneParams { method: method.into(), sparsity: 0.5, threads: 2 };
    let out = dir.path().join("pruned");
    let summary = prune(&model, &out, &params("magnitude"), &mut |_, _| ()).unwrap();
    assert_eq!(prune::plan(&model, &params("magnitude")).unwrap().summary, summary);
    let back = open(&out, &[]).unwrap();
    let zeros = |name| values(&*back.weights, name).iter().filter(|v| **v == 0.0).count();
    assert_eq!(zeros("model.layers.0.mlp.up_proj.weight"), 768 * 256 / 2);
    assert!(values(&*back.weights, "lm_head.weight") == values(&*model.weights, "lm_head.weight"));
    let error = prune::plan(&model, &params("wanda")).unwrap_err().to_string();
    assert!(error.contains("method is wanda; it must be one of: magnitude"), "{error}");
}

#[test]
fn a_recipe_of_adapters_gives_the_mean_of_both() {
    let dir = tempfile::tempdir().unwrap();
    let recipe = |name: &str, models: &[&str]| {
        let list: String = models.iter().map(|m| format!("  - model: {m}\n    parameters: {{weight: 1}}\n")).collect();
        let path = dir.path().join(name);
        fs::write(&path, format!("merge_method: linear\nmodels:\n{list}dtype: float32\n")).unwrap();
        path
    };
    let base = assets().join("scribe-8m").display().to_string();
    let (one, two) = (format!("{base}+{base}-detective-lora"), format!("{base}+{base}-verse-lora"));
    let made = |name: &str, models: &[&str], threads| {
        let out = dir.path().join(name).with_extension("");
        let file = recipe(name, models);
        let summary = merge(&file, &out, &plain, threads, &mut |_, _| ()).unwrap();
        assert_eq!(merge::plan(&file, &plain, threads).unwrap().summary, summary);
        out
    };
    let both = made("both.yml", &[&one, &two], 2);
    let again = made("again.yml", &[&one, &two], 1);
    let weights = "model.safetensors";
    assert!(fs::read(both.join(weights)).unwrap() == fs::read(again.join(weights)).unwrap());

    let name = "model.layers.5.mlp.down_proj.weight";
    let of = |dir: &Path| values(&*open(dir, &[]).unwrap().weights, name);
    let (a, b) = (of(&made("a.yml", &[&one], 2)), of(&made("b.yml", &[&two], 2)));
    assert!(a != b && a != values(&*scribe().weights, name));
    assert!(of(&both).iter().zip(a.iter().zip(&b)).all(|(m, (a, b))| (m - (a + b) / 2.0).abs() < 1e-6));
}

#[test]
fn recipes_that_cannot_be_opened_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("r.yml");
    assert!(merge::plan(&file, &plain, 1).unwrap_err().to_string().contains("r.yml"));
    fs::write(&file, "merge_method: linear\nmodels: [{model: nowhere, parameters: {weight: 1}}]").unwrap();
    assert!(merge::plan(&file, &plain, 1).unwrap_err().to_string().contains("nowhere"));
    fs::write(&file, [0xff, 0xfe]).unwrap();
    assert!(merge::plan(&file, &plain, 1).is_err());
    fs::write(&file, vec![b' '; (1 << 20) + 1]).unwrap();
    assert!(merge::plan(&file, &plain, 1).unwrap_err().to_string().contains("larger than"));
}

fn plain(path: &Path) -> Result<FileSet, CompressError> {
    Ok(FileSet::open(path, &[])?)
}

fn params(scheme: Scheme, types: BTreeMap<String, DType>, inputs: Inputs) -> QuantizeParams {
    QuantizeParams { scheme, types, requantize: false, inputs, threads: 2 }
}

#[test]
fn directories_for_vllm_hold_what_was_rounded_and_can_be_rounded_no_further_unasked() {
    let dir = tempfile::tempdir().unwrap();
    let model = scribe();
    for scheme in [Scheme::W4A16, Scheme::W4A16_ASYM_G32, Scheme::W8A8, Scheme::FP8] {
        let params = params(scheme, BTreeMap::new(), Inputs::Unknown);
        let out = dir.path().join(scheme.to_string());
        let summary = quantize(&model, &out, &params, &mut |_, _| ()).unwrap();
        let back = open(&out, &[]).unwrap();
        assert_eq!((back.container, back.weight_bytes), (Container::HuggingFace, summary.bytes_out), "{scheme}");
        assert_eq!(
            back.weights_digest().unwrap(),
            Model { weights: Arc::new(Rounded::with(&model, &params)), ..scribe() }.weights_digest().unwrap()
        );
        let again = quantize(&back, &dir.path().join("again"), &params, &mut |_, _| ());
        assert!(matches!(again, Err(CompressError::Requantize { .. })), "{scheme}");
        let config = fs::read_to_string(out.join("config.json")).unwrap();
        assert!(config.contains("compressed-tensors"), "{config}");
    }
}

#[test]
fn the_types_of_a_quantized_model_are_explained() {
    let dir = tempfile::tempdir().unwrap();
    let model = scribe();
    assert_eq!(quantize::explain(&model), None);
    for scheme in Scheme::ALL.into_iter().filter(|s| !matches!(s, Scheme::F16 | Scheme::BF16)) {
        let out = dir.path().join(scheme.to_string());
        quantize(&model, &out, &params(scheme, BTreeMap::new(), Inputs::Unknown), &mut |_, _| ()).unwrap();
        let found = quantize::explain(&open(&out, &[]).unwrap()).unwrap();
        assert_eq!((found.scheme, found.others), (scheme, 0), "{scheme}");
    }
    let down = "model.layers.0.mlp.down_proj.weight";
    let why = |types: &[(&str, DType)]| {
        let types = types.iter().map(|(name, dtype)| ((*name).to_owned(), *dtype)).collect();
        let out = dir.path().join("pinned");
        quantize(&model, &out, &params(Scheme::Q4_K_M, types, Inputs::Unknown), &mut |_, _| ()).unwrap();
        let found = quantize::explain(&open(&out, &[]).unwrap()).unwrap();
        fs::remove_file(&out).unwrap();
        assert_eq!(found.scheme, Scheme::Q4_K_M);
        (found.others, found.why[down].clone())
    };
    let (others, reason) = why(&[]);
    assert!(others == 0 && reason.contains("way back into the stream"), "{reason}");
    let (others, reason) = why(&[(down, DType::Q8_0)]);
    assert!(others == 1 && reason.contains("not Q4_K_M's Q6_K"), "{reason}");
}

#[test]
fn pins_fix_types_by_either_name_and_say_what_they_cannot() {
    let model = scribe();
    let pinned =
        |scheme, pins: &[&str]| quantize::pinned(&model, scheme, &pins.iter().map(|p| p.parse().unwrap()).collect::<Vec<_>>());
    let types = pinned(Scheme::Q4_K_M, &["blk.0.ffn_down=Q8_0", r"layers\.[01]\..*down=Q2_K", "lm_head=f16"]).unwrap();
    let of = |name: &str| types.get(name).copied();
    assert_eq!(of("model.layers.0.mlp.down_proj.weight"), Some(DType::Q8_0));
    assert_eq!(of("model.layers.1.mlp.down_proj.weight"), Some(DType::Q2_K));
    assert_eq!((of("lm_head.weight"), types.len()), (Some(DType::F16), 3));
    let plan = quantize::plan(&model, &params(Scheme::Q4_K_M, types.clone(), Inputs::Unknown)).unwrap();
    assert_eq!(plan.outputs.iter().find(|t| t.name == "lm_head.weight").unwrap().dtype, "F16");
    for (scheme, pin, reason) in [
        (Scheme::Q4_K_M, "nothing=Q8_0", "no matrix has such a name"),
        (Scheme::Q4_K_M, "lm_head=W4_G32", "does not have this type"),
        (Scheme::W4A16, "lm_head=Q8_0", "does not have this type"),
    ] {
        let error = pinned(scheme, &[pin]).unwrap_err().to_string();
        assert!(error.contains(reason), "{pin}: {error}");
    }
    assert!("lm_head".parse::<quantize::Pin>().unwrap_err().contains("PATTERN=TYPE"));
    assert!("(=Q8_0".parse::<quantize::Pin>().is_err());
    assert!("a=Q9".parse::<quantize::Pin>().unwrap_err().contains("Q8_0"));
}

/// A divergence that is cheap to compute: what rounding changes in some rows of all tensors.
fn squares(model: &Model, rounded: &Rounded) -> Result<f64, CompressError> {
    let mut sum = 0.0;
    for (id, info) in rounded.index().iter() {
        let there = model.weights.index().find(&info.name).unwrap();
        let own = model.weights.index().get(there);
        if info.dtype == own.dtype {
            continue;
        }
        let read = |source: &dyn TensorSource, id, info: &coffer_checkpoint::TensorInfo| {
            let mut raw = vec![0; info.row_bytes().unwrap() as usize];
            source.read_rows(id, 0..1, &mut raw).unwrap();
            let mut out = vec![0.0; info.cols() as usize];
            blocks::decode(info.dtype, &raw, &mut out).unwrap();
            out
        };
        let (a, b) = (read(&*model.weights, there, own), read(rounded, id, info));
        sum += a.iter().zip(&b).map(|(a, b)| f64::from(a - b).powi(2)).sum::<f64>();
    }
    Ok(sum)
}

#[test]
fn mixtures_meet_their_goals_and_spend_what_they_are_given() {
    let model = scribe();
    let fixed = BTreeMap::from([("lm_head.weight".to_owned(), DType::Q8_0)]);
    let params = params(Scheme::Q8_0, fixed, Inputs::Unknown);
    let mut measure = |variants: Vec<Variant>| variants.iter().map(|v| squares(&model, &v.weights)).collect();
    let costs = Costs::measure(&model, &params, &mut measure).unwrap();
    let mut last = f64::INFINITY;
    for bits in [4.0, 4.5, 5.0, 6.0, 7.0] {
        let mixture = costs.choose(Goal::BitsPerWeight(bits), 1.0).unwrap();
        assert!(mixture.types.len() == 57 && !mixture.types.contains_key("lm_head.weight"));
        let used = mixture.bytes as f64 * 8.0 / 8_392_960.0;
        assert!(used <= bits && used > bits - 0.1, "{used} of {bits} bits");
        assert!(mixture.divergence < last);
        last = mixture.divergence;
    }
    let size = costs.choose(Goal::Bytes(5_000_000), 1.0).unwrap().bytes;
    assert!((4_400_000..5_000_000).contains(&size), "names and tokenizer take part of the file: {size}");
    let goal = last * 3.0;
    let met = costs.meet(&model, &params, Goal::Divergence(goal), &mut measure).unwrap();
    assert!(met.divergence <= goal && met.bytes < costs.choose(Goal::BitsPerWeight(7.0), 1.0).unwrap().bytes);
    for impossible in [Goal::BitsPerWeight(1.5), Goal::Bytes(100_000), Goal::Divergence(0.0)] {
        let error = costs.choose(impossible, 1.0).unwrap_err();
        assert!(matches!(error, CompressError::Goal { .. }), "{impossible:?}: {error}");
    }
}

#[test]
fn equalized_weights_compute_the_same() {
    let model = scribe();
    let text = fs::read_to_string(assets().join("../text/holdout.txt")).unwrap();
    let calibration = Calibration::new("t", &text, model.tokenizer.as_ref().unwrap(), 64, 256).unwrap();
    let options = LoadOptions { isa: Isa::detect().unwrap(), threads: 2, context: None, kv_format: KvFormat::F16 };
    let load = |weights: &dyn TensorSource| Engine::load(&model.config, weights, options, &mut |_, _| ()).unwrap();
    let source = load(&*model.weights);
    let as_is = model.weights.index().iter().map(|(_, t)| (t.name.clone(), if t.shape.len() > 1 { DType::F32 } else { t.dtype }));
    let inputs = |equalization: &Arc<Equalization>| Inputs::Equalized(Arc::clone(equalization));
    let q4 = params(Scheme::Q4_0, BTreeMap::new(), Inputs::Unknown);
    let equalization = Arc::new(quantize::equalize(&model, &q4, (options, &calibration), &mut |_, _| ()).unwrap());
    let equalized = Rounded::with(&model, &params(Scheme::Q4_0, as_is.collect(), inputs(&equalization)));
    let name = "model.layers.2.self_attn.q_proj.weight";
    assert!(values(&equalized, name) != values(&*model.weights, name));
    let logits = |engine: &Engine| {
        let mut cache = engine.cache(8).unwrap();
        engine.forward(&mut [Span { cache: &mut cache, tokens: &[0, 5, 90, 7, 300, 12, 4, 8], want: Want::All }]).unwrap()
    };
    let (there, here) = (logits(&source), logits(&load(&equalized)));
    let apart = there.iter().zip(&here).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    // Keys and values are kept in f16, and those of equalized weights are other numbers.
    assert!(apart < 0.05 && there.len() == here.len(), "{apart}");
}
