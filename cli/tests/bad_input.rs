//! Bad input is normal input: each gets one clear error and its exit code, never a panic, never a half-written output.

#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

#[expect(dead_code, reason = "each test file uses a part of it")]
mod coffer;

use coffer::{Folder, Run, asset, copy, run};
use std::{fs, net::TcpListener, path::Path, process::Command};

/// The run must end with `code`, say each of `says` on stderr, and not panic.
#[track_caller]
fn refused(run: &Run, code: i32, says: &[&str]) {
    assert_eq!(run.code, code, "{}", run.stderr);
    for say in says {
        assert!(run.stderr.contains(say), "{say:?} is not in: {}", run.stderr);
    }
    assert!(!run.stderr.contains("panicked"), "{}", run.stderr);
}

#[test]
fn wrong_usage_is_told_with_code_2() {
    let scribe = asset("models/scribe-8m");
    refused(&run(&["frobnicate"]), 2, &["frobnicate"]);
    refused(&run(&["quantize", &scribe, "--type", "Q3_X", "-o", "/nonexistent/x"]), 2, &["Q3_X", "Q4_K_M"]);
    refused(&run(&["seal", &scribe, "-o", "/nonexistent/x"]), 2, &["--recipient"]);
    refused(&run(&["generate", &scribe, "--prompt", "x", "--system", "y"]), 2, &["--system", "--chat"]);
    refused(&run(&["generate", &scribe, "--prompt", "x", "--temperature", "-1"]), 2, &["--temperature"]);
    refused(&run(&["eval", &scribe]), 2, &["--text"]);
}

#[test]
fn an_endpoint_that_cannot_be_asked_is_named() {
    let scribe = asset("models/scribe-8m");
    // The port for discarding: nobody listens.
    let ask = |more: &[&str]| run(&[&["eval", &scribe, "--endpoint", "http://127.0.0.1:9/v1"], more].concat());
    refused(&ask(&[]), 1, &["http://127.0.0.1:9/v1", "cannot be asked"]);
    refused(&ask(&["--served-model", "x"]), 1, &["http://127.0.0.1:9/v1/completions"]);
    refused(&ask(&["--confidence", "2"]), 2, &["--confidence 2"]);
    refused(&ask(&["--questions", "5000"]), 1, &["5000 questions", "longer text"]);
    refused(&ask(&["--alternative", "Q3_X"]), 2, &["Q3_X", "no such model", "Q4_K_M"]);
    refused(&ask(&["--chat"]), 2, &["--text"]);
    let certificate = asset("goldens/scribe-8m.json");
    refused(&ask(&["--kv-format", "q8_0", "--certificate", &certificate]), 3, &["scribe-8m.json certifies"]);
    refused(&run(&["eval", &scribe, "--chat"]), 2, &["--endpoint"]);
}

#[test]
fn missing_and_foreign_files_are_named() {
    let folder = Folder::new();
    let nothing = folder.path("nothing");
    refused(&run(&["inspect", &nothing]), 1, &["nothing"]);
    let text = folder.write("notes.gguf", "these are notes");
    refused(&run(&["inspect", &text]), 1, &["notes.gguf"]);
    refused(&run(&["open", &text, "-o", &folder.path("out")]), 1, &["notes.gguf"]);
    refused(&run(&["merge", &nothing, "-o", &folder.path("out")]), 1, &["nothing"]);
}

#[test]
fn spoilt_checkpoints_are_refused_by_file() {
    let folder = Folder::new();
    let truncated = copy(&folder, "truncated");
    let weights = format!("{truncated}/model.safetensors");
    let bytes = fs::read(&weights).unwrap();
    fs::write(&weights, &bytes[..bytes.len() - 1]).unwrap();
    refused(&run(&["inspect", &truncated]), 1, &["model.safetensors"]);
    fs::write(&weights, u64::MAX.to_le_bytes()).unwrap();
    refused(&run(&["inspect", &truncated]), 1, &["model.safetensors"]);

    let other = copy(&folder, "other");
    let config = fs::read_to_string(format!("{other}/config.json")).unwrap();
    for (from, to, says) in [
        ("LlamaForCausalLM", "MambaForCausalLM", "amba"),
        ("\"hidden_size\": 256", "\"hidden_size\": 99999999999", "hidden_size"),
        ("\"num_hidden_layers\": 8", "\"num_hidden_layers\": 9", "layers.8"),
        ("\"num_key_value_heads\": 4", "\"num_key_value_heads\": 3", "head"),
        ("{", "{,", "config.json"),
    ] {
        let spoilt = config.replacen(from, to, 1).replace(
            "\"model_type\": \"llama\"",
            if says == "amba" { "\"model_type\": \"mamba\"" } else { "\"model_type\": \"llama\"" },
        );
        fs::write(format!("{other}/config.json"), spoilt).unwrap();
        refused(&run(&["inspect", &other]), 1, &[says]);
    }
    fs::write(format!("{other}/config.json"), &config).unwrap();
    fs::write(format!("{other}/tokenizer.json"), "{}").unwrap();
    refused(&run(&["generate", &other, "--prompt", "x"]), 1, &["tokenizer"]);
}

