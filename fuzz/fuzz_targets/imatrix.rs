//! Any bytes as an importance matrix: an error, or columns that are numbers.

#![no_main]

use coffer_checkpoint::MemoryAt;
use coffer_compress::Importance;
use coffer_model::ModelConfig;
use libfuzzer_sys::fuzz_target;
use std::sync::{Arc, LazyLock};

static CONFIG: LazyLock<ModelConfig> = LazyLock::new(|| {
    let json = include_bytes!("../../assets/models/scribe-8m/config.json");
    ModelConfig::from_hf(json, None).expect("the demo model's")
});

fuzz_target!(|bytes: &[u8]| {
    let Ok(importance) = Importance::read("fuzz", Arc::new(MemoryAt::new("fuzz", bytes.to_vec())), &CONFIG) else { return };
    for weight in importance.weights() {
        let _ = importance.columns(weight, 256);
    }
});
