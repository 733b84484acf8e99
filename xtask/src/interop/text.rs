//! Token ids and chat templates beside tokenizers, llama.cpp and transformers.

use super::{NO_SHARED, Outcome};
use crate::{
    interop::numbers::{python, scribe},
    peers::{Peers, output},
};
use anyhow::{Context, Result, ensure};
use coffer_model::{Message, Tokenizer};
use std::{
    path::{Path, PathBuf},
    process::Command,
};

/// scribe-8m: the ids of every public text and of a nasty one equal `tokenizers`'.
pub(crate) fn tokenizers_ids(peers: &Peers, folder: &Path) -> Result<Outcome> {
    let path = scribe(peers);
    let tokenizer = coffer_store::open(&path, &[])?.tokenizer.context("scribe-8m has a tokenizer")?;
    let mut total = 0;
    let files = texts(peers, folder)?;
    for file in &files {
        let ids = tokenizer.encode(&std::fs::read_to_string(file)?, false)?;
        let ids_file = folder.join("ids");
        std::fs::write(&ids_file, ids.iter().flat_map(|i| i.to_le_bytes()).collect::<Vec<_>>())?;
        python(peers, "token_ids.py", &[&path.join("tokenizer.json"), file, &ids_file])?;
        total += ids.len();
    }
    Ok(Outcome::Passed(format!("{total} ids of {} texts are equal", files.len())))
}

/// SmolLM2's GGUF: the ids equal llama.cpp's.
pub(crate) fn llama_ids(peers: &Peers, folder: &Path) -> Result<Outcome> {
    let gguf = peers.smollm2()?;
    let tokenizer = coffer_store::open(&gguf, &[])?.tokenizer.context("SmolLM2 has a tokenizer")?;
    let mut total = 0;
    let files = texts(peers, folder)?;
    for file in &files {
        let ours = tokenizer.encode(&std::fs::read_to_string(file)?, false)?;
        let theirs = llama_tokenize(peers, &gguf, file)?;
        if let Some(at) = (0..ours.len().max(theirs.len())).find(|&i| ours.get(i) != theirs.get(i)) {
            let tail = |ids: &[u32]| decode(&tokenizer, &ids[at.saturating_sub(3)..ids.len().min(at + 4)]);
            anyhow::bail!("{}: id {at} differs: ours {:?}, llama.cpp {:?}", file.display(), tail(&ours), tail(&theirs));
        }
        total += ours.len();
    }
    Ok(Outcome::Passed(format!("{total} ids of {} texts are equal", files.len())))
}

/// SmolLM2's chat template renders as transformers renders it.
pub(crate) fn chat_template(peers: &Peers, folder: &Path) -> Result<Outcome> {
    let gguf = peers.smollm2()?;
    let template = coffer_store::open(&gguf, &[])?.template.context("SmolLM2 has a chat template")?;
    let turn = |role: &str, content: &str| Message { role: role.into(), content: content.into() };
    let conversations = [
        vec![turn("user", "Who wrote Emma?")],
        vec![
            turn("system", "Be brief.\nBe kind."),
            turn("user", " Hi! "),
            turn("assistant", "Hello."),
            turn("user", "{{ 7 * 7 }} <b>&amp;</b> é"),
        ],
    ];
    let (source, cases) = (folder.join("template.jinja"), folder.join("cases.json"));
    std::fs::write(&source, template.source())?;
    std::fs::write(&cases, serde_json::to_string(&conversations)?)?;
    let theirs: Vec<String> = serde_json::from_str(&python(peers, "chat_template.py", &[&source, &cases])?)?;
    for (conversation, theirs) in conversations.iter().zip(&theirs) {
        let ours = template.render(conversation, true)?;
        ensure!(&ours == theirs, "ours {ours:?}, transformers {theirs:?}");
    }
    Ok(Outcome::Passed(format!("{} conversations are equal", theirs.len())))
}

/// Our held-out text, a nasty one, and the public texts where they are at hand.
fn texts(peers: &Peers, folder: &Path) -> Result<Vec<PathBuf>> {
    let nasty = folder.join("nasty.txt");
    std::fs::write(&nasty, NASTY)?;
    let mut files = vec![peers.root().join("assets/text/holdout.txt"), nasty];
    if let Some(shared) = peers.shared() {
        for entry in std::fs::read_dir(shared.join("text"))? {
            files.push(entry?.path());
        }
    } else if let Outcome::Skipped(why) = NO_SHARED {
        println!("         the public texts: {why}");
    }
    files.sort();
    Ok(files)
}

fn llama_tokenize(peers: &Peers, gguf: &Path, text: &Path) -> Result<Vec<u32>> {
    let mut llama = Command::new(peers.llama("llama-tokenize")?);
    let printed =
        output(llama.arg("-m").arg(gguf).arg("-f").arg(text).args(["--ids", "--no-bos", "--no-escape", "--log-disable"]))?;
    let list = printed.lines().rev().find(|l| l.starts_with('[')).context("llama-tokenize printed no list")?;
    list.trim_matches(['[', ']']).split(',').filter(|s| !s.trim().is_empty()).map(|s| Ok(s.trim().parse()?)).collect()
}

fn decode(tokenizer: &Tokenizer, ids: &[u32]) -> String {
    tokenizer.decode(ids)
}

/// Combining marks, joiners, right-to-left, odd spaces, digits, controls, astral planes, code, trailing spaces.
const NASTY: &str = "e\u{301}\u{327} Z\u{335}\u{321}algo\u{489} 👩‍👩‍👧‍👦🏳️‍🌈🇫🇷\u{1f3fd} אבג العربية \u{202e}override\u{202c}\r\n\r\n\ttabs \u{a0}\u{a0}nbsp\u{2003}em \
\u{3000}ideographic 0123456789 1,234,567.89 ١٢٣ Ⅷ½ ' 's 't 're I'LL don't DON'T  two   three    spaces \n\n\n  newline \u{0}\u{1}\u{7f}\u{85}\u{200b}\u{feff} \
日本語テキスト 中文字符 한국어 ไทย हिन्दी 𝔘𝔫𝔦𝔠𝔬𝔡𝔢 \u{10ffff} ﬁ ß ẞ İ ı <s> </s> <unk> [INST] {\"a\": [1, 2]} fn main() -> i32 { 0x1F_u8 } https://example.org/?q=a%20b#c \
___ --- ... ?!?! \\n \\\\ \u{fffd}\u{fffd} trailing   ";
