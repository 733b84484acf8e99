//! The commands' own entry points, on the demo model.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on must panic")]

use coffer_checkpoint::{TensorSource, blocks};
use coffer_compress::{
    CompressError,
    merge::{self, merge},
    prune::{self, PruneParams, prune},
    quantize::{self, Inputs, QuantizeParams, Scheme, quantize},
};
use coffer_store::{Container, FileSet, Model, open};
use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
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
