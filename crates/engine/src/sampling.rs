//! Choosing the next token. Deterministic: randomness is counter-based on (seed, position).

/// How to choose.
#[derive(Clone, Debug, PartialEq)]
pub struct SamplingParams {
    /// 0 is greedy.
    pub temperature: f32,
    /// Smallest set of tokens whose probability reaches this.
    pub top_p: f32,
    /// Seed of the generator.
    pub seed: u64,
}

/// A token and the natural logarithm of its probability before temperature.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Choice {
    /// Token.
    pub token: u32,
    /// Its log probability.
    pub logprob: f32,
}

/// Chooses tokens for one sequence.
pub struct Sampler;

impl Sampler {
    /// A sampler with `params`.
    pub fn new(params: SamplingParams) -> Self {
        let _ = params;
        todo!()
    }
    /// Chooses from one row of logits the token at `position`. Ties go to the lowest id.
    pub fn choose(&self, logits: &[f32], position: u64) -> Choice {
        let _ = (logits, position);
        todo!()
    }
}

/// The `n` most likely tokens of one row of logits with their log probabilities, most likely first.
pub fn top(logits: &[f32], n: usize) -> Vec<Choice> {
    let _ = (logits, n);
    todo!()
}
