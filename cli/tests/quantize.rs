//! `quantize` and `imatrix` as a user sees them.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on must panic")]

#[expect(dead_code, reason = "each test file uses a part of it")]
mod coffer;

use coffer::{Folder, asset, json, ok, run};
use serde_json::Value;
use std::{fs, path::Path};

fn kl(made: &Value) -> f64 {
    made["lost"]["kl_mean"].as_f64().unwrap()
}

#[test]
fn a_text_makes_the_result_better_and_the_same_on_any_threads() {
    let folder = Folder::new();
    let (scribe, text, imatrix) = (asset("models/scribe-8m"), asset("text/calibration.txt"), folder.path("imatrix.gguf"));
    ok(&["imatrix", &scribe, "--text", &text, "-o", &imatrix]);
    let made = |name: &str, more: &[&str]| {
        let out = folder.path(name);
        let held_out = asset("text/holdout.txt");
        let common = ["quantize", &scribe, "--type", "Q3_K_M", "--json", "--eval-text", &held_out, "-o", &out];
        json(&ok(&[&common[..], more].concat()))
    };
    let nearest = made("nearest.gguf", &[]);
    let weighted = made("weighted.gguf", &["--imatrix", &imatrix]);
    let gptq = made("gptq.gguf", &["--text", &text, "--threads", "1"]);
    let methods = [&nearest, &weighted, &gptq].map(|made| made["method"].as_str().unwrap().to_owned());
    assert_eq!(methods, ["nearest@1", "weighted@1", "gptq@1"]);
    assert!(kl(&gptq) < 0.75 * kl(&nearest), "{} against {}", kl(&gptq), kl(&nearest));
    assert_eq!(nearest["bytes_out"], gptq["bytes_out"]);

    made("threads.gguf", &["--text", &text, "--threads", "3"]);
    let [one, three] = ["gptq.gguf", "threads.gguf"].map(|name| fs::read(folder.path(name)).unwrap());
    assert!(one == three);
    let again = folder.path("again.gguf");
    ok(&["imatrix", &scribe, "--text", &text, "--threads", "1", "-o", &again]);
    assert!(fs::read(&again).unwrap() == fs::read(&imatrix).unwrap());
}

#[test]
fn what_loses_too_much_is_kept_under_a_name_that_says_so() {
    let folder = Folder::new();
    let (scribe, out) = (asset("models/scribe-8m"), folder.path("small.gguf"));
    let refused = run(&["quantize", &scribe, "--type", "Q2_K", "--max-kl", "0.01", "--json", "-o", &out]);
    assert_eq!(refused.code, 3, "{}", refused.stderr);
    assert!(refused.stderr.contains("max_kl_mean") && refused.stderr.contains("small.refused.gguf"), "{}", refused.stderr);
    assert!(!Path::new(&out).exists() && Path::new(&folder.path("small.refused.gguf")).exists());
    assert_eq!(json(&refused.stdout)["lost"]["refused"].as_array().unwrap().len(), 1);

    let policy = folder.write("policy.toml", "max_kl_mean = 0.5\nmin_same_top = 0.5\n");
    let made = json(&ok(&["quantize", &scribe, "--type", "Q2_K", "--policy", &policy, "--json", "-o", &out]));
    assert!(Path::new(&out).exists() && made["lost"]["refused"].as_array().unwrap().is_empty());
    ok(&["keygen", "-o", &folder.path("key")]);
    let (sealed, key) = (folder.write("sealed.toml", "require_sealed = true\n"), fs::read_to_string(folder.path("key")).unwrap());
    let recipient = key.split_whitespace().find(|word| word.starts_with("age1")).unwrap();
    let bundle = folder.path("sealed.coffer");
    ok(&["quantize", &scribe, "--type", "Q4_0", "--policy", &sealed, "--seal-to", recipient, "-o", &bundle]);
    let plain = run(&["quantize", &scribe, "--type", "Q4_0", "--policy", &sealed, "-o", &folder.path("plain.gguf")]);
    assert_eq!(plain.code, 3, "{}", plain.stderr);
    let twice = run(&["quantize", &scribe, "--type", "Q2_K", "--policy", &policy, "--max-kl", "1", "-o", &folder.path("x.gguf")]);
    assert_eq!(twice.code, 2, "{}", twice.stderr);
}

