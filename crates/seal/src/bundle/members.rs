//! `keys/recipients`: who a bundle is sealed to, sealed itself. age files do not name their recipients, so without this list nobody
//! could be taken away.

use super::{
    BundleError,
    layout::{BundleId, ContentKey, KEYS, aad, padded},
};
use crate::{Recipient, floe};
use serde::{Deserialize, Serialize};
use std::path::Path;
use zeroize::Zeroizing;

/// Name of the list inside `keys/`.
pub(super) const LIST: &str = "recipients";
/// What stands in the list for a passphrase.
pub(super) const PASSPHRASE: &str = "passphrase";
const MAX_MEMBERS: usize = 10_000;
const MAX_KEY_LEN: usize = 4096;

/// Somebody who can open a bundle.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// `age1…`, `ssh-rsa …` and so on, or `passphrase`.
    pub key: String,
    /// There by policy, so that what was sealed is never lost; not to be taken away in passing.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub recovery: bool,
}

#[derive(Serialize, Deserialize)]
struct List {
    recipients: Vec<Member>,
}

/// The members that `recipients` are, each once.
pub(super) fn of(recipients: &[Recipient]) -> Vec<Member> {
    let mut members: Vec<Member> = Vec::new();
    for recipient in recipients {
        let (key, recovery) = (recipient.to_string(), recipient.is_recovery());
        match members.iter_mut().find(|member| member.key == key) {
            Some(member) => member.recovery |= recovery,
            None => members.push(Member { key, recovery }),
        }
    }
    members
}

pub(super) fn seal(members: &[Member], key: &ContentKey, id: &BundleId) -> Result<Vec<u8>, BundleError> {
    let failed = |what: String| BundleError::Recipients(what);
    let list = List { recipients: members.to_vec() };
    let mut json = Zeroizing::new(serde_json::to_vec(&list).map_err(|e| failed(e.to_string()))?);
    let length = padded(json.len() as u64).ok_or_else(|| failed("there are too many".into()))?;
    json.resize(length as usize, b' ');
    floe::seal(&key.derive(LIST), &aad(id, &format!("{KEYS}/{LIST}")), super::layout::SEGMENT_LEN, &json)
        .map_err(|_| BundleError::Cipher(format!("{KEYS}/{LIST}")))
}

pub(super) fn open(sealed: &[u8], path: &Path, key: &ContentKey, id: &BundleId) -> Result<Vec<Member>, BundleError> {
    let json = floe::open(&key.derive(LIST), &aad(id, &format!("{KEYS}/{LIST}")), sealed)
        .map_err(BundleError::floe(path, "keys/recipients"))?;
    parse(&json).map_err(|what| BundleError::invalid(path, format!("{KEYS}/{LIST}: {what}")))
}

fn parse(json: &[u8]) -> Result<Vec<Member>, String> {
    let List { recipients } = serde_json::from_slice(json).map_err(|e| e.to_string())?;
    if recipients.is_empty() || recipients.len() > MAX_MEMBERS {
        return Err(format!("{} recipients; 1 to {MAX_MEMBERS} can be", recipients.len()));
    }
    let bad = |key: &str| key.is_empty() || key.len() > MAX_KEY_LEN || key.contains(|c: char| !(' '..='~').contains(&c));
    match recipients.iter().position(|member| bad(&member.key)) {
        Some(at) => Err(format!("recipient {at} is no key")),
        None => Ok(recipients),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bad_lists() {
        let list = |key: &str| format!(r#"{{"recipients":[{{"key":"{key}"}}]}}"#);
        assert_eq!(parse(list("age1x").as_bytes()).unwrap(), [Member { key: "age1x".into(), recovery: false }]);
        let many = format!(r#"{{"recipients":[{}]}}"#, [r#"{"key":"a"}"#; MAX_MEMBERS + 1].join(","));
        for bad in ["", "{}", r#"{"recipients":[]}"#, &list(""), &list(&"x".repeat(4097)), &list(r"\u001b[2J"), &list("ä"), &many]
        {
            assert!(parse(bad.as_bytes()).is_err(), "{bad:.80}");
        }
    }
}
