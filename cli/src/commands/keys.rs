//! `coffer keys`: who may ask the server.

use crate::output::{self, Table};
use anyhow::Result;
use coffer_server::keys::KeyRing;
use std::path::PathBuf;

/// API keys of the server. Only their hashes are stored; changes count at once in a running server.
#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(clap::Subcommand)]
enum Action {
    /// Make a key and print it: this is the only time that it can be seen
    Add {
        /// Whose key it is
        name: String,
        #[command(flatten)]
        database: Database,
    },
    /// List keys
    List {
        #[command(flatten)]
        database: Database,
        /// Print as JSON
        #[arg(long)]
        json: bool,
    },
    /// End the life of a key
    Revoke {
        /// Whose key it is
        name: String,
        #[command(flatten)]
        database: Database,
    },
}

/// Where the keys are.
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct Database {
    /// SQLite database of key hashes; made if absent
    #[arg(long, value_name = "FILE", default_value = "coffer-keys.sqlite")]
    pub(crate) database: PathBuf,
}

/// Adds, lists or revokes.
pub(crate) fn run(args: Args) -> Result<()> {
    match args.action {
        Action::Add { name, database } => outln!("{}", *KeyRing::open(&database.database)?.add(&name)?),
        Action::List { database, json } => list(&KeyRing::open(&database.database)?, json)?,
        Action::Revoke { name, database } => {
            KeyRing::open(&database.database)?.revoke(&name)?;
            eprintln!("revoked {name}");
        }
    }
    Ok(())
}

#[derive(serde::Serialize)]
struct Listed {
    name: String,
    ends_with: String,
    created_unix: u64,
    revoked_unix: Option<u64>,
}

fn list(ring: &KeyRing, json: bool) -> Result<()> {
    let listed = ring.list()?.into_iter().map(|k| Listed {
        name: k.name,
        ends_with: k.hint,
        created_unix: k.created,
        revoked_unix: k.revoked,
    });
    let keys: Vec<Listed> = listed.collect();
    if json {
        return output::json(&keys);
    }
    let mut table = Table::new(&["name", "key", ">made", "state"]);
    for key in keys {
        let state = key.revoked_unix.map_or_else(|| "valid".to_owned(), |t| format!("revoked at {t}"));
        table.row([key.name, format!("coffer-…{}", key.ends_with), key.created_unix.to_string(), state]);
    }
    out!("{table}");
    Ok(())
}
