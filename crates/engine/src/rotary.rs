//! Frequencies of rotary position embedding, under the numeric contract.

use coffer_kernels::math::{exp, ln};
use coffer_model::{RopeConfig, config::RopeScaling};
use std::f64::consts::TAU;

/// Radians a position for each pair of a head `head_dim` wide: `theta^(−2i/head_dim)`, then scaled.
pub(crate) fn frequencies(rope: &RopeConfig, head_dim: usize) -> Vec<f64> {
    let base = ln(rope.theta);
    (0..head_dim / 2).map(|i| scale(exp(-base * (2 * i) as f64 / head_dim as f64), &rope.scaling)).collect()
}

fn scale(frequency: f64, scaling: &RopeScaling) -> f64 {
    match *scaling {
        RopeScaling::Linear { factor } => frequency / factor,
        RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_context } => {
            // Turns that this pair makes over the context of the first training.
            let turns = original_context as f64 * frequency / TAU;
            let kept = (turns - low_freq_factor) / (high_freq_factor - low_freq_factor);
            if turns >= high_freq_factor {
                frequency
            } else if turns < low_freq_factor {
                frequency / factor
            } else {
                (1.0 - kept) * frequency / factor + kept * frequency
            }
        }
        _ => frequency,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `transformers.modeling_rope_utils` for `head_dim` 16, `rope_theta` 500000, factor 8, low 1, high 4, original context 64.
    #[test]
    fn llama3_scaling_agrees_with_transformers() {
        let scaling = RopeScaling::Llama3 { factor: 8.0, low_freq_factor: 1.0, high_freq_factor: 4.0, original_context: 64 };
        let got = frequencies(&RopeConfig { theta: 500_000.0, scaling }, 16);
        let want =
            [1.0, 0.079_403_013, 0.004_700_753_8, 9.115_831e-4, 1.767_766_8e-4, 3.428_102_4e-5, 6.647_87e-6, 1.289_173_2e-6];
        assert!(got.iter().zip(want).all(|(g, w)| (g - w).abs() < 1e-6 * w), "{got:?}");
    }

    #[test]
    fn frequencies_are_a_geometric_sequence() {
        let linear = |scaling| frequencies(&RopeConfig { theta: 10_000.0, scaling }, 64);
        let plain = linear(RopeScaling::None);
        assert_eq!((plain.len(), plain[0]), (32, 1.0));
        for (i, f) in plain.iter().enumerate() {
            assert!((f * 10_000f64.powf(i as f64 / 32.0) - 1.0).abs() < 1e-14);
        }
        assert!(linear(RopeScaling::Linear { factor: 4.0 }).iter().zip(&plain).all(|(a, b)| *a == b / 4.0));
    }
}
