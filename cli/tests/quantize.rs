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
    let receipts = ["of-sealed.json", "of-plain.json"].map(|name| folder.path(name));
    let q4 = |receipt: &str, out: &str, more: &[&str]| {
        run(&[&["quantize", &scribe, "--type", "Q4_0", "--policy", &sealed, "--receipt", receipt, "-o", out], more].concat())
    };
    assert_eq!(q4(&receipts[0], &bundle, &["--seal-to", recipient]).code, 0);
    let plain = q4(&receipts[1], &folder.path("plain.gguf"), &[]);
    assert_eq!(plain.code, 3, "{}", plain.stderr);
    // A sealed result is read back without a key of its recipients: the same weights, the same loss but for the refusal.
    let [of_sealed, of_plain] = receipts.map(|path| json(&fs::read_to_string(path).unwrap()));
    assert_eq!(of_sealed["result"], of_plain["result"]);
    assert_eq!(of_sealed["lost"]["kl_mean"], of_plain["lost"]["kl_mean"]);
    // The next one that is refused does not take the place of this one, and is not lost.
    let second = q4(&folder.path("again.json"), &folder.path("plain.gguf"), &[]);
    assert!(second.code == 1 && second.stderr.contains("plain.gguf.partial"), "{} {}", second.code, second.stderr);
    assert!(Path::new(&folder.path("plain.gguf.partial")).exists());
    fs::remove_file(folder.path("plain.refused.gguf")).unwrap();
    let found = q4(&folder.path("again.json"), &folder.path("plain.gguf"), &["--json"]);
    assert_eq!((found.code, json(&found.stdout)["kept"].as_u64()), (3, Some(75)));
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
    let seen = json(&ok(&["inspect", &out, "--receipt", &receipt, "--tensors", "--json"]));
    assert_eq!((&seen["mixture"]["name"], &seen["receipt"]["method"]), (&"Q3_K_M".into(), &"gptq@1".into()));
    assert!(seen["tensors"].as_array().unwrap().iter().all(|t| !t["why"].as_str().unwrap().is_empty()));
    let told = ok(&["inspect", &out, "--receipt", &receipt]);
    assert!(told.contains("learned from") && told.contains("not measured"), "{told}");
    let foreign = run(&["inspect", &scribe, "--receipt", &receipt]);
    assert!(foreign.code == 3 && foreign.stderr.contains("another model"), "{}", foreign.stderr);
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

#[test]
fn models_for_vllm_are_directories_that_are_read_again() {
    let folder = Folder::new();
    let (scribe, text, out) = (asset("models/scribe-8m"), asset("text/calibration.txt"), folder.path("w4"));
    let receipt = folder.path("receipt.json");
    let flags = ["--text", &text, "--method", "awq", "--pin", r"layers\.0\.=W4_G32", "--receipt", &receipt];
    let made = json(&ok(&[&["quantize", &scribe, "--type", "W4A16", "--json", "-o", &out][..], &flags].concat()));
    assert_eq!((made["method"].as_str(), &made["types"]["W4_G32"]), (Some("awq@1"), &Value::from(7)));
    let figures = json(&ok(&["eval", &out, "--against", &scribe, "--text", &asset("text/holdout.txt"), "--json"]));
    assert!(figures["kl_mean"].as_f64().unwrap() < 0.1, "{figures}");
    let again = ["verify", &receipt, "--re-execute", "--source", &scribe, "--result", &out, "--text", &text, "--json"];
    assert_eq!(json(&ok(&again))["tensors"], 75);
    // Pinned in part: groups of two sizes, each with its modules by name.
    let config = json(&fs::read_to_string(Path::new(&out).join("config.json")).unwrap());
    let groups = config["quantization_config"]["config_groups"].as_object().unwrap();
    assert_eq!(groups["group_0"]["targets"].as_array().unwrap().len(), 7);
    // Into the other container and back it is plain again.
    let (gguf, plain) = (folder.path("w4.gguf"), folder.path("plain"));
    ok(&["convert", &out, "-o", &gguf]);
    ok(&["convert", &gguf, "-o", &plain]);
    let config = json(&fs::read_to_string(Path::new(&plain).join("config.json")).unwrap());
    assert!(config.get("quantization_config").is_none(), "{config}");
    assert_eq!(json(&ok(&["diff", &out, &plain, "--json"]))["equal"], true);
}

#[test]
fn types_are_chosen_for_a_size_and_what_cannot_be_met_is_said() {
    let folder = Folder::new();
    let (scribe, out, fixed) = (asset("models/scribe-8m"), folder.path("out.gguf"), folder.path("fixed.gguf"));
    let same = json(&ok(&["quantize", &scribe, "--type", "Q4_K_S", "--json", "-o", &fixed]));
    let target = fs::metadata(&fixed).unwrap().len();
    let made = json(&ok(&["quantize", &scribe, "--target-size", &target.to_string(), "--json", "-o", &out]));
    let size = fs::metadata(&out).unwrap().len();
    assert!(size <= target && size > target / 100 * 99, "{size} of {target}");
    assert!(kl(&made) < 0.9 * kl(&same), "{} chosen, {} fixed", kl(&made), kl(&same));
    for (flags, expected) in [
        (&["--target-size", "1MB"][..], "the smallest mixture"),
        (&["--target-size", "much"], "700MB"),
        (&["--target-bpw", "5", "--type", "Q4_0"], "cannot be used with"),
        (&["--type", "Q4_0", "--pin", "nothing=Q8_0"], "no matrix has such a name"),
        (&["--type", "Q4_0", "--method", "awq"], "--text"),
        (&["--target-bpw", "5", "--method", "awq", "--text", &asset("text/calibration.txt")], "name them with --type"),
        (&[], "--type"),
    ] {
        let refused = run(&[&["quantize", &scribe, "-o", &folder.path("no.gguf")], flags].concat());
        assert!(refused.code > 0 && refused.stderr.contains(expected), "{flags:?}: {}", refused.stderr);
        assert!(!Path::new(&folder.path("no.gguf")).exists());
    }
}

