//! All matrix products of a 1.1 B Llama (hidden 2048, 22 layers, 4 key-value heads of 64, FFN 5632, vocabulary 32000):
//! one token, and 512 tokens without the output head, as in a prompt. `COFFER_BENCH_THREADS` sets the threads, 2 by default.

use coffer_checkpoint::DType;
use coffer_kernels::{Cpu, Isa, Matrix, MatrixBuilder};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use std::hint::black_box;

const HIDDEN: usize = 2048;
const KV: usize = 256;
const FFN: usize = 5632;
const VOCAB: usize = 32000;
const LAYERS: usize = 22;

/// Types of most matrices, of those that Q4_K_M keeps finer, and of the head.
const MIXES: [(&str, DType, DType, DType); 5] = [
    ("Q4_0", DType::Q4_0, DType::Q4_0, DType::Q6_K),
    ("Q8_0", DType::Q8_0, DType::Q8_0, DType::Q8_0),
    ("Q4_K_M", DType::Q4_K, DType::Q6_K, DType::Q6_K),
    ("Q6_K", DType::Q6_K, DType::Q6_K, DType::Q6_K),
    ("BF16", DType::BF16, DType::BF16, DType::BF16),
];

/// Groups of matrices that share an input.
struct Model {
    layers: Vec<[Vec<Matrix>; 4]>,
    head: Vec<Matrix>,
}

fn matrix(dtype: DType, rows: usize, cols: usize) -> Matrix {
    let row: Vec<u8> = (0..cols / dtype.block_len() * dtype.block_bytes()).map(|i| (i * 37 % 251) as u8 & 0x3f).collect();
    let mut builder = MatrixBuilder::new(dtype, rows, cols).expect("sizes are good");
    (0..rows).for_each(|_| builder.push_rows(&row).expect("sizes are good"));
    builder.finish().expect("sizes are good")
}

fn model(most: DType, finer: DType, head: DType) -> Model {
    let layer = |i: usize| {
        let fine = if !(LAYERS / 8..LAYERS * 7 / 8).contains(&i) || (i - LAYERS / 8) % 3 == 2 { finer } else { most };
        let qkv = vec![matrix(most, HIDDEN, HIDDEN), matrix(most, KV, HIDDEN), matrix(fine, KV, HIDDEN)];
        let up = vec![matrix(most, FFN, HIDDEN), matrix(most, FFN, HIDDEN)];
        [qkv, vec![matrix(most, HIDDEN, HIDDEN)], up, vec![matrix(fine, HIDDEN, FFN)]]
    };
    Model { layers: (0..LAYERS).map(layer).collect(), head: vec![matrix(head, VOCAB, HIDDEN)] }
}

fn run(cpu: &Cpu, group: &[Matrix], tokens: usize) {
    let x: Vec<f32> = (0..tokens * group[0].cols()).map(|i| (i * 37 % 251) as f32 - 125.0).collect();
    let mut ys: Vec<Vec<f32>> = group.iter().map(|w| vec![0.0; tokens * w.rows()]).collect();
    let mut outs: Vec<&mut [f32]> = ys.iter_mut().map(|y| &mut y[..]).collect();
    cpu.matmul(&group.iter().collect::<Vec<_>>(), &x, tokens, &mut outs);
    black_box(outs);
}

fn products(criterion: &mut Criterion) {
    let threads = std::env::var("COFFER_BENCH_THREADS").ok().and_then(|n| n.parse().ok()).unwrap_or(2);
    let cpu = Cpu::new(Isa::detect().expect("COFFER_ISA is good"), threads);
    for (name, most, finer, head) in MIXES {
        let model = model(most, finer, head);
        let bytes: usize = model.layers.iter().flatten().flatten().chain(&model.head).map(Matrix::bytes).sum();
        let mut decode = criterion.benchmark_group("decode");
        decode.sample_size(20).throughput(Throughput::Bytes(bytes as u64));
        decode.bench_function(name, |bench| {
            bench.iter(|| model.layers.iter().flatten().chain([&model.head]).for_each(|group| run(&cpu, group, 1)));
        });
        decode.finish();
        let mut prefill = criterion.benchmark_group("prefill 512");
        prefill.sample_size(10).throughput(Throughput::Elements(512));
        prefill
            .bench_function(name, |bench| bench.iter(|| model.layers.iter().flatten().for_each(|group| run(&cpu, group, 512))));
        prefill.finish();
    }
}

criterion_group!(benches, products);
criterion_main!(benches);
