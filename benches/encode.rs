//! Weights a second of each encoder, on one thread.

use coffer_checkpoint::DType;
use coffer_compress::encode::encode;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};

const WEIGHTS: u32 = 1 << 18;

fn encoders(c: &mut Criterion) {
    let part = |i: u32| i.wrapping_mul(2_654_435_761) as i32 as f32 / 2_147_483_648.0;
    let values: Vec<f32> = (0..WEIGHTS).map(|i| (part(3 * i) + part(3 * i + 1) + part(3 * i + 2)) * 0.02).collect();
    let mut group = c.benchmark_group("encode");
    group.throughput(Throughput::Elements(u64::from(WEIGHTS)));
    for dtype in [DType::F16, DType::BF16].into_iter().chain(DType::QUANTIZED) {
        let mut out = vec![0; values.len() / dtype.block_len() * dtype.block_bytes()];
        group.bench_function(dtype.name(), |b| b.iter(|| encode(dtype, &values, None, &mut out)));
    }
    group.finish();
}

criterion_group!(benches, encoders);
criterion_main!(benches);
