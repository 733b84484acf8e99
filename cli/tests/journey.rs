//! The commands as a user types them, from a checkpoint to a verdict, on the model that lies in the project.

#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

#[expect(dead_code, reason = "each test file uses a part of it")]
mod coffer;

use coffer::{Folder, asset, json, ok, run};
use serde_json::Value;
use std::{io::Write, path::Path, process::Stdio};

#[test]
fn a_sealed_model_answers_as_the_plain_one() {
    let folder = Folder::new();
    let (gguf, key, bundle) = (folder.path("small.gguf"), folder.path("key"), folder.path("small.sealed"));
    let scribe = asset("models/scribe-8m");
    ok(&["quantize", &scribe, "--type", "q4_0", "-o", &gguf]);
    let recipient = ok(&["keygen", "-o", &key]);
    ok(&["seal", &gguf, "-o", &bundle, "--recipient", recipient.trim()]);

    let say = ["--prompt", "The old house stood", "-n", "20", "--seed", "5", "--threads", "1"];
    let plain = ok(&[&["generate", &gguf], &say[..]].concat());
    let sealed = ok(&[&["generate", &bundle, "--identity", &key], &say[..]].concat());
    assert!(plain.len() > 20, "{plain:?}");
    assert_eq!(plain, sealed);
    let digest = |args: &[&str]| json(&ok(args))["weights_digest"].clone();
    let of_plain = digest(&["inspect", &gguf, "--digest", "--json"]);
    assert_eq!(of_plain, digest(&["inspect", &bundle, "--identity", &key, "--digest", "--json"]));
    assert!(of_plain.as_str().unwrap().starts_with("sha256:"));

    let back = folder.path("back");
    ok(&["open", &bundle, "--identity", &key, "-o", &back]);
    assert_eq!(std::fs::read(&gguf).unwrap(), std::fs::read(format!("{back}/small.gguf")).unwrap());
}

#[test]
fn a_conversation_remembers_what_was_said() {
    let scribe = asset("models/scribe-8m");
    let flags = ["--system", "You tell stories.", "-n", "12", "--seed", "7", "--json"];
    let talk = |lines: &str| -> Vec<Value> {
        let mut talk = coffer::command(&[&["generate", &scribe], &flags[..]].concat());
        let mut talk = talk.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        talk.stdin.take().unwrap().write_all(lines.as_bytes()).unwrap();
        let out = talk.wait_with_output().unwrap();
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        String::from_utf8(out.stdout).unwrap().lines().map(json).collect()
    };
    let answers = talk("Tell me of a storm.\n\nAnd then?\n/new\nTell me of a storm.\n");
    let [first, second, again] = &answers[..] else { panic!("{answers:?}") };
    let once = json(&ok(&[&["generate", &scribe, "--chat", "--prompt", "Tell me of a storm."], &flags[..]].concat()));
    for answer in [first, again] {
        assert_eq!((&answer["text"], &answer["prompt_tokens"]), (&once["text"], &once["prompt_tokens"]));
    }
    let tokens = |answer: &Value| answer["prompt_tokens"].as_u64().unwrap();
    assert!(first["kept_tokens"] == 0 && second["kept_tokens"].as_u64().unwrap() >= tokens(first) - 4, "{second}");
    assert!(tokens(second) > tokens(first) + first["completion_tokens"].as_u64().unwrap());
}

