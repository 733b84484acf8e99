//! The report of an invented assessment: golden JSON, and a page in which nothing is left unescaped.

use super::*;
use crate::{
    Policy,
    assessment::{Assessed, Method},
    exhibits::{Attempt, Exhibits, RefusedFile, Sealing, Serving},
    fidelity::{Divergence, Fidelity},
    figures::{Measured, Reading, Scan, Size},
    pairs::Pairs,
    portability::{Feeding, Portability, Run},
    resources::Resources,
};
use coffer_evidence::{LogitsDigest, WeightsDigest};

const POLICY: &str = "max_kl_mean = 0.05\nmax_flips = 3\nmin_same_top = 0.85\nrequire_same_bits = true\n";

fn reading(value: f64, error: f64) -> Reading {
    Reading { value, standard_error: Some(error) }
}

fn fidelity(kl: f64, reference: bool) -> Fidelity {
    let divergence = Divergence {
        perplexity_ratio: reading(1.0 + kl * 0.9, kl / 20.0),
        kl_mean: reading(kl, kl / 50.0),
        kl_p99: kl * 9.0,
        same_top: reading(1.0 - kl.sqrt() / 2.0, 0.004),
    };
    Fidelity { scored: 5519, perplexity: reading(31.6 * (1.0 + kl * 0.9), 0.9), divergence: (!reference).then_some(divergence) }
}

fn model(name: &str, made: &str, bytes: u64, kl: Option<f64>, lost: u64) -> Assessed {
    let run = |isa, threads, feeding| Run { isa, threads, feeding, digest: LogitsDigest::of(&[bytes as f32]) };
    Assessed {
        name: name.to_owned(),
        made: made.to_owned(),
        weights: WeightsDigest([bytes as u8; 32]),
        types: vec![("Q4_0".to_owned(), bytes - 1000), ("F32".to_owned(), 1000)],
        measured: Measured {
            size: Some(Size { bytes, parameters: 8_392_960, sealed: false }),
            fidelity: Some(fidelity(kl.unwrap_or(0.0), kl.is_none())),
            pairs: Some(Pairs { right: 92 - lost, total: 100, lost: kl.map(|_| lost), gained: kl.map(|_| 1) }),
            resources: Some(Resources {
                isa: "avx512".to_owned(),
                threads: 2,
                load_seconds: 0.021,
                prefill_tokens: 256,
                prefill_tokens_per_second: 4300.0,
                decode_tokens: 64,
                decode_tokens_per_second: 1e10 / bytes as f64,
                peak_memory: Some(bytes * 3),
            }),
            portability: Some(Portability {
                tokens: 64,
                contract: "1".to_owned(),
                runs: vec![run("scalar", 1, Feeding::Whole), run("avx2", 2, Feeding::Cut), run("avx512", 4, Feeding::Batched)],
            }),
            scan: Some(Scan { files: 5, unsafe_findings: 0, warnings: 0 }),
        },
        on_front: false,
        verdict: None,
    }
}

fn method() -> Method {
    Method {
        coffer: "0.1.0".to_owned(),
        contract: "1".to_owned(),
        kv_format: "f16".to_owned(),
        machine: "An invented processor".to_owned(),
        isa: "avx512".to_owned(),
        threads: 2,
        text: "holdout.txt".to_owned(),
        text_sha256: "00".repeat(32),
        tokens: 5530,
        scored: 5519,
        window: 512,
        skip: 0,
        pairs: Some("minimal-pairs.jsonl".to_owned()),
        pairs_sha256: Some("11".repeat(32)),
    }
}

fn exhibits() -> Exhibits {
    let attempt = |what: &str, outcome: &str| Attempt { what: what.to_owned(), refused: true, outcome: outcome.to_owned() };
    let mut flip = attempt("Open after flipping one bit of byte 4,711", "segment 0 of the stream is not authentic");
    flip.refused = true;
    Exhibits {
        refused_file: Some(RefusedFile {
            file: "model.pkl".to_owned(),
            would_have: "A loader that unpickles it would have run a command.".to_owned(),
            findings: vec![coffer_scan::Finding {
                severity: coffer_scan::Severity::Unsafe,
                rule: "pickle-dangerous-global".to_owned(),
                file: "model.pkl".to_owned(),
                offset: Some(2),
                message: "imports posix.system, which runs commands".to_owned(),
            }],
        }),
        sealing: Some(Sealing {
            variant: "Q4_K_M".to_owned(),
            recipient: "age1invented".to_owned(),
            plain_bytes: 5_240_000,
            sealed_bytes: 5_241_300,
            strings_searched: 131,
            strings_found: 0,
            attempts: vec![flip, attempt("Open with a stranger's key", "no identity matches a recipient of the bundle")],
        }),
        serving: Some(Serving {
            variant: "Q4_K_M".to_owned(),
            attempts: vec![attempt("Ask without an API key", "401: a key is needed")],
            prompt: "It was a dark night, and the old clerk".to_owned(),
            answer: " had not yet returned. \"He is late,\" said she.".to_owned(),
            wire_bytes: 1931,
            readable_bytes: 0,
            seen_request: (0..96u32).map(|i| (i * 167 + 41) as u8).collect(),
            seen_answer: (0..96u32).map(|i| (i * 59 + 7) as u8).collect(),
        }),
    }
}

