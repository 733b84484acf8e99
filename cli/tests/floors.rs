//! The architecture as a test: a crate depends only on crates of lower floors, and the promises that the compiler
//! keeps (who may use `unsafe`, who may be asynchronous) hold in the manifests.

#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use serde_json::Value;
use std::{collections::BTreeMap, process::Command};

#[test]
fn every_dependency_points_downwards() {
    let floors = floors();
    let mut wrong = Vec::new();
    for package in members() {
        let (name, floor) = (text(&package, "name"), floors[&text(&package, "name")]);
        for dependency in package["dependencies"].as_array().unwrap() {
            let Some(&below) = floors.get(&text(dependency, "name")) else { continue };
            if below >= floor {
                wrong.push(format!("{name} (floor {floor}) depends on {} (floor {below})", text(dependency, "name")));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn only_the_server_and_remote_are_asynchronous() {
    for package in members() {
        let name = text(&package, "name");
        let uses_tokio = package["dependencies"].as_array().unwrap().iter().any(|d| d["name"] == "tokio");
        // The command line starts the server's runtime.
        assert!(
            !uses_tokio || matches!(name.as_str(), "coffer-server" | "coffer-remote") || name == "coffer",
            "{name} depends on tokio"
        );
    }
}

#[test]
fn only_kernels_may_use_unsafe() {
    let root = metadata()["workspace_root"].as_str().unwrap().to_owned();
    let forbids = std::fs::read_to_string(format!("{root}/Cargo.toml")).unwrap();
    assert!(forbids.contains("unsafe_code = \"forbid\""));
    for package in members() {
        let manifest = std::fs::read_to_string(text(&package, "manifest_path")).unwrap();
        let inherits = manifest.contains("[lints]\nworkspace = true");
        assert_eq!(inherits, package["name"] != "coffer-kernels", "{}", package["name"]);
    }
}

/// Floor of each crate of the house.
fn floors() -> BTreeMap<String, u64> {
    members()
        .iter()
        .map(|p| (text(p, "name"), p["metadata"]["floor"].as_u64().unwrap_or_else(|| panic!("{} has no floor", p["name"]))))
        .collect()
}

/// The crates of the house; `xtask` and `benches` lie outside.
fn members() -> Vec<Value> {
    let packages = metadata()["packages"].as_array().unwrap().clone();
    packages.into_iter().filter(|p| !["xtask", "coffer-benches"].contains(&p["name"].as_str().unwrap())).collect()
}

fn metadata() -> Value {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
    let out = Command::new(cargo)
        .args(["metadata", "--format-version", "1", "--no-deps", "--offline"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .expect("cargo metadata runs");
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    serde_json::from_slice(&out.stdout).expect("cargo metadata prints JSON")
}

fn text(value: &Value, key: &str) -> String {
    value[key].as_str().unwrap_or_default().to_owned()
}
