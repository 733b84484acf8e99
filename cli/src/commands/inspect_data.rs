//! `coffer inspect` of a data set: its files and records.

use crate::{
    model_input::ModelArgs,
    output::{self, Table},
};
use anyhow::Result;
use coffer_seal::bundle::records::has_records;
use coffer_store::{Dataset, FileSet};

#[derive(serde::Serialize)]
struct Summary {
    sealed: bool,
    records: u64,
    files: Vec<File>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    head: Vec<String>,
}

#[derive(serde::Serialize)]
struct File {
    name: String,
    kind: &'static str,
    records: u64,
    bytes: u64,
}

/// Prints a data set and its first `head` records; `false` if there is a model at this place, or nothing that is known.
pub(crate) fn inspect(place: &ModelArgs, head: u64, json: bool) -> Result<bool> {
    let identities = place.identities.load_for(&place.path)?;
    let files = FileSet::open(&place.path, identities)?;
    let named = |wanted: &dyn Fn(&str) -> bool| files.list().iter().any(|(name, _)| wanted(name));
    if files.has("config.json") || named(&|name| name.ends_with(".gguf")) || !named(&has_records) {
        return Ok(false);
    }
    let data = Dataset::open(&place.path, identities)?;
    let text = |number| Ok(String::from_utf8_lossy(&data.record(number)?).into_owned());
    let file = |file: &coffer_store::dataset::DataFile| File {
        name: file.name.clone(),
        kind: file.kind(),
        records: file.count(),
        bytes: file.bytes,
    };
    let summary = Summary {
        sealed: files.is_sealed(),
        records: data.len(),
        files: data.files().iter().map(file).collect(),
        head: (0..head.min(data.len())).map(text).collect::<Result<_>>()?,
    };
    if json {
        output::json(&summary)?;
    } else {
        print(&summary);
    }
    Ok(true)
}

fn print(summary: &Summary) {
    let mut table = Table::new(&["file", "records are", ">records", ">bytes"]);
    for f in &summary.files {
        table.row([f.name.clone(), f.kind.to_owned(), output::count(f.records), output::count(f.bytes)]);
    }
    out!("{table}");
    outln!("{} records{}", output::count(summary.records), if summary.sealed { ", sealed" } else { "" });
    summary.head.iter().for_each(|record| outln!("{record}"));
}