#[test]
fn texts_and_matrices_that_do_not_fit_are_refused() {
    let folder = Folder::new();
    let (scribe, out) = (asset("models/scribe-8m"), folder.path("out.gguf"));
    let short = folder.write("short.txt", "Too little to learn from.");
    let empty = folder.write("empty.toml", "");
    for (flags, says) in [
        (vec!["--text", short.as_str()], "too few"),
        (vec!["--imatrix", short.as_str()], "short.txt"),
        (vec!["--eval-text", "/nonexistent"], "/nonexistent"),
        (vec!["--max-kl=-1"], "max_kl_mean"),
        (vec!["--policy", empty.as_str()], "sets no limit"),
    ] {
        let refused = run(&[&["quantize", &scribe, "--type", "Q4_0", "-o", &out][..], &flags].concat());
        assert!(refused.code != 0 && refused.stderr.contains(says), "{flags:?}: {}", refused.stderr);
        assert!(!Path::new(&out).exists());
    }
    let imatrix = run(&["imatrix", &scribe, "--text", &short, "-o", &out]);
    assert!(imatrix.stderr.contains("too few") && !Path::new(&out).exists(), "{}", imatrix.stderr);
}

#[test]
fn a_receipt_leads_to_its_model_and_to_no_other() {
    let folder = Folder::new();
    let (scribe, text, out, receipt) =
        (asset("models/scribe-8m"), asset("text/calibration.txt"), folder.path("out.gguf"), folder.path("receipt.json"));
    let quantize = |out: &str, receipt: &str, more: &[&str]| {
        ok(&[&["quantize", &scribe, "--type", "Q3_K_M", "--no-eval", "-o", out, "--receipt", receipt][..], more].concat())
    };
    quantize(&out, &receipt, &["--text", &text]);
    let again = |receipt: &str, source: &str, result: &str, more: &[&str]| {
        run(&[&["verify", receipt, "--re-execute", "--source", source, "--result", result, "--threads", "1"][..], more].concat())
    };
    let equal = again(&receipt, &scribe, &out, &["--text", &text, "--json"]);
    assert_eq!(equal.code, 0, "{}", equal.stderr);
    assert_eq!(json(&equal.stdout)["tensors"], 75);
    let sample = again(&receipt, &scribe, &out, &["--text", &text, "--sample", "5", "--json"]);
    assert_eq!(json(&sample.stdout)["tensors"], 5);

    let said = fs::read_to_string(&receipt).unwrap();
    let changed = |name: &str, from: &str, to: &str| {
        assert!(said.contains(from), "{from}");
        folder.write(name, said.replace(from, to))
    };
    let (other, other_receipt) = (folder.path("other.gguf"), folder.path("other.json"));
    quantize(&other, &other_receipt, &[]);
    let other_text = folder.write("calibration.txt", fs::read_to_string(&text).unwrap() + "One line more.");
    let result = |receipt: &str| json(&fs::read_to_string(receipt).unwrap())["result"].as_str().unwrap().to_owned();
    // What the result is, was changed in the receipt too.
    let exchanged = changed("exchanged.json", &result(&receipt), &result(&other_receipt));
    for (receipt, source, result, text, says) in [
        (&receipt, &scribe, &other, &text, "the result has weights"),
        (&receipt, &out, &out, &text, "the source has weights"),
        (&receipt, &scribe, &out, &other_text, "not the text"),
        (&exchanged, &scribe, &other, &text, "does not lead here"),
        (&changed("type.json", "Q3_K_M", "Q3_K_S"), &scribe, &out, &text, "not in the result, or of another type"),
        (&changed("method.json", "gptq@1", "gptq@2"), &scribe, &out, &text, "no method gptq@2"),
        (&changed("known.json", "gptq@1", "weighted@1"), &scribe, &out, &text, "leads to gptq@1"),
        (&changed("window.json", "\"window\": 512", "\"window\": 256"), &scribe, &out, &text, "does not lead here"),
        (&changed("contract.json", "\"contract\": \"1\"", "\"contract\": \"0\""), &scribe, &out, &text, "contract 0"),
    ] {
        let refused = again(receipt, source, result, &["--text", text]);
        assert!(refused.code == 3 && refused.stderr.contains(says), "{says}: {} {}", refused.code, refused.stderr);
    }
    let (twice, second) = (folder.path("twice.gguf"), folder.path("second.json"));
    ok(&["quantize", &out, "--type", "Q4_0", "--requantize", "--no-eval", "-o", &twice, "--receipt", &second]);
    assert_eq!(again(&second, &out, &twice, &[]).code, 0);
    let unasked = fs::read_to_string(&second).unwrap().replace("\"requantize\": true", "\"requantize\": false");
    let unasked = again(&folder.write("unasked.json", unasked), &out, &twice, &[]);
    assert!(unasked.code == 3 && unasked.stderr.contains("quantized already"), "{}", unasked.stderr);
    let unnamed = again(&receipt, &scribe, &out, &[]);
    assert!(unnamed.code == 2 && unnamed.stderr.contains("--text"), "{}", unnamed.stderr);
    let foreign = again(&folder.write("no.json", "{}"), &scribe, &out, &["--text", &text]);
    assert!(foreign.code == 1 && foreign.stderr.contains("no receipt"), "{}", foreign.stderr);
}