#[test]
fn spoilt_gguf_is_refused_at_every_cut() {
    let folder = Folder::new();
    let gguf = folder.path("m.gguf");
    assert_eq!(run(&["quantize", &asset("models/scribe-8m"), "--type", "Q4_0", "-o", &gguf]).code, 0);
    let bytes = fs::read(&gguf).unwrap();
    for cut in [0, 3, 4, 20, 1000, bytes.len() / 2, bytes.len() - 1] {
        let cut = folder.write("cut.gguf", &bytes[..cut]);
        refused(&run(&["inspect", &cut]), 1, &["cut.gguf"]);
    }
}

#[test]
fn outputs_are_never_overwritten_or_left_half_written() {
    let folder = Folder::new();
    let (scribe, there) = (asset("models/scribe-8m"), folder.write("there.gguf", "precious"));
    refused(&run(&["quantize", &scribe, "--type", "Q4_0", "-o", &there]), 1, &["there.gguf"]);
    assert_eq!(fs::read_to_string(&there).unwrap(), "precious");
    refused(&run(&["convert", &scribe, "-o", &there]), 2, &["there.gguf"]);
    refused(&run(&["keygen", "-o", &there]), 1, &["there.gguf"]);

    let broken = copy(&folder, "broken");
    let weights = format!("{broken}/model.safetensors");
    let mut bytes = fs::read(&weights).unwrap();
    let at = bytes.len() - 300_000;
    bytes[at..at + 2].copy_from_slice(&0x7fc0u16.to_le_bytes());
    bytes[at + 2..at + 4].copy_from_slice(&0x7fc0u16.to_le_bytes());
    fs::write(&weights, bytes).unwrap();
    let out = folder.path("out.gguf");
    refused(&run(&["quantize", &broken, "--type", "Q4_0", "-o", &out]), 1, &["weight"]);
    let left: Vec<_> = fs::read_dir(folder.root()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(left.len(), 2, "{left:?}");
}

#[test]
fn a_write_that_fails_midway_is_told_and_leaves_nothing() {
    let folder = Folder::new();
    let scribe = asset("models/scribe-8m");
    let key = coffer::ok(&["keygen", "-o", &folder.path("key")]);
    // A limit on the size of files fails a write as a full disk does, once the signal is ignored.
    let limited = |arguments: &[&str]| {
        let script = "ulimit -f 1024; trap '' XFSZ; exec \"$0\" \"$@\"";
        let out = Command::new("sh").args(["-c", script, env!("CARGO_BIN_EXE_coffer")]).args(arguments).output().unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        Run { code: out.status.code().unwrap_or(-1), stdout: text(out.stdout), stderr: text(out.stderr) }
    };
    let out = folder.path("out");
    refused(&limited(&["quantize", &scribe, "--type", "Q4_0", "-o", &out]), 1, &["out"]);
    refused(&limited(&["convert", &scribe, "-o", &out]), 1, &["out"]);
    refused(&limited(&["prune", &scribe, "--sparsity", "0.5", "-o", &out]), 1, &["out"]);
    refused(&limited(&["seal", &scribe, "-o", &out, "--recipient", key.trim()]), 1, &["out"]);
    let left: Vec<_> = fs::read_dir(folder.root()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(left, ["key"]);
}

#[test]
fn sealed_models_need_the_right_key_and_every_byte() {
    let folder = Folder::new();
    let (key, other, bundle) = (folder.path("key"), folder.path("other"), folder.path("bundle"));
    let recipient = coffer::ok(&["keygen", "-o", &key]);
    coffer::ok(&["keygen", "-o", &other]);
    coffer::ok(&["seal", &asset("models/scribe-8m"), "-o", &bundle, "--recipient", recipient.trim()]);
    assert!(coffer::ok(&["inspect", &bundle]).contains("X25519"), "without a key a bundle shows the kinds of its recipients");
    refused(&run(&["eval", &bundle, "--speed"]), 2, &["bundle", "--identity"]);
    refused(&run(&["open", &bundle, "-o", &folder.path("out")]), 2, &["--identity"]);
    refused(&run(&["inspect", &bundle, "--identity", &other]), 1, &["bundle"]);
    refused(&run(&["inspect", &bundle, "--identity", &folder.write("not-a-key", "hello")]), 1, &["not-a-key"]);
    refused(&run(&["seal", &asset("models/scribe-8m"), "-o", &bundle, "--recipient", recipient.trim()]), 1, &["bundle"]);
    refused(
        &run(&["seal", &asset("models/scribe-8m"), "-o", &folder.path("b"), "--recipient", "age1nonsense"]),
        1,
        &["age1nonsense"],
    );
}

#[test]
fn recipes_adapters_and_policies_are_refused_by_key() {
    let folder = Folder::new();
    let scribe = asset("models/scribe-8m");
    let out = folder.path("out");
    for (recipe, says) in [
        ("merge_method: linear\nmodels: [", "recipe.yml"),
        ("merge_method: telepathy\nmodels: []\n", "telepathy"),
        ("merge_method: linear\nmodels:\n  - model: nowhere\n    parameters: {weight: 1}\n", "nowhere"),
        ("merge_method: linear\nmoddels: []\n", "moddels"),
    ] {
        refused(&run(&["merge", &folder.write("recipe.yml", recipe), "-o", &out]), 1, &[says]);
    }
    let policy = folder.write("policy.toml", "max_kl_mean = -1\n");
    let text = asset("text/holdout.txt");
    refused(
        &run(&["assess", &scribe, "--variant", &scribe, "--text", &text, "--policy", &policy]),
        1,
        &["policy.toml", "max_kl_mean"],
    );
    fs::create_dir(folder.path("adapter")).unwrap();
    folder.write("adapter/adapter_config.json", "{\"peft_type\": \"LORA\", \"r\": 0}");
    refused(&run(&["eval", &scribe, "--text", &text, "--adapter", &folder.path("adapter")]), 1, &["adapter"]);
    refused(&run(&["prune", &scribe, "--sparsity", "1.5", "-o", &out]), 1, &["1.5"]);
    assert!(!Path::new(&out).exists());
}

#[test]
fn a_context_that_overflows_is_told_with_numbers() {
    let scribe = asset("models/scribe-8m");
    let run = run(&["generate", &scribe, "--prompt", &"word ".repeat(3000), "-n", "1"]);
    refused(&run, 1, &["1024"]);
}

#[test]
fn a_taken_port_is_told_before_the_model_is_loaded() {
    let folder = Folder::new();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let run = run(&["serve", &asset("models/scribe-8m"), "--listen", &address, "--database", &folder.path("keys.sqlite")]);
    refused(&run, 1, &[&address, "--listen"]);
}

#[test]
fn a_reader_that_goes_away_is_no_panic() {
    let script = "exec 1>&-; exec \"$0\" scan \"$1\"";
    let out = Command::new("sh").args(["-c", script, env!("CARGO_BIN_EXE_coffer"), &asset("models")]).output().unwrap();
    assert_eq!(out.status.code(), Some(0), "{}", String::from_utf8_lossy(&out.stderr));
}

#[test]
fn quantized_sources_name_the_flag_that_accepts_them() {
    let folder = Folder::new();
    let (first, second) = (folder.path("a.gguf"), folder.path("b.gguf"));
    coffer::ok(&["quantize", &asset("models/scribe-8m"), "--type", "Q8_0", "-o", &first]);
    refused(&run(&["quantize", &first, "--type", "Q4_0", "-o", &second]), 1, &["--requantize"]);
    coffer::ok(&["quantize", &first, "--type", "Q4_0", "--requantize", "-o", &second]);
}

#[test]
fn unsafe_files_are_refused_with_code_3() {
    let folder = Folder::new();
    let trap = folder.write("pytorch_model.bin", b"cos\nsystem\n(S'echo hello'\ntR.");
    let run = run(&["scan", &trap, "--json"]);
    refused(&run, 3, &["unsafe"]);
    assert!(run.stdout.contains("\"severity\": \"unsafe\""), "{}", run.stdout);
    assert_eq!(coffer::run(&["scan", &asset("models")]).code, 0);
}

#[test]
fn an_instruction_set_that_is_not_there_is_refused() {
    let out =
        coffer::command(&["generate", &asset("models/scribe-8m"), "--prompt", "x"]).env("COFFER_ISA", "sse9").output().unwrap();
    assert_eq!(out.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&out.stderr).contains("sse9"));
}