fn sample() -> Assessment {
    let mut models = vec![
        model("scribe-8m", "the original, bf16", 16_785_920, None, 0),
        model("Q8_0", "quantized", 8_920_000, Some(0.0004), 0),
        model("Q4_0", "quantized", 4_760_000, Some(0.071), 5),
        model("Q4_K_M", "quantized", 5_240_000, Some(0.031), 2),
        model("pruned-50", "half of each linear layer's weights set to zero by magnitude", 16_785_920, Some(0.9), 11),
        model("merged", "mean of the detective and verse adapters", 16_785_920, Some(0.026), 1),
    ];
    let policy = Policy::parse(POLICY, "policy.toml").unwrap();
    for (model, on_front) in models.iter_mut().zip([true, true, true, true, false, false]) {
        model.on_front = on_front;
    }
    models.iter_mut().skip(1).for_each(|m| m.verdict = Some(policy.judge(&m.measured)));
    Assessment { method: method(), models, policy: Some(policy), exhibits: exhibits() }
}

#[test]
fn the_json_report_keeps_its_layout() {
    let mut small = sample();
    small.models.truncate(3);
    insta::assert_snapshot!(json(&small));
}

#[test]
fn figures_that_are_not_finite_become_null() {
    let mut a = sample();
    a.models[1].measured.fidelity = Some(fidelity(f64::NAN, false));
    let v: serde_json::Value = serde_json::from_str(&json(&a)).unwrap();
    assert!(v["models"][1]["figures"]["kl_mean"]["value"].is_null());
    html(&a).unwrap();
}

#[test]
fn everything_in_the_page_is_escaped() {
    const EVIL: &str = "<script>alert(1)</script>\"'&";
    let mut a = sample();
    for m in &mut a.models {
        m.name = format!("{EVIL}{}", m.name);
        m.made = EVIL.to_owned();
        m.types[0].0 = EVIL.to_owned();
    }
    a.method.text = EVIL.to_owned();
    a.method.machine = EVIL.to_owned();
    let e = &mut a.exhibits;
    (e.refused_file.as_mut().unwrap().file, e.sealing.as_mut().unwrap().attempts[0].outcome) = (EVIL.into(), EVIL.into());
    (e.serving.as_mut().unwrap().prompt, e.serving.as_mut().unwrap().answer) = (EVIL.into(), EVIL.into());
    let page = html(&a).unwrap();
    assert!(!page.contains("<script"));
    assert!(page.contains("&#60;script&#62;alert(1)"));
}

#[test]
fn the_page_needs_nothing_else() {
    let page = html(&sample()).unwrap();
    for outside in ["http:", "https:", "src=", "@import", "url(", "<link", "<script"] {
        assert!(!page.contains(outside), "{outside}");
    }
    // For a look at it: COFFER_REPORT_OUT=/tmp/report.html cargo test -p coffer-assess needs_nothing
    if let Some(out) = std::env::var_os("COFFER_REPORT_OUT") {
        std::fs::write(out, page).unwrap();
    }
}

#[test]
fn the_page_names_every_reason_and_every_figure() {
    let page = html(&sample()).unwrap();
    assert!(page.contains("3 of 5 variants of scribe-8m are accepted"));
    assert!(page.contains("The smallest accepted is Q4_K_M: 5.24 MB"));
    assert!(page.contains("KL divergence, mean is 0.0710 nats; the policy wants at most 0.05 nats."));
    for f in crate::figures::FIGURES {
        assert!(page.contains(&format!("id=\"def-{}\"", f.id)), "{}", f.id);
    }
}

#[test]
fn an_assessment_of_one_model_has_a_page() {
    let mut a = sample();
    a.models.truncate(1);
    (a.policy, a.exhibits) = (None, Exhibits::default());
    let page = html(&a).unwrap();
    assert!(page.contains("0 variants of scribe-8m, measured") && !page.contains("<h2 id=\"trade\""));
}
