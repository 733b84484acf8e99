//! Keys on PKCS#11 tokens: SoftHSM stands for the hardware, our plugin speaks to it, Coffer and Debian's age speak to the plugin.

use super::Outcome;
use crate::{
    interop::{clients::node, numbers::scribe},
    peers::{Peers, output, run},
};
use anyhow::{Context, Result, ensure};
use std::{
    ffi::OsString,
    io::Write,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

const MODULE: &str = "/usr/lib/softhsm/libsofthsm2.so";
const LABEL: &str = "vault";
const PIN: &str = "493027";

/// Sealing to a token's key needs no plugin; opening asks for the PIN, at the terminal or unattended; what goes wrong is named.
pub(crate) fn pkcs11_softhsm(peers: &Peers, folder: &Path) -> Result<Outcome> {
    let vault = Vault::create(peers, folder, "vault")?;
    let (asking, unattended) = (folder.join("asking"), folder.join("unattended"));
    let pin = folder.join("pin");
    std::fs::write(&pin, format!("{PIN}\n"))?;
    vault.identity(&asking, &[])?;
    vault.identity(&unattended, &["--pin-source".as_ref(), pin.as_os_str()])?;
    let recipient = recipient(&asking)?;
    let bundle = folder.join("bundle");
    run(peers.coffer("seal")?.arg(scribe(peers)).args(["-r", &recipient, "-o"]).arg(&bundle))?;

    let open = |identity: &Path, name: &str| -> Result<Command> {
        let mut command = vault.with_plugin(peers.coffer("open")?);
        command.arg(&bundle).arg("--identity").arg(identity).arg("-o").arg(folder.join(name));
        Ok(command)
    };
    run(&mut open(&unattended, "by-file")?)?;
    same(&scribe(peers), &folder.join("by-file"))?;
    at_a_terminal(&mut open(&asking, "by-hand")?)?;
    same(&scribe(peers), &folder.join("by-hand"))?;
    refused(&mut open(&asking, "x")?, "nobody could be asked")?;
    by_descriptor(&vault, &open, folder)?;

    let key_file = bundle.join("keys/p256tag.age");
    let content_key = vault.age(peers, &["-d".as_ref(), "-i".as_ref(), unattended.as_os_str(), key_file.as_os_str()])?;
    ensure!(content_key.len() == 32, "the content key has {} bytes", content_key.len());
    others_encrypt(peers, &vault, &recipient, &unattended, folder)?;

    wrong_pins(peers, &vault, &|| open(&unattended, "x"), &pin)?;
    let absent = Vault::empty(peers, folder, "absent")?;
    refused(absent.choose(&mut open(&unattended, "x")?), "no token with label `vault` is there")?;
    let twin = Vault::create(peers, folder, "twin")?;
    refused(twin.choose(&mut open(&unattended, "x")?), "it is not the one that the identity was made for")?;
    Ok(Outcome::Passed(
        "a bundle sealed to a token's key opens with the PIN at a terminal, from a file and from a descriptor; age opens its key file, \
         and the token opens what age and age-encryption encrypt; wrong PIN, locked out file, absent token, other key: named"
            .to_owned(),
    ))
}

/// A folder of SoftHSM's, the plugin, and Debian's tools.
struct Vault {
    config: PathBuf,
    bin: PathBuf,
    plugin: PathBuf,
}

impl Vault {
    /// With one token that holds one key.
    fn create(peers: &Peers, folder: &Path, name: &str) -> Result<Self> {
        let vault = Self::empty(peers, folder, name)?;
        let softhsm = peers.debian_package("softhsm2-util", "softhsm2")?;
        let token = ["--init-token", "--free", "--label", LABEL, "--pin", PIN, "--so-pin", "8800"];
        run(vault.choose(Command::new(softhsm).args(token)))?;
        let key = ["--keypairgen", "--key-type", "EC:prime256v1", "--usage-derive", "--id", "01", "--label", "models"];
        run(vault.pkcs11_tool(peers)?.args(key))?;
        Ok(vault)
    }

    /// Without a token.
    fn empty(peers: &Peers, folder: &Path, name: &str) -> Result<Self> {
        let (tokens, bin, plugin) = (folder.join(name).join("tokens"), folder.join("bin"), peers.plugin()?);
        std::fs::create_dir_all(&tokens)?;
        std::fs::create_dir_all(&bin)?;
        for name in ["age-plugin-pkcs11", "age-plugin-tag"].map(|name| bin.join(name)).iter().filter(|name| !name.exists()) {
            std::os::unix::fs::symlink(&plugin, name)?;
        }
        let config = folder.join(name).join("softhsm2.conf");
        std::fs::write(&config, format!("directories.tokendir = {}\nlog.level = ERROR\n", tokens.display()))?;
        Ok(Self { config, bin, plugin })
    }

    /// Has `command` see these tokens.
    fn choose<'a>(&self, command: &'a mut Command) -> &'a mut Command {
        command.env("SOFTHSM2_CONF", &self.config)
    }

    /// The same, and find the plugin.
    fn with_plugin(&self, mut command: Command) -> Command {
        let mut path = OsString::from(&self.bin);
        path.push(":");
        path.push(std::env::var_os("PATH").unwrap_or_default());
        self.choose(command.env("PATH", path));
        command
    }

    /// Logged in.
    fn pkcs11_tool(&self, peers: &Peers) -> Result<Command> {
        let mut command = Command::new(peers.debian_package("pkcs11-tool", "opensc")?);
        self.choose(command.args(["--module", MODULE, "--token-label", LABEL, "--login", "--pin", PIN]));
        Ok(command)
    }

    /// Writes what the plugin lists: an identity file.
    fn identity(&self, path: &Path, more: &[&std::ffi::OsStr]) -> Result<()> {
        let mut command = Command::new(&self.plugin);
        let listed = output(self.choose(command.args(["--module", MODULE]).args(more)))?;
        Ok(std::fs::write(path, listed)?)
    }

    /// Standard output of Debian's age with the plugin.
    fn age(&self, peers: &Peers, arguments: &[&std::ffi::OsStr]) -> Result<Vec<u8>> {
        let out = self.with_plugin(Command::new(peers.debian("age")?)).args(arguments).stdin(Stdio::null()).output()?;
        ensure!(out.status.success(), "age: {}", String::from_utf8_lossy(&out.stderr));
        Ok(out.stdout)
    }
}

