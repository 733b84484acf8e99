//! Everything but products: every instruction set, thread count, cut and batch gives the bits of the plain version.

use crate::plain::operations::{attend, geglu, kept, log_softmax, rms_norm, route, sigmoid, softcap, swiglu};
use crate::plain::{Random, assert_same_bits, canon};
use coffer_kernels::cpu::{AttentionShape, AttentionTask, RopeTable};
use coffer_kernels::{Cpu, Isa, KvFormat, KvPage, KvShape, kv::PAGE};
use proptest::prelude::*;
use std::sync::Arc;

/// Every instruction set with an alternating number of threads.
fn cpus() -> Vec<Cpu> {
    Isa::available().into_iter().flat_map(|isa| [1, 3].map(|threads| Cpu::new(isa, threads))).collect()
}

/// Values wild or ordinary.
fn values(random: &mut Random, wild: bool, n: usize) -> Vec<f32> {
    if wild { random.wild(n) } else { random.normals(n) }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, failure_persistence: None, ..Default::default() })]

    #[test]
    fn rows_equal_the_plain_version(rows in 1usize..5, width in 1usize..200, wild: bool, seed: u64) {
        let mut random = Random(seed);
        let [x, y] = [0; 2].map(|_| values(&mut random, wild, rows * width));
        let weight = values(&mut random, wild, width);
        let norm: Vec<f32> = x.chunks(width).flat_map(|x| rms_norm(x, &weight, 1e-5)).collect();
        let logs: Vec<f32> = x.chunks(width).flat_map(log_softmax).collect();
        let gated: Vec<f32> = x.iter().zip(&y).map(|(&x, &y)| swiglu(x, y)).collect();
        let gelued: Vec<f32> = x.iter().zip(&y).map(|(&x, &y)| geglu(x, y)).collect();
        let bounded: Vec<f32> = x.iter().map(|&x| softcap(x, 1.5)).collect();
        let larger: Vec<f32> = x.iter().map(|&x| canon(x * 7.3)).collect();
        let sigmoids: Vec<f32> = x.iter().map(|&x| sigmoid(x)).collect();
        let scaled: Vec<f32> = x.iter().zip(&y).map(|(x, y)| canon(x + weight[0] * y)).collect();
        let sums: Vec<f32> = x.iter().zip(&y).map(|(x, y)| canon(x + y)).collect();
        let biased: Vec<f32> = x.iter().zip(weight.iter().cycle()).map(|(x, y)| canon(x + y)).collect();
        for cpu in cpus() {
            let name = cpu.isa().name();
            let mut out = vec![0.0; x.len()];
            cpu.rms_norm(&x, &weight, 1e-5, &mut out);
            assert_same_bits(&out, &norm, &format!("norm, {name}"));
            let run = |f: &dyn Fn(&mut [f32]), want: &[f32], what: &str| {
                let mut out = x.clone();
                f(&mut out);
                assert_same_bits(&out, want, &format!("{what}, {name}"));
            };
            run(&|x| cpu.rms_norm_in_place(x, &weight, 1e-5), &norm, "norm in place");
            run(&|x| cpu.log_softmax(x, width), &logs, "log softmax");
            run(&|x| cpu.swiglu(x, &y), &gated, "swiglu");
            run(&|x| cpu.geglu(x, &y), &gelued, "geglu");
            run(&|x| cpu.softcap(x, 1.5), &bounded, "softcap");
            run(&|x| cpu.scale(x, 7.3), &larger, "scale");
            run(&|x| cpu.add(x, &y), &sums, "residual");
            run(&|x| cpu.add_scaled(x, &y, weight[0]), &scaled, "scaled");
            run(&|x| cpu.sigmoid(x), &sigmoids, "sigmoid");
            run(&|x| cpu.add(x, &weight), &biased, "bias");
        }
    }

    #[test]
    fn routes_equal_the_plain_version(
        tokens in 1usize..5, experts in 1usize..70, chosen in 1usize..9, normalized: bool, wild: bool, seed: u64,
    ) {
        let mut random = Random(seed);
        let chosen = chosen.min(experts);
        // Few values, so that many are equal.
        let mut logits = values(&mut random, wild, tokens * experts);
        logits.iter_mut().filter(|x| x.abs() < 1e6).for_each(|x| *x = (*x * 2.0).round() / 2.0);
        let want: Vec<_> = logits.chunks(experts).map(|row| route(row, chosen, normalized)).collect();
        for cpu in cpus() {
            let mut got = vec![Vec::new(); tokens];
            cpu.route(&mut logits.clone(), experts, chosen, normalized, |token, expert, weight| got[token].push((expert, weight)));
            for (got, want) in got.iter().zip(&want) {
                let bits = |routes: &[(usize, f32)]| routes.iter().map(|(i, w)| (*i, w.to_bits())).collect::<Vec<_>>();
                prop_assert_eq!(bits(got), bits(want), "{}", cpu.isa().name());
            }
        }
    }

    #[test]
    fn attention_equals_the_plain_version_however_it_is_cut(
        (kv_heads, group, half_dim) in (1usize..4, 1usize..10, 1usize..70),
        length in prop_oneof![3 => 1usize..60, 1 => 240usize..600],
        cut in 0usize..600,
        window in prop::option::of(prop_oneof![1usize..50, 200usize..300]),
        bound in prop::option::of(0.5f32..60.0),
        wild in prop::bool::weighted(0.2),
        format in prop::sample::select(KvFormat::ALL.to_vec()),
        seed: u64,
    ) {
        // A long sequence asks few questions.
        let (kv_heads, group) = if length < 60 { (kv_heads, group) } else { (1, group.min(3)) };
        let asked = length.min(60);
        let mut random = Random(seed);
        let (heads, head_dim, past, cut) = (kv_heads * group, 2 * half_dim, length - asked, cut % asked);
        let scale = 1.0 / (head_dim as f32 + 3.0).sqrt();
        let kv = KvShape { kv_heads, head_dim, format };
        let shape = AttentionShape { heads, kv, window, scale, bound };
        let q = values(&mut random, wild, asked * heads * head_dim);
        let [k, v] = [0; 2].map(|_| values(&mut random, wild, length * kv_heads * head_dim));
        let head = |x: &[f32], head: usize| -> Vec<f32> {
            x.chunks_exact(head_dim).skip(head).step_by(kv_heads).flat_map(|x| kept(x, format)).collect()
        };
        let cache: Vec<_> = (0..kv_heads).map(|h| (head(&k, h), head(&v, h))).collect();
        let want: Vec<f32> = (0..asked * heads)
            .flat_map(|i| {
                let (end, head) = (past + i / heads + 1, i % heads);
                let (k, v) = &cache[head / group];
                attend(&q[i * head_dim..][..head_dim], k, v, window.map_or(0, |w| end.saturating_sub(w))..end, scale, bound)
            })
            .collect();
        let pages = pages(kv, &k, &v);
        for cpu in cpus() {
            let mut out = vec![0.0; q.len()];
            let at = cut * heads * head_dim;
            let (first, second) = out.split_at_mut(at);
            let task = |past, q, out, tokens| AttentionTask { q, pages: &pages, past, tokens, out };
            // As one batch of two sequences that share a cache: the same as one after the other.
            cpu.attention(shape, &mut [task(past, &q[..at], first, cut), task(past + cut, &q[at..], second, asked - cut)]);
            assert_same_bits(&out, &want, &format!("{shape:?}, {length} tokens cut at {cut}, {}", cpu.isa().name()));
        }
    }
}

