//! Coffer against its real peers: each check runs somebody else's program on our output, or ours on theirs.

mod aarch64;
pub(crate) mod clients;
mod containers;
mod datasets;
mod endpoint;
pub(crate) mod exec;
mod families;
mod keys;
mod kills;
pub(crate) mod numbers;
mod page;
mod plaintext;
pub(crate) mod quantize;
mod remote;
mod scan;
mod shards;
mod signatures;
mod text;
mod tokens;

use crate::peers::Peers;
use anyhow::{Result, bail};
use std::{path::Path, time::Instant};

/// Which checks to run.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Only checks whose name contains this
    #[arg(long, value_name = "TEXT")]
    only: Option<String>,
}

/// What a check found.
pub(crate) enum Outcome {
    /// It passed, with the figure that shows it.
    Passed(String),
    /// It could not run here.
    Skipped(&'static str),
}

/// A check: gets the peers and an empty folder.
type Check = fn(&Peers, &Path) -> Result<Outcome>;

const CHECKS: &[(&str, Check)] = &[
    ("transformers-logits", numbers::transformers_logits),
    ("families", families::tiny_models),
    ("aarch64", aarch64::contract),
    ("llama-perplexity", numbers::llama_perplexity),
    ("tokenizers-ids", text::tokenizers_ids),
    ("llama-ids", text::llama_ids),
    ("chat-template", text::chat_template),
    ("llama-runs-our-gguf", containers::llama_runs_our_gguf),
    ("llama-quantize-mixtures", quantize::mixtures),
    ("llama-imatrix", quantize::imatrix),
    ("compressed-tensors", quantize::compressed),
    ("ray", shards::ray),
    ("gguf-py-decodes-our-gguf", containers::gguf_py_decodes_our_gguf),
    ("transformers-runs-our-directories", containers::transformers_runs_our_directories),
    ("convert-there-and-back", containers::convert_there_and_back),
    ("peft-merges-alike", containers::peft_merges_alike),
    ("age-opens-our-keys", keys::age_opens_our_keys),
    ("age-opens-for-rsa-in-pem", keys::age_opens_for_rsa_in_pem),
    ("age-encryption-post-quantum", keys::age_encryption_post_quantum),
    ("pkcs11-softhsm", tokens::pkcs11_softhsm),
    ("kill-9", kills::nothing_is_lost),
    ("kill-9-quantize", kills::work_goes_on),
    ("remote-s3", remote::s3),
    ("remote-azure", remote::azure),
    ("remote-web", remote::web),
    ("parquet-pyarrow", datasets::parquet_pyarrow),
    ("exec-llama-completion", exec::llama_completion),
    ("exec-llama-server", exec::llama_server),
    ("exec-transformers", exec::transformers),
    ("no-plaintext-at-rest", plaintext::search),
    ("model-signing-agrees", signatures::model_signing_agrees),
    ("scan-corpus", scan::corpus),
    ("endpoint-of-ours", endpoint::our_server),
    ("endpoint-llama-server", endpoint::llama_server),
    ("openai-python", clients::openai_python),
    ("openai-node", clients::openai_node),
    ("ehbp-node-wiretapped", clients::ehbp_node_wiretapped),
    ("report-in-a-browser", page::report_in_a_browser),
];

/// What a check that needs data from beside the checkout says where it is absent.
pub(crate) const NO_SHARED: Outcome = Outcome::Skipped("needs ../shared, which is absent");

/// Runs the checks; fails if one does.
pub(crate) fn run(args: &Args) -> Result<()> {
    let peers = Peers::new()?;
    let (mut passed, mut skipped, mut failed) = (0, 0, Vec::new());
    for (name, check) in CHECKS.iter().filter(|(name, _)| args.only.as_ref().is_none_or(|text| name.contains(text.as_str()))) {
        let folder = tempfile::tempdir()?;
        let start = Instant::now();
        match check(&peers, folder.path()) {
            Ok(Outcome::Passed(figure)) => {
                passed += 1;
                println!("ok       {name}: {figure} ({:.1} s)", start.elapsed().as_secs_f64());
            }
            Ok(Outcome::Skipped(why)) => {
                skipped += 1;
                println!("skipped  {name}: {why}");
            }
            Err(error) => {
                println!("FAILED   {name}: {error:#}");
                failed.push(*name);
            }
        }
    }
    println!("interop: {passed} passed, {} failed, {skipped} skipped", failed.len());
    if !failed.is_empty() {
        bail!("failed: {}", failed.join(", "));
    }
    Ok(())
}
