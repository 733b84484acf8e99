//! Matrix products: every instruction set, thread count and batch gives the bits of the plain version; the plain version
//! is near the exact product.

use crate::plain::product::product;
use crate::plain::{Random, all_types, assert_same_bits, scale_bytes};
use coffer_checkpoint::{DType, blocks};
use coffer_kernels::{Cpu, Isa, Matrix, MatrixBuilder, MatrixError};
use proptest::prelude::*;

fn pack(dtype: DType, rows: usize, cols: usize, raw: &[u8]) -> Matrix {
    let mut builder = MatrixBuilder::new(dtype, rows, cols).expect("sizes are good");
    builder.push_rows(raw).expect("whole rows");
    builder.finish().expect("all rows came")
}

fn matmul(cpu: &Cpu, w: &Matrix, x: &[f32], tokens: usize) -> Vec<f32> {
    let mut y = vec![1.0; tokens * w.rows()];
    cpu.matmul(&[w], x, tokens, &mut [&mut y]);
    y
}

fn plain_matmul(dtype: DType, raw: &[u8], cols: usize, x: &[f32]) -> Vec<f32> {
    let row_bytes = dtype.row_bytes(cols as u64).expect("whole blocks") as usize;
    x.chunks_exact(cols).flat_map(|x| raw.chunks_exact(row_bytes).map(|row| product(dtype, row, x))).collect()
}

/// One random product on every instruction set.
fn check(dtype: DType, rows: usize, blocks: usize, tokens: usize, threads: usize, wild: bool, seed: u64) {
    let mut random = Random(seed);
    let cols = blocks * if dtype.is_quantized() { dtype.block_len() } else { 7 };
    let (raw, x) = match wild {
        false => (random.rows(dtype, rows, cols), random.normals(tokens * cols)),
        true => (random.wild_rows(dtype, rows, cols), random.wild(tokens * cols)),
    };
    let want = plain_matmul(dtype, &raw, cols, &x);
    let w = pack(dtype, rows, cols, &raw);
    for isa in Isa::available() {
        let got = matmul(&Cpu::new(isa, threads), &w, &x, tokens);
        assert_same_bits(&got, &want, &format!("{dtype} {rows}×{cols}, {tokens} tokens, {threads} threads, {}", isa.name()));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..Default::default() })]

    #[test]
    fn equal_the_plain_version_to_the_bit(
        dtype in prop::sample::select(all_types().collect::<Vec<_>>()),
        rows in 1usize..70,
        blocks in 1usize..5,
        tokens in 1usize..24,
        threads in prop::sample::select(vec![1usize, 2, 3, 4, 7]),
        wild: bool,
        seed: u64,
    ) {
        check(dtype, rows, blocks, tokens, threads, wild, seed);
    }
}

#[test]
fn any_number_of_tokens_equals_one_at_a_time() {
    let mut random = Random(7);
    for dtype in all_types() {
        let (rows, cols) = (33, 512);
        let w = pack(dtype, rows, cols, &random.rows(dtype, rows, cols));
        let x = random.normals(170 * cols);
        for isa in Isa::available() {
            let alone = Cpu::new(isa, 1);
            let one: Vec<f32> = x.chunks_exact(cols).flat_map(|x| matmul(&alone, &w, x, 1)).collect();
            for tokens in (1..=70).chain([159, 160, 161, 170]) {
                let cpu = if tokens % 2 == 0 { &alone } else { &Cpu::new(isa, 3) };
                let got = matmul(cpu, &w, &x[..tokens * cols], tokens);
                assert_same_bits(&got, &one[..tokens * rows], &format!("{dtype}, {tokens} tokens, {}", isa.name()));
            }
        }
    }
}

/// Rows large enough that several threads take parts.
#[test]
fn any_number_of_threads_gives_the_same_bits() {
    let mut random = Random(8);
    for dtype in all_types() {
        let (rows, cols) = (700, 512);
        let w = pack(dtype, rows, cols, &random.rows(dtype, rows, cols));
        let x = random.normals(3 * cols);
        let best = *Isa::available().last().unwrap();
        let want = matmul(&Cpu::new(best, 1), &w, &x, 3);
        for threads in [2, 3, 4, 7] {
            assert_same_bits(&matmul(&Cpu::new(best, threads), &w, &x, 3), &want, &format!("{dtype}, {threads} threads"));
        }
    }
}

/// Every code and every activation at its end, so that integer sums are as large as they get.
#[test]
fn extreme_codes_do_not_overflow() {
    for dtype in DType::QUANTIZED {
        let cols = 2 * 256;
        for fill in [0x00u8, 0xff, 0x80, 0x7f] {
            let mut raw = Random(1).rows(dtype, 1, cols);
            for block in raw.chunks_exact_mut(dtype.block_bytes()) {
                let scales = scale_bytes(dtype, block);
                block.fill(fill);
                for (at, _) in scales {
                    block[at..at + 2].copy_from_slice(&[0x00, 0x3c]);
                }
            }
            for sign in [1.0, -1.0] {
                let x = vec![sign * 127.0; cols];
                let w = pack(dtype, 1, cols, &raw);
                let want = plain_matmul(dtype, &raw, cols, &x);
                for isa in Isa::available() {
                    assert_same_bits(&matmul(&Cpu::new(isa, 1), &w, &x, 1), &want, &format!("{dtype} {fill:#x} {}", isa.name()));
                }
            }
        }
    }
}