#[test]
fn a_certificate_holds_for_every_container_and_for_no_other_model() {
    let folder = Folder::new();
    let scribe = asset("models/scribe-8m");
    let (golden, made) = (asset("goldens/scribe-8m.json"), folder.path("cert.json"));
    let (gguf, small, key, bundle) = (folder.path("s.gguf"), folder.path("q.gguf"), folder.path("key"), folder.path("sealed"));
    ok(&["convert", &scribe, "-o", &gguf]);
    ok(&["quantize", &scribe, "--type", "Q8_0", "-o", &small]);
    let recipient = ok(&["keygen", "-o", &key]);
    ok(&["seal", &gguf, "-o", &bundle, "--recipient", recipient.trim()]);

    // The short questions are enough here.
    let mut certificate = json(&std::fs::read_to_string(golden).unwrap());
    certificate["cases"].as_array_mut().unwrap().retain(|c| c["tokens"].as_array().unwrap().len() < 80);
    let golden = folder.write("golden.json", certificate.to_string());
    assert!(ok(&["certify", &gguf, "--check", &golden]).starts_with("equal: "));
    let sealed = json(&ok(&["certify", &bundle, "--identity", &key, "--check", &golden, "--json", "--threads", "1"]));
    assert_eq!((&sealed["parts"], &sealed["answers"]), (&Value::Array(vec![]), &Value::Array(vec![])));

    let other = run(&["certify", &small, "--check", &golden]);
    assert_eq!(other.code, 3);
    assert!(other.stdout.contains("weights") && other.stdout.contains("first in: embedding"), "{}", other.stdout);
    ok(&["certify", &small, "-o", &made]);
    assert!(ok(&["certify", &small, "--check", &made]).starts_with("equal: "));
    assert_eq!(run(&["certify", &small, "-o", &made]).code, 1);
    assert_eq!(run(&["certify", &small]).code, 2);
    std::fs::write(&made, "{}").unwrap();
    assert_eq!(run(&["certify", &small, "--check", &made]).code, 1);
}

#[test]
fn every_verb_that_makes_a_model_reads_and_writes_sealed() {
    let folder = Folder::new();
    let (key, scribe, sealed) = (folder.path("key"), asset("models/scribe-8m"), folder.path("scribe-8m.coffer"));
    let recipient = ok(&["keygen", "-o", &key]);
    let recipients = folder.write("team.txt", format!("# the team\n{recipient}"));
    ok(&["seal", &scribe, "-o", &sealed, "--recipient", recipient.trim()]);
    let recipe = |name: &str, model: &str| {
        let text = "merge_method: linear\ndtype: bfloat16\nmodels:\n- model: MODEL\n  parameters:\n    weight: 1.0\n";
        folder.write(name, text.replace("MODEL", model))
    };
    let (plain_recipe, sealed_recipe) = (recipe("plain.yml", &scribe), recipe("sealed.yml", &sealed));
    let verbs: [(&str, &str, &str, &[&str]); 4] = [
        ("convert", &scribe, &sealed, &[]),
        ("quantize", &scribe, &sealed, &["--type", "Q4_0"]),
        ("prune", &scribe, &sealed, &["--sparsity", "0.5"]),
        ("merge", &plain_recipe, &sealed_recipe, &[]),
    ];
    for (verb, plain_in, sealed_in, flags) in verbs {
        let (plain, out, opened) =
            (folder.path(verb), folder.path(&format!("{verb}.coffer")), folder.path(&format!("{verb}-opened")));
        ok(&[&[verb, plain_in, "-o", &plain], flags].concat());
        ok(&[&[verb, sealed_in, "--identity", &key, "-o", &out, "--seal-to-file", &recipients], flags].concat());
        ok(&["open", &out, "--identity", &key, "-o", &opened]);
        let files = |folder: &str| std::fs::read_dir(folder).unwrap().map(|e| e.unwrap().path()).collect::<Vec<_>>();
        if Path::new(&plain).is_file() {
            assert!(std::fs::read(&plain).unwrap() == std::fs::read(&files(&opened)[0]).unwrap(), "{verb}");
            continue;
        }
        assert_eq!(files(&plain).len(), files(&opened).len(), "{verb}");
        for file in files(&plain) {
            let twin = Path::new(&opened).join(file.file_name().unwrap());
            assert!(std::fs::read(&file).unwrap() == std::fs::read(twin).unwrap(), "{verb}: {}", file.display());
        }
    }
    let nobody = folder.write("nobody.txt", "# nobody\n");
    let refused = run(&["convert", &scribe, "-o", &folder.path("x"), "--seal-to-file", &nobody]);
    assert!(refused.code == 1 && refused.stderr.contains("nobody.txt"), "{}", refused.stderr);
    let refused = run(&["convert", &scribe, "-o", &folder.path("x"), "--seal-to", "age1nonsense"]);
    assert!(refused.code != 0 && !Path::new(&folder.path("x")).exists(), "{}", refused.stderr);
}

