//! The demo model against figures of transformers (float32, double-precision sums) on the same tokens.

use coffer_assess::{
    Options, Policy, Subject, assess,
    assessment::Text,
    fidelity::{self, Loaded, OnTheWay, Variation, Windows},
    figures::Figure,
    portability::PortabilityOptions,
};
use coffer_checkpoint::{ReadError, TensorId, TensorIndex, TensorSource};
use coffer_engine::{Engine, LoadOptions};
use coffer_kernels::{Isa, KvFormat};
use coffer_store::Model;
use std::{ops::Range, path::PathBuf, sync::Arc};

const HOLDOUT: &str = include_str!("../../../assets/text/holdout.txt");
const PAIRS: &str = include_str!("../../../assets/eval/minimal-pairs.jsonl");

const REFERENCE_PERPLEXITY: f64 = 29.320826;
const COARSE_PERPLEXITY: f64 = 30.808295;
const COARSE_KL_MEAN: f64 = 0.024849320;
const COARSE_KL_P99: f64 = 0.097548884;
const COARSE_SAME_TOP: f64 = 0.936024;

/// The demo model with the lowest four bits of every bf16 weight cleared: a variant that needs no file.
struct Coarse(Arc<dyn TensorSource>);

impl TensorSource for Coarse {
    fn index(&self) -> &TensorIndex {
        self.0.index()
    }
    fn read_rows(&self, t: TensorId, rows: Range<u64>, out: &mut [u8]) -> Result<(), ReadError> {
        self.0.read_rows(t, rows, out)?;
        out.iter_mut().step_by(2).for_each(|low| *low &= 0xf0);
        Ok(())
    }
}

fn scribe() -> Model {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../assets/models/scribe-8m");
    coffer_store::open(&path, &[]).expect("the demo model is part of the project")
}

/// Transformers keep keys and values as they were computed.
fn load() -> LoadOptions {
    LoadOptions {
        isa: Isa::detect().expect("COFFER_ISA, where set, names an instruction set of this machine"),
        threads: 2,
        context: None,
        kv_format: KvFormat::F32,
    }
}

fn subject<'a>(name: &str, model: &'a Model) -> Subject<'a> {
    Subject { name: name.to_owned(), made: String::new(), model, resources: None, scan: None }
}

#[test]
fn figures_agree_with_transformers() {
    let (model, mut coarse) = (scribe(), scribe());
    coarse.weights = Arc::new(Coarse(coarse.weights));
    let mut options = Options::new(Text { name: "holdout.txt", text: HOLDOUT }, load());
    options.pairs = Some(Text { name: "minimal-pairs.jsonl", text: PAIRS });
    (options.max_tokens, options.window) = (1024, 128);
    options.portability = Some(PortabilityOptions { threads: vec![1, 2], tokens: 40 });
    options.policy = Some(Policy::parse("max_kl_mean = 0.0001\nrequire_same_bits = true", "p.toml").unwrap());
    let a = assess(subject("scribe-8m", &model), vec![subject("coarse", &coarse)], &options, &mut |_| {}).unwrap();
    let read = |i: usize, id: &str| Figure::find(id).unwrap().read(&a.models[i].measured).unwrap().value;
    let near = |got: f64, want: f64, tolerance: f64| assert!((got - want).abs() <= tolerance, "{got}, transformers say {want}");
    near(read(0, "perplexity"), REFERENCE_PERPLEXITY, 2e-3);
    near(read(1, "perplexity"), COARSE_PERPLEXITY, 2e-3);
    near(read(1, "kl_mean"), COARSE_KL_MEAN, 2e-6);
    near(read(1, "kl_p99"), COARSE_KL_P99, 2e-5);
    near(read(1, "same_top"), COARSE_SAME_TOP, 1e-3);
    near(read(0, "pairs_right"), 0.92, 0.0);
    assert_eq!((read(0, "distinct_logits"), read(1, "distinct_logits")), (1.0, 1.0));
    let reasons: Vec<_> = a.models[1].verdict.as_ref().unwrap().reasons.iter().map(|r| r.limit.key).collect();
    assert_eq!(reasons, ["max_kl_mean"]);
    coffer_assess::report::html(&a).unwrap();
}

#[test]
fn a_model_does_not_differ_from_itself() {
    let model = scribe();
    let engine = Engine::load(&model.config, &*model.weights, load(), &mut |_, _| {}).unwrap();
    let tokens = model.tokenizer.as_ref().unwrap().encode(HOLDOUT, true).unwrap();
    let windows = Windows::new(&tokens[..300], 128, 0, engine.context()).unwrap();
    let loaded = Loaded { name: "scribe-8m", engine: &engine };
    let (_, same) = fidelity::compare(loaded, &[loaded], &windows, &mut |_, _| {}).unwrap();
    let d = same[0].divergence.as_ref().unwrap();
    assert_eq!((d.kl_mean.value, d.kl_p99, d.same_top.value, d.perplexity_ratio.value), (0.0, 0.0, 1.0, 1.0));
}