#[test]
fn matrices_of_different_types_share_an_input() {
    let mut random = Random(9);
    let cols = 512;
    let raw: Vec<_> = all_types().map(|dtype| (dtype, random.rows(dtype, 20, cols))).collect();
    let ws: Vec<_> = raw.iter().map(|(dtype, raw)| pack(*dtype, 20, cols, raw)).collect();
    let x = random.normals(6 * cols);
    for isa in Isa::available() {
        let mut ys = vec![vec![0.0; 6 * 20]; ws.len()];
        let mut outs: Vec<_> = ys.iter_mut().map(|y| &mut y[..]).collect();
        Cpu::new(isa, 2).matmul(&ws.iter().collect::<Vec<_>>(), &x, 6, &mut outs);
        for ((dtype, raw), y) in raw.iter().zip(&ys) {
            assert_same_bits(y, &plain_matmul(*dtype, raw, cols, &x), &dtype.name());
        }
    }
}

/// The exact product in f64 of the decoded weights differs by no more than activations were rounded, plus what f32 sums lose.
#[test]
fn are_near_the_exact_product() {
    let mut random = Random(10);
    for dtype in all_types() {
        let (rows, cols, tokens) = (40, 2048, 3);
        let raw = random.rows(dtype, rows, cols);
        let x = random.normals(tokens * cols);
        let y = plain_matmul(dtype, &raw, cols, &x);
        let mut w = vec![0.0; rows * cols];
        blocks::decode(dtype, &raw, &mut w).unwrap();
        for (t, x) in x.chunks_exact(cols).enumerate() {
            for (r, w) in w.chunks_exact(cols).enumerate() {
                let exact: f64 = w.iter().zip(x).map(|(&w, &x)| f64::from(w) * f64::from(x)).sum();
                let mut bound = 0.0;
                let block = if dtype.is_quantized() { dtype.block_len() } else { cols };
                for (w, x) in w.chunks_exact(block).zip(x.chunks_exact(block)) {
                    let size = |x: &[f32]| x.iter().map(|x| f64::from(x.abs())).sum::<f64>();
                    let largest = x.iter().fold(0.0f64, |m, x| m.max(f64::from(x.abs())));
                    if dtype.is_quantized() {
                        bound += size(w) * largest / 127.0 * 0.501;
                    }
                    bound += 1e-5 * size(w) * largest;
                }
                let got = f64::from(y[t * rows + r]);
                assert!((got - exact).abs() <= bound, "{dtype}: {got} where {exact} ± {bound} is right");
            }
        }
    }
}

#[test]
fn rows_decode_to_what_their_bytes_do() {
    let mut random = Random(11);
    for dtype in all_types() {
        for (rows, cols) in [(1, 256), (16, 512), (35, 256)] {
            let raw = random.wild_rows(dtype, rows, cols);
            let w = pack(dtype, rows, cols, &raw);
            let (mut want, mut got) = (vec![0.0; rows * cols], vec![0.0; cols]);
            blocks::decode(dtype, &raw, &mut want).unwrap();
            for (row, want) in want.chunks_exact(cols).enumerate() {
                w.decode_row(row, &mut got);
                assert_same_bits(&got, want, &format!("{dtype} row {row}"));
            }
        }
    }
}

#[test]
fn empty_products_are_allowed() {
    for dtype in all_types() {
        let cpu = Cpu::new(Isa::Scalar, 2);
        assert!(matmul(&cpu, &pack(dtype, 0, 256, &[]), &[0.0; 256], 1).is_empty());
        assert_eq!(matmul(&cpu, &pack(dtype, 3, 0, &[]), &[], 2), [0.0; 6]);
        let w = pack(dtype, 3, 256, &Random(1).rows(dtype, 3, 256));
        assert!(matmul(&cpu, &w, &[], 0).is_empty());
    }
}

#[test]
fn bad_shapes_are_refused() {
    let new = |dtype, rows, cols| MatrixBuilder::new(dtype, rows, cols).map(|_| ());
    assert_eq!(new(DType::I8, 1, 1), Err(MatrixError::Unsupported(DType::I8)));
    assert_eq!(new(DType::Q4_0, 1, 33), Err(MatrixError::PartialBlock { dtype: DType::Q4_0, cols: 33, block: 32 }));
    assert_eq!(new(DType::F32, usize::MAX, 1), Err(MatrixError::Memory(usize::MAX)));
    assert_eq!(new(DType::F32, 1, usize::MAX), Err(MatrixError::Memory(usize::MAX)));
    assert!(matches!(new(DType::F32, 1 << 40, 1 << 16), Err(MatrixError::Memory(_))));
    let mut builder = MatrixBuilder::new(DType::Q8_0, 2, 32).unwrap();
    assert_eq!(builder.push_rows(&[0; 33]), Err(MatrixError::Length { got: 33, want: 68 }));
    assert_eq!(builder.push_rows(&[0; 102]), Err(MatrixError::Length { got: 102, want: 68 }));
    builder.push_rows(&[0; 34]).unwrap();
    assert_eq!(builder.finish().map(|_| ()), Err(MatrixError::Length { got: 34, want: 68 }));
}
