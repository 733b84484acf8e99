//! The project's own model against transformers in float32.

use crate::support::whole;
use coffer_checkpoint::{FileAt, safetensors::SafetensorsFile};
use coffer_engine::{Engine, LoadOptions, SamplingParams};
use coffer_kernels::Isa;
use coffer_model::ModelConfig;
use std::{path::PathBuf, sync::Arc};

/// "It was a dark night, and the"
const TOKENS: [u32; 8] = [826, 321, 261, 1129, 885, 14, 283, 263];

/// For each token: the three most likely next ones with their logits, then the logits of tokens 0, 1000 and 4095. Made by
///
/// ```python
/// model = AutoModelForCausalLM.from_pretrained("assets/models/scribe-8m", dtype=torch.float32).eval()
/// for row in model(torch.tensor([TOKENS])).logits[0]:
///     print([(int(i), float(row[i])) for i in [*row.topk(3).indices, 0, 1000, 4095]])
/// ```
const GOLDEN: [[(u32, f32); 6]; 8] = [
    [(321, 6.8739), (357, 6.5203), (373, 5.845), (0, -1.0704), (1000, -2.9335), (4095, -0.033)],
    [(261, 6.1865), (263, 5.762), (350, 5.267), (0, -2.2659), (1000, -1.598), (4095, -3.2992)],
    [(568, 5.7436), (676, 5.4365), (635, 5.3263), (0, -1.5053), (1000, 0.8111), (4095, -1.9393)],
    [(14, 6.538), (15, 5.6996), (283, 5.5648), (0, -1.5769), (1000, -0.4887), (4095, -4.1301)],
    [(14, 7.3862), (16, 6.6892), (79, 6.038), (0, -0.7178), (1000, -4.0402), (4095, -3.229)],
    [(283, 7.0743), (397, 5.3602), (261, 5.2337), (0, -1.8956), (1000, -1.4404), (4095, -2.4078)],
    [(263, 6.4859), (301, 6.0256), (261, 5.8998), (0, -2.3209), (1000, -1.1135), (4095, -0.8394)],
    [(1208, 6.0231), (2388, 5.4989), (885, 5.3547), (0, -0.9856), (1000, 0.3456), (4095, -3.115)],
];

pub(crate) fn scribe() -> Engine {
    let directory = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../assets/models/scribe-8m");
    let config = ModelConfig::from_hf(&std::fs::read(directory.join("config.json")).unwrap(), None).unwrap();
    let file = Arc::new(FileAt::open(&directory.join("model.safetensors")).unwrap());
    let weights = SafetensorsFile::open("model.safetensors", file).unwrap();
    let options =
        LoadOptions { isa: Isa::detect().unwrap(), threads: 2, context: None, kv_format: coffer_kernels::KvFormat::default() };
    Engine::load(&config, &weights, options, &mut |_, _| ()).unwrap()
}

#[test]
fn agrees_with_transformers() {
    let logits = whole(&scribe(), &TOKENS);
    for (row, golden) in logits.chunks_exact(4096).zip(GOLDEN) {
        let row: Vec<f32> = row.iter().map(|&x| f32::from_bits(x)).collect();
        let ranked: Vec<u32> = coffer_engine::sampling::top(&row, 3).iter().map(|c| c.token).collect();
        assert_eq!(ranked, golden.map(|(token, _)| token)[..3]);
        for (token, want) in golden {
            assert!((row[token as usize] - want).abs() < 1e-3, "token {token}: {} for {want}", row[token as usize]);
        }
    }
}

#[test]
fn generates_what_its_seed_says() {
    let engine = scribe();
    let run = |seed| -> Vec<u32> {
        let params = SamplingParams { temperature: 0.8, top_p: 0.95, seed };
        engine.generate(&TOKENS, params).unwrap().take(20).map(|c| c.unwrap().token).collect()
    };
    assert_eq!(run(1), run(1));
    assert_ne!(run(1), run(2));
}