#[test]
fn layer_after_layer_the_figures_are_the_same() {
    let (model, mut coarse) = (scribe(), scribe());
    coarse.weights = Arc::new(Coarse(coarse.weights));
    let [a, b] = [&model, &coarse].map(|m| Engine::load(&m.config, &*m.weights, load(), &mut |_, _| {}).unwrap());
    let tokens = model.tokenizer.as_ref().unwrap().encode(HOLDOUT, true).unwrap();
    let windows = Windows::new(&tokens[..1000], 300, 3, a.context()).unwrap();
    let [a, b] = [Loaded { name: "a", engine: &a }, Loaded { name: "b", engine: &b }];
    let (alone, beside) = fidelity::compare(a, &[b], &windows, &mut |_, _| {}).unwrap();
    let [a, b] = [("a", &model), ("b", &coarse)].map(|(name, model)| OnTheWay {
        name,
        config: &model.config,
        weights: Arc::clone(&model.weights),
    });
    let found = fidelity::compare_layerwise(a, b, load(), &windows, &mut |_, _| {}).unwrap();
    assert_eq!(found, (alone, beside[0].clone()));
}

/// The same in one layer.
struct CoarseLayer(Coarse, usize);

impl TensorSource for CoarseLayer {
    fn index(&self) -> &TensorIndex {
        self.0.index()
    }
    fn read_rows(&self, t: TensorId, rows: Range<u64>, out: &mut [u8]) -> Result<(), ReadError> {
        let inside = self.index().get(t).name.starts_with(&format!("model.layers.{}.", self.1));
        if inside { self.0.read_rows(t, rows, out) } else { self.0.0.read_rows(t, rows, out) }
    }
}

#[test]
fn variations_are_measured_as_if_each_were_alone() {
    let model = scribe();
    let tokens = model.tokenizer.as_ref().unwrap().encode(HOLDOUT, true).unwrap();
    let windows = Windows::new(&tokens[..300], 200, 3, model.config.context).unwrap();
    let way = |name, weights: &Arc<dyn TensorSource>| OnTheWay { name, config: &model.config, weights: Arc::clone(weights) };
    let layers = [7, 0, 3, 3, 1];
    let varied = |layer| Arc::new(CoarseLayer(Coarse(Arc::clone(&model.weights)), layer)) as Arc<dyn TensorSource>;
    let variations = layers.map(|layer| Variation { layer, weights: varied(layer) });
    let alone = layers.map(|layer| {
        let (source, variation) = (way("source", &model.weights), way("variation", &varied(layer)));
        fidelity::compare_layerwise(source, variation, load(), &windows, &mut |_, _| {}).unwrap().1
    });
    for memory in [0, 2 * 300 * 4 * model.config.hidden, 1 << 30] {
        let source = way("source", &model.weights);
        let found = fidelity::compare_variations(source, &variations, load(), memory, &windows, &mut |_, _| {}).unwrap();
        assert!(found == alone, "{memory} bytes");
    }
    let beyond = [Variation { layer: 8, weights: varied(8) }];
    let source = way("source", &model.weights);
    assert!(fidelity::compare_variations(source, &beyond, load(), 0, &windows, &mut |_, _| {}).is_err());
}

/// models/README.md's text: Emma, which is not part of the project.
#[test]
fn perplexity_of_the_shared_text_agrees() {
    let Ok(shared) = std::env::var("COFFER_SHARED") else { return println!("skipped: COFFER_SHARED is not set") };
    let Ok(text) = std::fs::read_to_string(PathBuf::from(shared).join("text/holdout.txt")) else {
        return println!("skipped: no text/holdout.txt");
    };
    let model = scribe();
    let text: String = text.chars().take(90_000).collect();
    let tokens = model.tokenizer.as_ref().unwrap().encode(&text, true).unwrap();
    let engine = Engine::load(&model.config, &*model.weights, load(), &mut |_, _| {}).unwrap();
    let windows = Windows::new(&tokens[..20_000], 512, 0, engine.context()).unwrap();
    let got = fidelity::evaluate(Loaded { name: "scribe-8m", engine: &engine }, &windows, &mut |_, _| {}).unwrap();
    assert!((got.perplexity.value - 39.146_586).abs() < 2e-3, "{}", got.perplexity.value);
}
