//! `kill -9` in the middle of whatever writes bundles.

use super::Outcome;
use crate::peers::{Peers, output, run};
use anyhow::{Context, Result, ensure};
use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

const KILLS: u32 = 200;
/// Bytes that are sealed: 46 segments, so that a kill often falls between two.
const SIZE: u32 = 12_000_000;

/// Kills seal, open, rekey and rekey --rotate at ever other moments, from the first to somewhat after each would have ended. What was there opens whole after each; what is half made is not
/// under its final name; and in the end one more run of each finds nothing in its way and leaves nothing behind.
pub(crate) fn nothing_is_lost(peers: &Peers, folder: &Path) -> Result<Outcome> {
    let at = |name: &str| folder.join(name).display().to_string();
    let [model, key, other, bundle, sealed, opened] = ["model.bin", "key", "other", "b", "sealed", "opened"].map(at);
    let content: Vec<u8> = (0..SIZE).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    fs::write(&model, &content)?;
    let recipient = output(peers.coffer("keygen")?.args(["-o", &key]))?;
    let second = output(peers.coffer("keygen")?.args(["-o", &other]))?;
    let (recipient, second) = (recipient.trim(), second.trim());
    run(peers.coffer("seal")?.args([&model, "-o", &bundle, "-r", recipient]))?;
    let runs: [(&str, &[&str]); 4] = [
        ("seal", &[&model, "-o", &sealed, "-r", recipient]),
        ("open", &[&bundle, "-i", &key, "-o", &opened]),
        ("rekey", &[&bundle, "-i", &key, "--add", second]),
        ("rekey", &[&bundle, "-i", &key, "--rotate"]),
    ];
    let opens = |bundle: &str| -> Result<bool> {
        let check = at("check");
        run(peers.coffer("open")?.args([bundle, "-i", &key, "-o", &check]))?;
        let whole = fs::read(Path::new(&check).join("model.bin"))? == content;
        fs::remove_dir_all(check)?;
        Ok(whole)
    };
    let mut whole = Vec::new();
    for (command, arguments) in runs {
        let start = Instant::now();
        run(peers.coffer(command)?.args(arguments))?;
        whole.push(start.elapsed());
    }
    fs::remove_dir_all(&sealed)?;
    fs::remove_dir_all(&opened)?;
    let (mut killed, mut left, mut done) = (0, 0, 0);
    for kill in 0..KILLS {
        let (kind, moment) = ((kill % 4) as usize, kill / 4 + 1);
        let (command, arguments) = runs[kind];
        let mut child = peers.coffer(command)?.args(arguments).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
        std::thread::sleep(whole[kind] * moment / (KILLS / 4 * 4 / 5));
        child.kill()?;
        killed += usize::from(child.wait()?.code().is_none());
        left += leftovers(folder)?.min(1);
        ensure!(opens(&bundle)?, "kill {kill} ({command}): the bundle lost something");
        if Path::new(&sealed).exists() {
            ensure!(opens(&sealed)?, "kill {kill}: what seal made is not whole");
            fs::remove_dir_all(&sealed)?;
            done += 1;
        }
        if Path::new(&opened).exists() {
            ensure!(fs::read(Path::new(&opened).join("model.bin"))? == content, "kill {kill}: what open made is not whole");
            fs::remove_dir_all(&opened)?;
            done += 1;
        }
    }
    for (command, arguments) in runs {
        run(peers.coffer(command)?.args(arguments)).with_context(|| format!("{command} after {KILLS} kills"))?;
    }
    ensure!(leftovers(folder)? == 0, "a temporary folder is left");
    Ok(Outcome::Passed(format!(
        "{killed} of {KILLS} runs killed in time, {left} of them with something half made that the next run removed, {done} outputs \
         whole; nothing lost"
    )))
}

/// Kills quantize again and again until it is done: later than its first note each time, so that it gets on.
pub(crate) fn work_goes_on(peers: &Peers, folder: &Path) -> Result<Outcome> {
    let text = peers.root().join("assets/text/calibration.txt").display().to_string();
    let mut said = Vec::new();
    for (name, flags) in [("IQ4_NL", &["--threads", "1"][..]), ("Q4_K_M", &["--max-tokens", "256", "--text", &text][..])] {
        let place = folder.join(name);
        fs::create_dir(&place)?;
        let (kills, kept) = killed_until_done(peers, &place, &[&["--type", name], flags].concat())?;
        said.push(format!("{name}: {kills} kills, the last run found {kept} tensors"));
    }
    Ok(Outcome::Passed(format!("{}; the bytes of runs that were not killed", said.join("; "))))
}

/// Quantizes in `folder`, killed and not killed, to the same bytes; gives the kills, and the tensors that the last run found.
fn killed_until_done(peers: &Peers, folder: &Path, flags: &[&str]) -> Result<(u32, u64)> {
    let (model, whole, out) = (peers.smollm2()?, folder.join("whole.gguf"), folder.join("out.gguf"));
    let quantize = |out: &Path| -> Result<Command> {
        let mut command = peers.coffer("quantize")?;
        command.arg(&model).args(flags).args(["--requantize", "--no-eval", "--json", "-o"]).arg(out);
        Ok(command)
    };
    run(&mut quantize(&whole)?)?;
    let journal = folder.join("out.gguf.partial/.journal");
    let (mut kills, mut noted) = (0, 0);
    let kept = loop {
        let mut child = quantize(&out)?.stdout(Stdio::piped()).stderr(Stdio::null()).spawn()?;
        let done = loop {
            if child.try_wait()?.is_some() {
                break true;
            }
            let lines = fs::read_to_string(&journal).map_or(0, |text| text.lines().count());
            if lines > noted.max(1) {
                noted = lines;
                break false;
            }
            std::thread::sleep(Duration::from_millis(20));
        };
        if done {
            let out = child.wait_with_output()?;
            ensure!(out.status.success(), "quantize failed");
            let said: serde_json::Value = serde_json::from_slice(&out.stdout)?;
            break said["kept"].as_u64().unwrap_or(0);
        }
        child.kill()?;
        child.wait()?;
        kills += 1;
    };
    ensure!(kept > 0, "the work was too short to be interrupted");
    ensure!(fs::read(&out)? == fs::read(&whole)?, "what was interrupted has other bytes");
    ensure!(fs::read_dir(folder)?.count() == 2, "something is left");
    Ok((kills, kept))
}

fn leftovers(folder: &Path) -> Result<usize> {
    let mut names = fs::read_dir(folder)?.map(|entry| Ok(entry?.file_name())).collect::<Result<Vec<_>>>()?;
    names.retain(|name| name.to_string_lossy().ends_with(".tmp"));
    Ok(names.len())
}
