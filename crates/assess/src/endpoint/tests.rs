use super::*;
use coffer_model::Tokenizer;
use proptest::prelude::*;
use serde_json::{Value, json};
use std::path::Path;

const FINGERPRINT: &str = "fp_0123456789abcdef";

/// Any number in −1..1 for each place.
fn noise(seed: u64, question: usize, token: usize) -> f32 {
    let mut x = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ (question as u64) << 20 ^ token as u64;
    for _ in 0..3 {
        x = (x ^ x >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x ^= x >> 27;
    }
    (x >> 40) as f32 / (1 << 23) as f32 - 1.0
}

fn likelihoods(questions: usize, value: impl Fn(usize, usize) -> f32) -> Likelihoods {
    (0..questions).map(|q| (0..5).map(|t| value(q, t)).collect()).collect()
}

fn served(likely: &Likelihoods, fingerprint: Option<&str>) -> Vec<Served> {
    let of = |row: &Vec<f32>| Served {
        fingerprint: fingerprint.map(str::to_owned),
        likely: row.iter().enumerate().map(|(token, p)| (token as u32, *p)).collect(),
    };
    likely.iter().map(of).collect()
}

/// The certified model, an alternative 0.2 away from it, and an endpoint that serves `share` of the way to the alternative with
/// noise of its own.
fn finding(questions: usize, seed: u64, share: f32, spread: f32, elsewhere: f32) -> Finding {
    let certified = |q, t| -2.0 + noise(1, q, t);
    let change = |q, t| 0.2 * noise(2, q, t);
    let endpoint = |q, t| certified(q, t) + share * change(q, t) + spread * noise(seed, q, t) + elsewhere * noise(3, q, t);
    let its = likelihoods(questions, |q, t| certified(q, t) + change(q, t));
    let served = served(&likelihoods(questions, endpoint), None);
    judge(FINGERPRINT, &served, &likelihoods(questions, certified), vec![("Q4_0".to_owned(), its)], 0.999)
}

#[test]
fn each_verdict_is_reached() {
    assert_eq!(finding(32, 9, 0.0, 0.0, 0.0).verdict, Verdict::Equal);
    assert_eq!(finding(32, 9, 0.0, 0.02, 0.0).verdict, Verdict::Consistent);
    assert_eq!(finding(32, 9, 1.0, 0.02, 0.0).verdict, Verdict::Alternative("Q4_0".to_owned()));
    assert_eq!(finding(32, 9, 0.0, 0.02, 2.0).verdict, Verdict::Farther);
    // Nine questions are too few to be so sure of anything: 2⁻⁹ > 0.001.
    assert_eq!(finding(9, 9, 0.0, 0.02, 0.0).verdict, Verdict::Undecided);
    assert_eq!(finding(10, 9, 0.0, 0.02, 0.0).verdict, Verdict::Consistent);
    // Within the alternative at nearly all questions, by chance, and nearer to it at every one.
    let lucky = finding(32, 3_379_183_347_447_439_113, 1.0, 0.001, 0.0);
    assert_eq!((lucky.alternatives[0].p_within <= 0.001, lucky.verdict), (true, Verdict::Alternative("Q4_0".to_owned())));
}

#[test]
fn a_fingerprint_demands_every_bit() {
    let certified = likelihoods(4, |q, t| -1.0 - noise(1, q, t));
    let mut likely = certified.clone();
    let judged = |likely: &Likelihoods, name| judge(FINGERPRINT, &served(likely, Some(name)), &certified, vec![], 0.999);
    assert_eq!(judged(&likely, FINGERPRINT).verdict, Verdict::Equal);
    likely[2][3] = f32::from_bits(likely[2][3].to_bits() + 1);
    let found = judged(&likely, FINGERPRINT);
    assert_eq!((found.verdict, found.equal), (Verdict::Contradicted, 3));
    let difference = found.first_difference.unwrap();
    assert_eq!((difference.question, difference.token, difference.served), (2, 3, likely[2][3]));
    // Without an alternative nothing can be said of another engine.
    assert_eq!(judged(&likely, "fp_44709d6fcb").verdict, Verdict::Undecided);
}

proptest! {
    /// With noise a fifth of the alternative's distance, 32 questions always suffice, and neither side is ever taken for the other.
    #[test]
    fn verdicts_are_right_whatever_the_noise(seed in 10u64..u64::MAX, spread in 0.001f32..0.04) {
        prop_assert_eq!(finding(32, seed, 0.0, spread, 0.0).verdict, Verdict::Consistent);
        prop_assert_eq!(finding(32, seed, 1.0, spread, 0.0).verdict, Verdict::Alternative("Q4_0".to_owned()));
    }

    #[test]
    fn no_answer_panics(text in "\\PC*", number in any::<f64>()) {
        let vocabulary = vocabulary();
        for logprobs in [json!(text), json!({"content": [{"token": text, "id": number, "logprob": number, "top_logprobs": text}]}),
            json!({"tokens": [text], "token_logprobs": [number], "top_logprobs": [{text.clone(): number}]}), json!([[number]])] {
            let _ = Served::read(&json!({"choices": [{"logprobs": logprobs}], "system_fingerprint": number}), &vocabulary);
        }
    }
}

fn vocabulary() -> Vocabulary {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../assets/models/scribe-8m/tokenizer.json");
    let tokenizer = Tokenizer::from_json(&std::fs::read(path).unwrap(), None).unwrap();
    Vocabulary::new(&tokenizer, tokenizer.vocab_size())
}

#[test]
fn the_forms_of_each_server_are_read() {
    let vocabulary = vocabulary();
    let read = |logprobs: Value| Served::read(&json!({"choices": [{"logprobs": logprobs}]}), &vocabulary);
    let of = |text: &str| vocabulary.named(text).unwrap();
    // Chats, and llama-server's completions with ids.
    let top = json!([{"token": " the", "logprob": -0.5}, {"id": 9, "token": "?", "logprob": -1.5}, {"token": "\u{fffd}", "bytes": [195], "logprob": -2}, {"token": "\u{fffd}", "logprob": -3}]);
    let newer = json!({"content": [{"token": " the", "logprob": -0.5, "top_logprobs": top}, {"token": " a", "logprob": -7}]});
    let half = vocabulary.find(&json!({"bytes": [195]})).unwrap();
    assert_eq!(read(newer).unwrap().likely, [(of(" the"), -0.5), (9, -1.5), (half, -2.0)]);
    // Completions, and vLLM's when it writes ids.
    let older =
        json!({"tokens": [" a"], "token_logprobs": [-3.0], "top_logprobs": [{" the": -0.5, "token_id:9": -1.5, " a": -9999.0}]});
    assert_eq!(read(older).unwrap().likely, [(of(" the"), -0.5), (9, -1.5), (of(" a"), -3.0)]);
    // Pieces of characters look alike: none is taken for the token that is this very character.
    assert_eq!(vocabulary.named("\u{fffd}"), None);
    assert_eq!(read(Value::Null), Err(Unanswered::NoLogprobs));
    assert_eq!(read(json!({"content": []})), Err(Unanswered::NoLogprobs));
    let foreign = json!({"content": [{"token": "no such token", "logprob": -0.5}]});
    assert_eq!(read(foreign), Err(Unanswered::Unknown("\"no such token\"".to_owned())));
}
