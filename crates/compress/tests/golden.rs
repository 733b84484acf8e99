//! The same bytes on every instruction set and every machine: digests of what methods make of the demo model.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on must panic")]

use coffer_compress::{
    Calibration, Curvature,
    quantize::{self, Inputs, QuantizeParams, Rounded, Scheme},
};
use coffer_engine::LoadOptions;
use coffer_kernels::{Isa, KvFormat};
use coffer_store::{Model, open};
use std::{collections::BTreeMap, path::Path, sync::Arc};

fn opened() -> Model {
    open(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../../assets/models/scribe-8m"), &[]).unwrap()
}

fn lesson(model: &Model, isa: Isa) -> (LoadOptions, Calibration) {
    let text = "The lamp had burned low, and the clerk went on writing, for the letter was to go by the night mail. ".repeat(12);
    let calibration = Calibration::new("golden", &text, model.tokenizer.as_ref().unwrap(), 64, 256).unwrap();
    (LoadOptions { isa, threads: 2, context: None, kv_format: KvFormat::F16 }, calibration)
}

/// A change of `golden`, the digest of the weights, is a new version of the method.
fn made_on_every_instruction_set(scheme: Scheme, method: &str, golden: &str) {
    let model = opened();
    for isa in Isa::available() {
        let params = QuantizeParams { scheme, types: BTreeMap::new(), requantize: false, inputs: Inputs::Unknown, threads: 2 };
        let (options, text) = lesson(&model, isa);
        let inputs = match method {
            "awq@1" => {
                Inputs::Equalized(Arc::new(quantize::equalize(&model, &params, (options, &text), &mut |_, _| ()).unwrap()))
            }
            _ => Inputs::Curvature(Arc::new(Curvature::new(&model, options, &text))),
        };
        let rounded = Rounded::with(&model, &QuantizeParams { inputs, ..params });
        assert_eq!(rounded.method(), method);
        let made = Model { weights: Arc::new(rounded), ..opened() };
        assert_eq!(made.weights_digest().unwrap().to_string(), golden, "{scheme} by {method} on {isa:?}");
    }
}

#[test]
fn gptq_in_types_of_gguf() {
    let golden = "sha256:246d56d9653927edfdfb7bcc9782a8e8f5abe099f8012f343cdeb092efea6d8e";
    made_on_every_instruction_set(Scheme::Q3_K_M, "gptq@1", golden);
}

#[test]
fn gptq_for_vllm() {
    let golden = "sha256:aadc7ea82fabf036eb76dea328146edec094c85a5ee6e69244bc6cda2626733b";
    made_on_every_instruction_set(Scheme::W4A16, "gptq@1", golden);
}

#[test]
fn awq_for_vllm() {
    let golden = "sha256:3e542bb8cc1ae28d54c8459d810efbafd1cb7dc4de29f1a0f9314ca796173876";
    made_on_every_instruction_set(Scheme::W4A16_ASYM, "awq@1", golden);
}
