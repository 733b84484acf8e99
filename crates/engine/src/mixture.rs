//! Mixtures of experts: tokens are grouped by the expert that the router chose for them, so that each expert's weights are read once.

use crate::{
    EngineError,
    error::grow,
    load::{Gated, Linear},
    observe::{FeedForward, Watch},
    runner::Runner,
};
use coffer_model::ModelConfig;

/// Buffers, kept between passes.
#[derive(Default)]
pub(crate) struct Mixture {
    /// Logits of the router, or the weight of the shared expert: `[tokens, experts]`.
    routes: Vec<f32>,
    /// Inputs and outputs of one expert, `[its tokens, hidden]`.
    input: Vec<f32>,
    output: Vec<f32>,
}

impl Mixture {
    /// Makes the buffers long enough for `tokens`.
    pub(crate) fn prepare(&mut self, config: &ModelConfig, tokens: usize) -> Result<(), EngineError> {
        let Some(experts) = &config.experts else { return Ok(()) };
        grow(&mut self.routes, tokens.saturating_mul(experts.count), "a forward pass")?;
        grow(&mut self.input, tokens.saturating_mul(config.hidden), "a forward pass")?;
        grow(&mut self.output, tokens.saturating_mul(config.hidden), "a forward pass")
    }
}

impl Runner {
    /// Adds to each row of `y` what its experts make of the same row of `h`, in the order of their numbers. `gate_up` is working space.
    #[expect(clippy::too_many_arguments, reason = "a layer, its input, its output and room to work in")]
    pub(crate) fn mixture(
        &self,
        room: &mut Mixture,
        router: &Linear,
        experts: &[Gated],
        h: &[f32],
        [gate, up]: [&mut [f32]; 2],
        y: &mut [f32],
        watch: &mut Watch<'_>,
    ) {
        let hidden = self.config.hidden;
        let tokens = h.len() / hidden;
        let Some(config) = &self.config.experts else { return };
        let logits = &mut room.routes[..tokens * experts.len()];
        self.products(&[router], h, tokens, &mut [&mut *logits]);
        let mut of_expert = vec![Vec::new(); experts.len()];
        self.cpu.route(logits, experts.len(), config.chosen, config.normalized, |token, expert, weight| {
            of_expert[expert].push((token, weight));
        });
        for (i, (expert, chosen_by)) in experts.iter().zip(&of_expert).enumerate().filter(|(_, (_, tokens))| !tokens.is_empty()) {
            for (&(token, _), row) in chosen_by.iter().zip(room.input.chunks_exact_mut(hidden)) {
                row.copy_from_slice(&h[token * hidden..][..hidden]);
            }
            let rows = chosen_by.len() * hidden;
            self.gated(expert, &room.input[..rows], [gate, up], &mut room.output[..rows], FeedForward::Expert(i), watch);
            for (&(token, weight), row) in chosen_by.iter().zip(room.output.chunks_exact(hidden)) {
                self.cpu.add_scaled(&mut y[token * hidden..][..hidden], row, weight);
            }
        }
    }

    /// Adds what the shared expert makes of each row of `h`, weighed by the sigmoid of one product.
    #[expect(clippy::too_many_arguments, reason = "a layer, its input, its output and room to work in")]
    pub(crate) fn shared(
        &self,
        room: &mut Mixture,
        expert: &Gated,
        weight: &Linear,
        h: &[f32],
        gate_up: [&mut [f32]; 2],
        y: &mut [f32],
        watch: &mut Watch<'_>,
    ) {
        let hidden = self.config.hidden;
        let tokens = h.len() / hidden;
        let weights = &mut room.routes[..tokens];
        self.products(&[weight], h, tokens, &mut [&mut *weights]);
        self.cpu.sigmoid(weights);
        let out = &mut room.output[..tokens * hidden];
        self.gated(expert, h, gate_up, out, FeedForward::Shared, watch);
        for ((y, row), &weight) in y.chunks_exact_mut(hidden).zip(out.chunks_exact(hidden)).zip(&*weights) {
            self.cpu.add_scaled(y, row, weight);
        }
    }
}