#[test]
fn differences_are_told_by_tensor_and_by_answers() {
    let folder = Folder::new();
    let (scribe, out) = (asset("models/scribe-8m"), folder.path("out.gguf"));
    ok(&["quantize", &scribe, "--type", "Q8_0", "--no-eval", "-o", &out]);
    let found = json(&ok(&["diff", &scribe, &out, "--text", &asset("text/holdout.txt"), "--json"]));
    let tensors = found["tensors"].as_array().unwrap();
    let changed = tensors.iter().filter(|t| t["changed"].as_f64().unwrap() > 0.0);
    assert_eq!((found["equal"].as_bool(), tensors.len(), changed.count()), (Some(false), 75, 58));
    let kl = found["answers"]["kl_mean"].as_f64().unwrap();
    assert!(kl > 0.0 && kl < 0.001, "{kl}");
    let table = ok(&["diff", &scribe, &out]);
    assert!(table.contains("lm_head.weight") && table.contains("17 of 75 tensors"), "{table}");
    assert!(ok(&["diff", &scribe, &scribe]).contains("75 of 75 tensors"));
}

#[test]
fn parts_of_several_processes_gather_to_the_bytes_of_one() {
    let folder = Folder::new();
    let (scribe, text) = (asset("models/scribe-8m"), asset("text/calibration.txt"));
    let [whole, out] = ["whole.gguf", "out.gguf"].map(|name| folder.path(name));
    let learned = ["--text", &text, "--max-tokens", "4000"];
    let quantize = |out: &str, more: &[&str]| {
        let common = ["quantize", &scribe, "--type", "Q4_K_M", "-o", out];
        run(&[&common[..], &learned, more].concat())
    };
    let (receipt, gathered) = (folder.path("whole.json"), folder.path("gathered.json"));
    ok(&["keygen", "--signing", "-o", &folder.path("signer")]);
    let made = quantize(&whole, &["--receipt", &receipt, "--sign-receipt", &folder.path("signer"), "--no-eval"]);
    assert_eq!(made.code, 0, "{}", made.stderr);
    let signature = format!("{receipt}.sig");
    let public = folder.path("signer.pub");
    ok(&["verify", &receipt, "--signature", &signature, "--public-key", &public]);

    // Without a gate all of the text is learned from, in parts as in the whole.
    let shards: Vec<String> = (0..2).map(|i| format!("{out}.shard-{i}-of-2")).collect();
    for i in [0, 1] {
        let part = quantize(&out, &["--no-eval", "--shard", &format!("{i}/2")]);
        assert_eq!(part.code, 0, "{}", part.stderr);
    }
    let again = quantize(&out, &["--no-eval", "--shard", "1/2"]);
    assert!(again.code == 0 && again.stderr.contains("is there already"), "{}", again.stderr);
    let other = run(&["quantize", &scribe, "--type", "Q4_K_M", "-o", &out, "--shard", "1/2"]);
    assert!(other.code == 1 && other.stderr.contains("nothing is overwritten"), "{}", other.stderr);
    let gather = |shards: &[&String], out: &str, more: &[&str]| {
        let shards: Vec<&str> = shards.iter().map(|s| s.as_str()).collect();
        run(&[&["gather", &scribe], &shards[..], &["-o", out], more].concat())
    };
    let plan = gather(&[&shards[0], &shards[1]], &out, &["--dry-run"]);
    assert!(plan.code == 0 && plan.stdout.contains("Q4_K_M") | plan.stdout.contains("Q4_K"), "{}", plan.stderr);
    let done = gather(&[&shards[1], &shards[0]], &out, &["--json", "--receipt", &gathered]);
    assert_eq!(done.code, 0, "{}", done.stderr);
    assert!(kl(&json(&done.stdout)) < 0.02);
    assert!(fs::read(&out).unwrap() == fs::read(&whole).unwrap());
    let without_loss = |path: &str| {
        let mut receipt = json(&fs::read_to_string(path).unwrap());
        receipt.as_object_mut().unwrap().remove("lost");
        receipt
    };
    assert_eq!(without_loss(&receipt), without_loss(&gathered));

    let missing = gather(&[&shards[0]], &folder.path("no.gguf"), &[]);
    assert!(missing.code == 2 && missing.stderr.contains("shard 1 of 2 is missing"), "{}", missing.stderr);
    let refused = gather(&[&shards[0], &shards[1]], &folder.path("no.gguf"), &["--max-kl", "0.0001"]);
    assert_eq!(refused.code, 3, "{}", refused.stderr);
    assert!(Path::new(&folder.path("no.refused.gguf")).exists());
    for (flags, says) in
        [(&["--shard", "2/2"][..], "counted from 0"), (&["--shard", "0/2", "--policy", "p"], "cannot be used with")]
    {
        let refused = quantize(&folder.path("x.gguf"), flags);
        assert!(refused.code == 2 && refused.stderr.contains(says), "{}", refused.stderr);
    }
}
