//! Digests of the logits of a tiny random model of each family and each type of weight, made once and kept: every instruction set of
//! every machine must compute these bits. They change with the numeric contract, and only with it; the failing test prints them.

use crate::support::{
    Memory, engine_keeping, engine_on, gemma2, gemma3, llama, mistral, mixtral, phi3, qwen2, qwen2_moe, qwen3, qwen3_moe,
    random_tokens, whole, wide,
};
use coffer_checkpoint::DType;
use coffer_kernels::{Isa, KvFormat};
use coffer_model::ModelConfig;

const GOLDENS: &str = include_str!("../../../../assets/goldens/families.txt");

/// Every family with weights of one type, and Llama with all others.
fn models() -> Vec<(ModelConfig, DType)> {
    let families = [llama(), mistral(), qwen2(), qwen3(), phi3(), mixtral(), qwen2_moe(), qwen3_moe(), gemma2(), gemma3()];
    let types = [DType::F32].into_iter().chain(DType::QUANTIZED);
    families.map(|config| (config, DType::BF16)).into_iter().chain(types.map(|dtype| (wide(), dtype))).collect()
}

/// FNV-1a of the bits of all logits.
fn digest(bits: &[u32]) -> u64 {
    let bytes = bits.iter().flat_map(|word| word.to_le_bytes());
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3))
}

#[test]
fn this_machine_computes_the_golden_bits() {
    for isa in Isa::available() {
        let mut found = String::new();
        for (config, dtype) in models() {
            let engine = engine_on(&config, &Memory::random(&config, dtype, 11), isa, 2);
            let logits = whole(&engine, &random_tokens(&config, 50, 12));
            let family = config.architecture.family().model_type;
            found += &format!("{family} {dtype} {:016x}\n", digest(&logits));
        }
        for format in [KvFormat::F32, KvFormat::Q8_0] {
            let config = llama();
            let engine = engine_keeping(&config, &Memory::random(&config, DType::BF16, 11), isa, format);
            let logits = whole(&engine, &random_tokens(&config, 50, 12));
            found += &format!("llama BF16 with a cache of {format} {:016x}\n", digest(&logits));
        }
        assert!(found == GOLDENS, "{}:\n{found}", isa.name());
    }
}