#[test]
fn a_data_set_is_sealed_looked_at_and_used() {
    let folder = Folder::new();
    let (key, data, sealed) = (folder.path("key"), folder.path("data.jsonl"), folder.path("data.coffer"));
    let recipient = ok(&["keygen", "-o", &key]);
    folder.write("data.jsonl", "{\"text\": \"one\"}\n{\"text\": \"two\"}\n");
    ok(&["seal", &data, "--records", "-o", &sealed, "--recipient", recipient.trim()]);
    let plain = json(&ok(&["inspect", &data, "--head", "1", "--json"]));
    let mut shown = json(&ok(&["inspect", &sealed, "--identity", &key, "--head", "1", "--json"]));
    assert_eq!((&shown["records"], &shown["head"][0]), (&2.into(), &"{\"text\": \"one\"}".into()));
    assert_eq!(shown["sealed"].take(), true);
    assert_eq!((&plain["files"], &plain["head"]), (&shown["files"], &shown["head"]));

    let (scribe, text, hidden) = (asset("models/scribe-8m"), asset("text/holdout.txt"), folder.path("text.coffer"));
    ok(&["seal", &text, "-o", &hidden, "--recipient", recipient.trim()]);
    let eval = |text: &str| ok(&["eval", &scribe, "--text", text, "--identity", &key, "--max-tokens", "128", "--json"]);
    assert_eq!(eval(&text), eval(&hidden));
    let refused = run(&["eval", &scribe, "--text", &hidden]);
    assert!(refused.code == 2 && refused.stderr.contains("--identity"), "{}", refused.stderr);
    let refused = run(&["seal", &text, "--records", "-o", &sealed, "--recipient", recipient.trim()]);
    assert!(refused.code == 1 && refused.stderr.contains("exists"), "{}", refused.stderr);
}

#[test]
fn every_instruction_set_and_thread_count_says_the_same() {
    let scribe = asset("models/scribe-8m");
    let doctor = json(&ok(&["doctor", "--json"]));
    let mut answers = std::collections::BTreeSet::new();
    for isa in doctor["instruction_sets"].as_array().unwrap() {
        for threads in ["1", "2", "4"] {
            let arguments = ["generate", &scribe, "--prompt", "It was", "-n", "16", "--threads", threads];
            let out = coffer::command(&arguments).env("COFFER_ISA", isa.as_str().unwrap()).output().unwrap();
            assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
            answers.insert(out.stdout);
        }
    }
    assert_eq!(answers.len(), 1);
}

#[test]
fn a_policy_accepts_and_refuses_with_reasons() {
    let folder = Folder::new();
    let scribe = asset("models/scribe-8m");
    let (good, bad) = (folder.path("q8.gguf"), folder.path("pruned"));
    ok(&["quantize", &scribe, "--type", "Q8_0", "-o", &good]);
    ok(&["prune", &scribe, "--sparsity", "0.7", "-o", &bad]);
    let policy = folder.write("limits.toml", "max_kl_mean = 0.05\n");
    let text = asset("text/holdout.txt");
    let common = ["--text", &text, "--max-tokens", "300", "--no-speed", "--policy", &policy, "--json"];
    let accepted = run(&[&["assess", &scribe, "--variant", &good], &common[..]].concat());
    assert_eq!(accepted.code, 0, "{}", accepted.stderr);
    let report = folder.path("report");
    let refused = run(&[&["assess", &scribe, "--variant", &bad, "-o", &report], &common[..]].concat());
    assert_eq!(refused.code, 3, "{}", refused.stderr);
    assert!(refused.stderr.contains("refuses 1 of 1"), "{}", refused.stderr);
    let written = json(&std::fs::read_to_string(format!("{report}/report.json")).unwrap());
    assert_eq!(written, json(&refused.stdout));
    assert!(std::fs::read_to_string(format!("{report}/report.html")).unwrap().contains("max_kl_mean"));
}

#[test]
fn eval_measures_a_text_alone_and_beside_a_reference() {
    let folder = Folder::new();
    let (scribe, text) = (asset("models/scribe-8m"), asset("text/holdout.txt"));
    let small = folder.path("small.gguf");
    ok(&["quantize", &scribe, "--type", "Q4_K_M", "-o", &small]);
    let alone = json(&ok(&["eval", &scribe, "--text", &text, "--max-tokens", "512", "--json"]));
    assert!(alone["perplexity"].as_f64().unwrap() > 1.0 && alone.get("kl_mean").is_none(), "{alone}");
    let beside = json(&ok(&["eval", &small, "--text", &text, "--max-tokens", "512", "--against", &scribe, "--json"]));
    for key in ["perplexity", "kl_mean", "kl_p99", "same_top"] {
        assert!(beside[key].as_f64().unwrap() > 0.0, "{key}: {beside}");
    }
    let adapter = asset("models/scribe-8m-verse-lora");
    let adapted = json(&ok(&["eval", &scribe, "--adapter", &adapter, "--text", &text, "--max-tokens", "512", "--json"]));
    assert_ne!(adapted["perplexity"], alone["perplexity"]);
}