/// Pages that hold keys and values `[positions, kv_heads, head_dim]`.
fn pages(shape: KvShape, k: &[f32], v: &[f32]) -> Vec<Arc<KvPage>> {
    let width = shape.kv_heads * shape.head_dim;
    let page = |(k, v): (&[f32], &[f32])| {
        let mut page = KvPage::new(shape).expect("memory for a small page");
        k.chunks(width).zip(v.chunks(width)).enumerate().for_each(|(slot, (k, v))| page.write(slot, k, v));
        Arc::new(page)
    };
    k.chunks(PAGE * width).zip(v.chunks(PAGE * width)).map(page).collect()
}

/// A longer context than the other test's, against exact arithmetic.
#[test]
fn attention_is_near_the_exact_one() {
    let mut random = Random(3);
    let (length, head_dim) = (1000, 64);
    let [q, k, v] = [0; 3].map(|_| random.normals(length * head_dim));
    let q = &q[..head_dim];
    let dot = |j: usize| (0..head_dim).map(|c| f64::from(q[c]) * f64::from(k[j * head_dim + c])).sum::<f64>() / 8.0;
    let weights: Vec<f64> = (0..length).map(|j| dot(j).exp()).collect();
    for (format, bound) in [(KvFormat::F32, 2e-6), (KvFormat::F16, 2e-4), (KvFormat::Q8_0, 4e-3)] {
        let kv = KvShape { kv_heads: 1, head_dim, format };
        let shape = AttentionShape { heads: 1, kv, window: None, scale: 0.125, bound: None };
        let mut out = vec![0.0; head_dim];
        let task = AttentionTask { q, pages: &pages(kv, &k, &v), past: length - 1, tokens: 1, out: &mut out };
        Cpu::new(Isa::available()[0], 1).attention(shape, &mut [task]);
        for (c, got) in out.iter().enumerate() {
            let exact =
                (0..length).map(|j| weights[j] * f64::from(v[j * head_dim + c])).sum::<f64>() / weights.iter().sum::<f64>();
            assert!((f64::from(*got) - exact).abs() < bound, "{format}: {got} where {exact} is exact");
        }
    }
}

