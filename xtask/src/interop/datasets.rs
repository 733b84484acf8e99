//! Data sets as others write them.

use super::Outcome;
use crate::peers::{Peers, output, run};
use anyhow::{Result, ensure};
use serde_json::Value;
use std::{fs, path::Path, process::Command};

const ROWS: usize = 3000;

/// Parquet files of several kinds, sealed: their rows are those that pyarrow wrote.
pub(crate) fn parquet_pyarrow(peers: &Peers, folder: &Path) -> Result<Outcome> {
    let (data, key, bundle) = (folder.join("data"), folder.join("key"), folder.join("bundle"));
    fs::create_dir(&data)?;
    run(Command::new(peers.python()?).arg(peers.script("parquet_rows.py")).arg(&data).arg(ROWS.to_string()))?;
    let recipient = output(peers.coffer("keygen")?.arg("-o").arg(&key))?;
    run(peers.coffer("seal")?.arg(&data).args(["--records", "-r", recipient.trim(), "-o"]).arg(&bundle))?;
    let mut inspect = peers.coffer("inspect")?;
    let shown = output(inspect.arg(&bundle).arg("--identity").arg(&key).args(["--head", "1000000", "--json"]))?;
    let shown: Value = serde_json::from_str(&shown)?;
    let parse = |text: &str| Ok(serde_json::from_str::<Value>(text)?);
    let records = shown["head"].as_array().into_iter().flatten().map(|r| parse(r.as_str().unwrap_or_default()));
    let (records, expected) = (
        records.collect::<Result<Vec<_>>>()?,
        fs::read_to_string(data.join("rows.jsonl"))?.lines().map(parse).collect::<Result<Vec<_>>>()?,
    );
    let files = shown["files"].as_array().map_or(0, Vec::len);
    ensure!(files == 6 && records.len() == files * ROWS, "{} records in {files} files", records.len());
    for (at, record) in records.iter().enumerate() {
        ensure!(*record == expected[at % ROWS], "record {at}: {record}, pyarrow wrote {}", expected[at % ROWS]);
    }
    Ok(Outcome::Passed(format!("{} sealed rows of {} Parquet files and their JSONL are equal", records.len(), files - 1)))
}