#[test]
fn convert_there_and_back_is_equal() {
    let folder = Folder::new();
    let (scribe, gguf, back) = (asset("models/scribe-8m"), folder.path("m.gguf"), folder.path("back"));
    ok(&["convert", &scribe, "-o", &gguf]);
    ok(&["convert", &gguf, "-o", &back]);
    let digest = |path: &str| json(&ok(&["inspect", path, "--digest", "--json"]))["weights_digest"].clone();
    assert_eq!(digest(&scribe), digest(&back));
    let file = |folder: &str, name: &str| std::fs::read(format!("{folder}/{name}")).unwrap();
    assert_eq!(file(&scribe, "tokenizer.json"), file(&back, "tokenizer.json"));
}

#[test]
fn a_dry_run_says_what_would_be_written_and_writes_nothing() {
    let folder = Folder::new();
    let (scribe, out) = (asset("models/scribe-8m"), folder.path("out.gguf"));
    let plan = json(&ok(&["quantize", &scribe, "--type", "Q4_0", "-o", &out, "--dry-run", "--json"]));
    assert!(!std::path::Path::new(&out).exists());
    let made = json(&ok(&["quantize", &scribe, "--type", "Q4_0", "-o", &out, "--json"]));
    assert_eq!(plan["bytes_out"], made["bytes_out"]);
}

#[test]
fn settings_come_from_flag_environment_and_file_in_this_order() {
    let folder = Folder::new();
    let scribe = asset("models/scribe-8m");
    folder.write("coffer.toml", "[generate]\nmax-tokens = 3\nprompt = \"It was\"\n");
    let tokens = |command: &mut std::process::Command| {
        let out = command.current_dir(folder.root()).output().unwrap();
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        json(&String::from_utf8(out.stdout).unwrap())["completion_tokens"].as_u64().unwrap()
    };
    assert_eq!(tokens(&mut coffer::command(&["generate", &scribe, "--json"])), 3);
    assert_eq!(tokens(coffer::command(&["generate", &scribe, "--json"]).env("COFFER_MAX_TOKENS", "2")), 2);
    assert_eq!(tokens(coffer::command(&["generate", &scribe, "--json", "-n", "1"]).env("COFFER_MAX_TOKENS", "2")), 1);
    folder.write("coffer.toml", "[keys]\ndatabase = \"here.sqlite\"\n");
    let listed = coffer::command(&["keys", "list"]).env("COFFER_JSON", "1").current_dir(folder.root()).output().unwrap();
    assert_eq!((listed.status.code(), &*listed.stdout), (Some(0), &b"[]\n"[..]), "{}", String::from_utf8_lossy(&listed.stderr));
    assert!(folder.root().join("here.sqlite").exists());
    folder.write("coffer.toml", "[generate]\nmax-token = 3\n");
    let out = coffer::command(&["doctor"]).current_dir(folder.root()).output().unwrap();
    assert_eq!(out.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&out.stderr).contains("max-token"), "{}", String::from_utf8_lossy(&out.stderr));
}

#[test]
fn keys_are_made_listed_and_revoked() {
    let folder = Folder::new();
    let database = folder.path("keys.sqlite");
    let key = ok(&["keys", "add", "alice", "--database", &database]);
    assert!(key.starts_with("coffer-"), "{key}");
    let listed = ok(&["keys", "list", "--database", &database, "--json"]);
    assert_eq!(json(&listed)[0]["name"], "alice");
    assert!(!listed.contains(key.trim()), "the list shows the key");
    ok(&["keys", "revoke", "alice", "--database", &database]);
    assert!(ok(&["keys", "list", "--database", &database]).contains("revoked"));
    assert_eq!(run(&["keys", "revoke", "bob", "--database", &database]).code, 1);
}
