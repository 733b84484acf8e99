//! `coffer rekey`: who can open a bundle, changed.

use crate::{
    exit::Usage,
    model_input::Identities,
    output, passphrase,
    progress::{Progress, Style},
    recipients,
};
use anyhow::Result;
use coffer_seal::{
    Recipient,
    bundle::{Changes, Member, rekey, rotate},
};
use std::path::PathBuf;

/// Change who can open a bundle: rewrites its key files and nothing else, whatever the model's size. With --rotate the content is
/// encrypted anew, too, so that who was removed cannot read it with the key that they may have kept.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Bundle to change
    #[arg(value_name = "BUNDLE")]
    bundle: PathBuf,
    #[command(flatten)]
    identities: Identities,
    /// Who may open it from now on, as for `seal --recipient`; may be repeated
    #[arg(long, value_name = "R")]
    add: Vec<String>,
    /// File with one recipient to add a line, or an RSA public key in PEM; may be repeated
    #[arg(short = 'R', long, value_name = "FILE")]
    recipients_file: Vec<PathBuf>,
    /// Who may no longer: a recipient as `coffer inspect --identity` lists it, or `passphrase`; may be repeated
    #[arg(long, value_name = "R")]
    remove: Vec<String>,
    /// Ask for a passphrase to add
    #[arg(long)]
    add_passphrase: bool,
    /// File or descriptor (/dev/fd/3) whose first line is that passphrase
    #[arg(long, value_name = "FILE", conflicts_with = "add_passphrase")]
    add_passphrase_file: Option<PathBuf>,
    /// Who must always be able to open it; may be repeated
    #[arg(long, value_name = "R")]
    recovery: Vec<String>,
    /// Let --remove take a recovery recipient away
    #[arg(long)]
    remove_recovery: bool,
    /// Encrypt the content anew under another key; the bundle's epoch rises
    #[arg(long)]
    rotate: bool,
    /// Print who can open it as JSON
    #[arg(long)]
    json: bool,
    /// How to show progress
    #[arg(long, value_enum, default_value_t)]
    progress: Style,
}

/// What the command reports.
#[derive(serde::Serialize)]
struct Outcome<'a> {
    rotated: bool,
    recipients: &'a [Member],
}

/// Changes the recipients.
pub(crate) fn run(args: Args) -> Result<()> {
    crate::remote::refuse(&args.bundle, "recipients are changed on this machine")?;
    let changes = args.changes()?;
    if changes.add.is_empty() && changes.remove.is_empty() && !args.rotate {
        return Err(Usage("rekey: nothing to change; say --add, --remove or --rotate".into()).into());
    }
    let identities = args.identities.load_for(&args.bundle)?;
    let members = match args.rotate {
        true => {
            let mut progress = Progress::bytes(args.progress, "encrypting anew");
            rotate(&args.bundle, identities, &changes, &mut |done, total| progress.update(done, total))?
        }
        false => rekey(&args.bundle, identities, &changes)?,
    };
    if !changes.remove.is_empty() && !args.rotate {
        eprintln!(
            "note: whoever was removed and kept the bundle's content key, or an old copy of its key files, can still read this \
             content; `coffer rekey --rotate` encrypts it anew. Copies that they have already stay readable to them in any case."
        );
    }
    if args.json {
        return output::json(&Outcome { rotated: args.rotate, recipients: &members });
    }
    eprintln!("{} can now be opened by:", args.bundle.display());
    members.iter().for_each(|m| outln!("{}{}", m.key, if m.recovery { " (recovery)" } else { "" }));
    Ok(())
}

impl Args {
    fn changes(&self) -> Result<Changes> {
        let mut add = recipients::parse(&self.add, &self.recipients_file)?;
        add.extend(passphrase::new(self.add_passphrase, self.add_passphrase_file.as_ref())?.map(Recipient::passphrase));
        for text in &self.recovery {
            add.push(Recipient::parse(text)?.recovery(true));
        }
        Ok(Changes { add, remove: self.remove.clone(), remove_recovery: self.remove_recovery })
    }
}