fn recipient(identity: &Path) -> Result<String> {
    let text = std::fs::read_to_string(identity)?;
    let line = text.lines().find_map(|line| line.strip_prefix("# recipient: "));
    Ok(line.context("the plugin lists a recipient")?.to_owned())
}

/// Runs `command` at a terminal of its own and types the PIN, which must not be shown.
fn at_a_terminal(command: &mut Command) -> Result<()> {
    let words = std::iter::once(command.get_program()).chain(command.get_args()).map(|word| word.to_string_lossy());
    let line = words.map(|word| format!("'{word}'")).collect::<Vec<_>>().join(" ");
    let mut terminal = Command::new("script");
    terminal.args(["--quiet", "--return", "--command", &line, "/dev/null"]);
    terminal.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let mut child = terminal.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().context("script")?;
    let mut keyboard = child.stdin.take().context("a keyboard")?;
    // Kept open until the command has ended: its end would be typed as well.
    let typed = std::thread::spawn(move || {
        std::thread::sleep(std::time::Duration::from_secs(3));
        keyboard.write_all(format!("{PIN}\n").as_bytes()).map(|()| keyboard)
    });
    let out = child.wait_with_output()?;
    typed.join().ok().context("typing")?.context("typing")?;
    let shown = String::from_utf8_lossy(&out.stdout);
    ensure!(out.status.success() && shown.contains("PIN of token `vault`"), "at a terminal: {shown}");
    ensure!(!shown.contains(PIN), "the PIN was shown: {shown}");
    Ok(())
}

/// The PIN comes through a pipe, of which it can be read but once.
fn by_descriptor(vault: &Vault, open: &dyn Fn(&Path, &str) -> Result<Command>, folder: &Path) -> Result<()> {
    let identity = folder.join("descriptor");
    vault.identity(&identity, &["--pin-source".as_ref(), "/dev/fd/3".as_ref()])?;
    let command = open(&identity, "by-descriptor")?;
    let mut shell = Command::new("sh");
    shell
        .args(["-c", "printf '%s\n' \"$PIN\" | \"$@\" 3<&0 </dev/null", "sh"])
        .arg(command.get_program())
        .args(command.get_args());
    shell.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?)))).env("PIN", PIN);
    run(&mut shell)
}

/// Debian's age (which knows no tagged recipients and asks `age-plugin-tag`) and npm's age-encryption encrypt, the token opens.
fn others_encrypt(peers: &Peers, vault: &Vault, recipient: &str, identity: &Path, folder: &Path) -> Result<()> {
    let (plain, by_age, by_npm) = (folder.join("plain"), folder.join("by-age.age"), folder.join("by-npm.age"));
    std::fs::write(&plain, "word")?;
    vault.age(peers, &["-r".as_ref(), recipient.as_ref(), "-o".as_ref(), by_age.as_os_str(), plain.as_os_str()])?;
    node(peers, "age_tagged.mjs", &[recipient, by_npm.to_str().context("a path in UTF-8")?])?;
    for file in [by_age, by_npm] {
        let opened = vault.age(peers, &["-d".as_ref(), "-i".as_ref(), identity.as_os_str(), file.as_os_str()])?;
        ensure!(opened == b"word", "{}: {:?}", file.display(), String::from_utf8_lossy(&opened));
    }
    Ok(())
}

/// A wrong PIN is named and not given a second time; a login by hand mends it.
fn wrong_pins(peers: &Peers, vault: &Vault, open: &dyn Fn() -> Result<Command>, pin: &Path) -> Result<()> {
    std::fs::write(pin, "000000\n")?;
    refused(&mut open()?, "token `vault` refuses the PIN: it is wrong")?;
    refused(&mut open()?, "is not tried on it")?;
    std::fs::write(pin, format!("{PIN}\n"))?;
    refused(&mut open()?, "is not tried on it")?;
    run(vault.pkcs11_tool(peers)?.arg("--list-objects"))?;
    run(&mut open()?)
}

/// The command fails and says so.
fn refused(command: &mut Command, why: &str) -> Result<()> {
    let out = command.stdin(Stdio::null()).output()?;
    let said = String::from_utf8_lossy(&out.stderr);
    ensure!(!out.status.success() && said.contains(why) && !said.contains(PIN), "expected `{why}`: {said}");
    Ok(())
}

fn same(expected: &Path, opened: &Path) -> Result<()> {
    run(Command::new("diff").arg("--recursive").arg(expected).arg(opened))
}