#[test]
fn rope_turns_pairs_by_their_angle() {
    let frequencies: Vec<f64> = (0..24).map(|i| 10_000f64.powf(-f64::from(i) / 24.0)).collect();
    let table = RopeTable::new(&frequencies, 3000);
    let (heads, positions) = (5, [0u32, 1, 2999, 77]);
    let x = Random(4).normals(positions.len() * heads * 48);
    let mut first: Option<Vec<f32>> = None;
    for cpu in cpus() {
        let mut out = x.clone();
        cpu.rope(&mut out, heads, &table, &positions);
        for (i, (before, after)) in x.chunks_exact(48).zip(out.chunks_exact(48)).enumerate() {
            for pair in 0..24 {
                let (sin, cos) = (f64::from(positions[i / heads]) * frequencies[pair]).sin_cos();
                let (a, b) = (f64::from(before[pair]), f64::from(before[pair + 24]));
                let error = (f64::from(after[pair]) - (a * cos - b * sin)).abs()
                    + (f64::from(after[pair + 24]) - (b * cos + a * sin)).abs();
                assert!(error < 2e-6, "position {}, pair {pair}: off by {error}", positions[i / heads]);
            }
        }
        assert_same_bits(&out, first.get_or_insert_with(|| out.clone()), cpu.isa().name());
    }
}

#[test]
fn large_inputs_are_shared_by_threads_without_a_trace() {
    let mut random = Random(5);
    let (rows, width) = (70, 1000);
    let x = random.normals(rows * width);
    let weight = random.normals(width);
    let norm: Vec<f32> = x.chunks(width).flat_map(|x| rms_norm(x, &weight, 1e-6)).collect();
    for threads in [1, 2, 3, 4, 7] {
        let cpu = Cpu::new(*Isa::available().last().unwrap(), threads);
        let mut out = vec![0.0; x.len()];
        cpu.rms_norm(&x, &weight, 1e-6, &mut out);
        assert_same_bits(&out, &norm, &format!("{threads} threads"));
        let mut out = x.clone();
        cpu.swiglu(&mut out, &x);
        assert_same_bits(&out, &x.iter().map(|&x| swiglu(x, x)).collect::<Vec<_>>(), &format!("{threads} threads"));
    }
}

#[test]
fn nothing_to_do_is_done() {
    let kv = KvShape { kv_heads: 1, head_dim: 4, format: KvFormat::F16 };
    for cpu in cpus() {
        cpu.rms_norm(&[], &[1.0; 8], 1e-5, &mut []);
        cpu.rms_norm_in_place(&mut [], &[1.0; 8], 1e-5);
        cpu.log_softmax(&mut [], 5);
        cpu.swiglu(&mut [], &[]);
        cpu.add(&mut [], &[]);
        cpu.add_scaled(&mut [], &[], 1.0);
        cpu.sigmoid(&mut []);
        cpu.route(&mut [], 5, 2, true, |_, _, _| panic!("nobody is there"));
        cpu.rope(&mut [], 2, &RopeTable::new(&[1.0], 0), &[]);
        cpu.attention(AttentionShape { heads: 2, kv, window: None, scale: 0.5, bound: None }, &mut []);
        cpu.geglu(&mut [], &[]);
        cpu.softcap(&mut [], 3.0);
        cpu.scale(&mut [], 3.0);
    }
}
