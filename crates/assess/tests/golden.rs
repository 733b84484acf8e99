//! The demo model's certificate, made once and kept: every machine must compute these bits. When the numeric contract gets
//! another version, and only then, it is made anew: `coffer certify assets/models/scribe-8m -o assets/goldens/scribe-8m.json`.

#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use coffer_assess::certify::{self, Comparison};
use coffer_checkpoint::{ReadError, TensorId, TensorIndex, TensorSource};
use coffer_engine::{Engine, LoadOptions};
use coffer_evidence::Certificate;
use coffer_kernels::{Isa, KvFormat};
use coffer_store::Model;
use std::{ops::Range, path::PathBuf, sync::Arc};

fn golden() -> Certificate {
    Certificate::parse(include_bytes!("../../../assets/goldens/scribe-8m.json")).unwrap()
}

fn scribe() -> Model {
    coffer_store::open(&PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../assets/models/scribe-8m"), &[]).unwrap()
}

fn check(model: &Model, certificate: &Certificate, isa: Isa, threads: usize) -> Comparison {
    check_with(model, certificate, LoadOptions { isa, threads, context: None, kv_format: KvFormat::F16 })
}

fn check_with(model: &Model, certificate: &Certificate, load: LoadOptions) -> Comparison {
    let engine = Engine::load(&model.config, &*model.weights, load, &mut |_, _| {}).unwrap();
    certify::check(certificate, "scribe-8m", model, &engine, &mut |_, _| {}).unwrap()
}

fn fastest() -> Isa {
    Isa::detect().expect("COFFER_ISA, where set, names an instruction set of this machine")
}

/// The short cases.
fn short(mut certificate: Certificate) -> Certificate {
    certificate.cases.retain(|c| c.tokens.len() < 100);
    certificate
}

#[test]
fn this_machine_computes_the_golden_bits() {
    let model = scribe();
    let found = check(&model, &golden(), fastest(), 2);
    assert!(found.equal(), "{found:?}");
    assert_eq!(found.cases, golden().cases.len());
    for isa in Isa::available() {
        let mut quick = golden();
        quick.cases.retain(|c| c.name == "ids");
        let found = check(&model, &quick, isa, 3);
        assert!(found.equal(), "{}: {found:?}", isa.name());
    }
}

#[test]
fn a_certificate_made_here_is_the_golden_one() {
    let model = scribe();
    let load = LoadOptions { isa: fastest(), threads: 2, context: None, kv_format: KvFormat::F16 };
    let engine = Engine::load(&model.config, &*model.weights, load, &mut |_, _| {}).unwrap();
    let made = certify::certify("scribe-8m", &model, &engine, &mut |_, _| {}).unwrap();
    assert!(made == golden(), "the suite, the model or its bits are others; see the top of this file");
}

/// One bit of one weight of a layer is another.
struct Flipped {
    weights: Arc<dyn TensorSource>,
    tensor: TensorId,
}

impl TensorSource for Flipped {
    fn index(&self) -> &TensorIndex {
        self.weights.index()
    }
    fn read_rows(&self, t: TensorId, rows: Range<u64>, out: &mut [u8]) -> Result<(), ReadError> {
        self.weights.read_rows(t, rows.clone(), out)?;
        if t == self.tensor && rows.contains(&0) {
            out[1] ^= 1;
        }
        Ok(())
    }
}

#[test]
fn one_bit_of_one_weight_is_named() {
    let mut model = scribe();
    let name = "model.layers.2.mlp.down_proj.weight";
    let (tensor, _) = model.weights.index().iter().find(|(_, info)| info.name == name).unwrap();
    model.weights = Arc::new(Flipped { weights: model.weights, tensor });
    let found = check(&model, &short(golden()), fastest(), 2);
    let [part] = &found.parts[..] else { panic!("{found:?}") };
    assert_eq!(part.part, "weights");
    assert!(part.detail.starts_with("1 of ") && part.detail.ends_with(name), "{}", part.detail);
    assert_eq!(found.answers.len(), found.cases);
    assert!(found.answers.iter().all(|a| a.stage == "layer 2"), "{:?}", found.answers);
}

#[test]
fn another_rope_base_is_named() {
    let mut model = scribe();
    model.config.rope.theta *= 2.0;
    let found = check(&model, &short(golden()), fastest(), 2);
    let [part] = &found.parts[..] else { panic!("{found:?}") };
    assert_eq!(part.part, "configuration");
    assert!(part.detail.starts_with("rope_theta: "), "{}", part.detail);
    let first = found.answers.iter().find(|a| a.case == "ids").unwrap();
    // Position 0 is not turned.
    assert_eq!((first.token, first.stage.as_str()), (Some(1), "layer 0"));
}

#[test]
fn another_merge_of_the_tokenizer_is_named() {
    let mut model = scribe();
    let (json, config) = model.tokenizer.as_ref().unwrap().to_hf(None);
    let mut json: serde_json::Value = serde_json::from_str(&json).unwrap();
    json["model"]["merges"].as_array_mut().unwrap().swap(3, 40);
    model.tokenizer =
        Some(coffer_model::tokenizer::Tokenizer::from_json(json.to_string().as_bytes(), Some(config.as_bytes())).unwrap());
    let found = check(&model, &short(golden()), fastest(), 2);
    assert!(found.answers.is_empty());
    assert!(found.parts.iter().all(|p| p.part == "tokenizer") && !found.parts.is_empty(), "{found:?}");
}

#[test]
fn another_format_of_the_cache_is_said_and_nothing_is_run() {
    let load = LoadOptions { isa: fastest(), threads: 2, context: None, kv_format: KvFormat::Q8_0 };
    let found = check_with(&scribe(), &golden(), load);
    let [part] = &found.parts[..] else { panic!("{found:?}") };
    assert_eq!((found.cases, part.part, part.detail.as_str()), (0, "kv_format", "f16 in the certificate, q8_0 here"));
}

#[test]
fn another_contract_is_said_and_nothing_is_run() {
    let certificate = Certificate { contract: "other".into(), ..golden() };
    let found = check(&scribe(), &certificate, fastest(), 2);
    assert_eq!((found.cases, found.parts[0].part), (0, "contract"));
}
