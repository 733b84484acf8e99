//! The age plugin protocol (C2SP age-plugin.md): opening with `AGE-PLUGIN-PKCS11-1…`, and encrypting to it.

use crate::{
    identity::{Identity, PLUGIN_NAME},
    pin,
    stanza::Tagged,
    token::Module,
};
use age::Recipient as _;
use age_core::{
    format::{FileKey, Stanza},
    primitives::bech32_encode,
};
use age_plugin::{
    Callbacks, PluginHandler,
    identity::{self, IdentityPluginV1},
    recipient::{self, RecipientPluginV1},
};
use bech32::Hrp;
use std::{
    collections::{HashMap, HashSet},
    io,
};

/// The plugin's name in `age1tag1…`: clients that do not know such recipients themselves call `age-plugin-tag`, which may be this program.
const TAG: &str = "tag";

/// Answers a client on stdin and stdout; `state` is what it passed as `--age-plugin`.
pub fn run(state: &str) -> io::Result<()> {
    age_plugin::run_state_machine(state, Handler)
}

struct Handler;

impl PluginHandler for Handler {
    type RecipientV1 = Recipients;
    type IdentityV1 = Identities;

    fn recipient_v1(self) -> io::Result<Recipients> {
        Ok(Recipients::default())
    }

    fn identity_v1(self) -> io::Result<Identities> {
        Ok(Identities::default())
    }
}

/// Identities, each with the client's number for it.
#[derive(Default)]
struct Identities(Vec<(usize, Identity)>);

impl IdentityPluginV1 for Identities {
    fn add_identity(&mut self, index: usize, name: &str, bytes: &[u8]) -> Result<(), identity::Error> {
        let identity = parse(name, bytes).map_err(|message| identity::Error::Identity { index, message })?;
        self.0.push((index, identity));
        Ok(())
    }

    fn unwrap_file_keys(
        &mut self,
        files: Vec<Vec<Stanza>>,
        mut callbacks: impl Callbacks<identity::Error>,
    ) -> io::Result<HashMap<usize, Result<FileKey, Vec<identity::Error>>>> {
        let mut opened = HashMap::new();
        for (file_index, stanzas) in files.iter().enumerate() {
            if let Some(result) = self.unwrap(file_index, stanzas, &mut callbacks)? {
                opened.insert(file_index, result);
            }
        }
        Ok(opened)
    }
}

impl Identities {
    /// `None` if no stanza is for any of the identities. What is tried is tried once: a wrong PIN must not be given twice.
    fn unwrap(
        &self,
        file_index: usize,
        stanzas: &[Stanza],
        callbacks: &mut impl Callbacks<identity::Error>,
    ) -> io::Result<Option<Result<FileKey, Vec<identity::Error>>>> {
        let (mut ours, mut malformed) = (Vec::new(), Vec::new());
        for (stanza_index, stanza) in stanzas.iter().enumerate() {
            match Tagged::parse(stanza) {
                Some(Ok(tagged)) => ours.push(tagged),
                Some(Err(e)) => malformed.push(identity::Error::Stanza { file_index, stanza_index, message: e.to_string() }),
                None => (),
            }
        }
        if !malformed.is_empty() {
            return Ok(Some(Err(malformed)));
        }
        let mut pairs = ours.iter().flat_map(|stanza| self.0.iter().map(move |identity| (stanza, identity)));
        let Some((stanza, (index, identity))) = pairs.find(|(stanza, (_, identity))| stanza.is_for(&identity.key)) else {
            return Ok(None);
        };
        let opened = open(identity, stanza, callbacks)?;
        Ok(Some(opened.map_err(|message| vec![identity::Error::Identity { index: *index, message }])))
    }
}

/// Asks the token. The inner error is for the user.
fn open<E>(identity: &Identity, stanza: &Tagged, callbacks: &mut impl Callbacks<E>) -> io::Result<Result<FileKey, String>> {
    let module = match Module::load(&identity.uri.module_path) {
        Ok(module) => module,
        Err(e) => return Ok(Err(e.to_string())),
    };
    let token = match module.token(&identity.uri) {
        Ok(token) => token,
        Err(e) => return Ok(Err(e.to_string())),
    };
    let pin = match pin::obtain(&identity.uri, &token, callbacks)? {
        Ok(pin) => pin,
        Err(message) => return Ok(Err(message)),
    };
    let agreed = match token.agree(&identity.uri, stanza.point(), pin.as_ref()) {
        Ok(agreed) => agreed,
        Err(e) => return Ok(Err(e.to_string())),
    };
    let other = || {
        format!(
            "the key on token `{}` does not open this: it is not the one that the identity was made for ({}), or the file was changed",
            token.label(),
            identity.recipient()
        )
    };
    Ok(stanza.open(&identity.key, &agreed).ok_or_else(other))
}

/// Who is encrypted to.
#[derive(Default)]
struct Recipients(Vec<age::tag::Recipient>);

impl RecipientPluginV1 for Recipients {
    fn add_recipient(&mut self, index: usize, name: &str, bytes: &[u8]) -> Result<(), recipient::Error> {
        let text = bech32_encode(Hrp::parse_unchecked("age1tag"), bytes);
        let key = if name == TAG { text.parse() } else { Err("recipients of this plugin begin with age1tag1") };
        self.0.push(key.map_err(|why: &str| recipient::Error::Recipient { index, message: why.into() })?);
        Ok(())
    }

    fn add_identity(&mut self, index: usize, name: &str, bytes: &[u8]) -> Result<(), recipient::Error> {
        let refused = |message| recipient::Error::Identity { index, message };
        let identity = parse(name, bytes).map_err(refused)?;
        self.0.push(identity.recipient().parse().map_err(|why: &str| refused(why.into()))?);
        Ok(())
    }

    fn labels(&mut self) -> HashSet<String> {
        HashSet::new()
    }

    fn wrap_file_keys(
        &mut self,
        file_keys: Vec<FileKey>,
        _: impl Callbacks<recipient::Error>,
    ) -> io::Result<Result<Vec<Vec<Stanza>>, Vec<recipient::Error>>> {
        let wrap = |key: &FileKey| {
            let stanzas = self.0.iter().map(|recipient| recipient.wrap_file_key(key));
            let all = stanzas.map(|wrapped| wrapped.map(|(stanzas, _)| stanzas)).collect::<Result<Vec<_>, _>>();
            all.map(|all| all.into_iter().flatten().collect())
        };
        let wrapped: Result<Vec<_>, _> = file_keys.iter().map(wrap).collect();
        Ok(wrapped.map_err(|e| vec![recipient::Error::Internal { message: e.to_string() }]))
    }
}

fn parse(name: &str, bytes: &[u8]) -> Result<Identity, String> {
    match name {
        PLUGIN_NAME => Identity::from_bytes(bytes).map_err(|e| e.to_string()),
        name => Err(format!("an identity of age-plugin-{name}, not of age-plugin-{PLUGIN_NAME}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::uri::Uri;

    /// Nobody may be asked anything.
    struct Silent;

    impl<E> Callbacks<E> for Silent {
        fn message(&mut self, _: &str) -> age_core::plugin::Result<()> {
            panic!("a message")
        }

        fn confirm(&mut self, _: &str, _: &str, _: Option<&str>) -> age_core::plugin::Result<bool> {
            panic!("a confirmation")
        }

        fn request_public(&mut self, _: &str) -> age_core::plugin::Result<String> {
            panic!("a question")
        }

        fn request_secret(&mut self, _: &str) -> age_core::plugin::Result<age_core::secrecy::SecretString> {
            panic!("a PIN")
        }

        fn error(&mut self, _: E) -> age_core::plugin::Result<()> {
            panic!("an error")
        }
    }

    fn identity(seed: u8) -> Identity {
        let key = p256::SecretKey::from_slice(&[seed; 32]).unwrap().public_key();
        Identity { key, uri: Uri::parse("pkcs11:token=t?module-path=/none/such.so").unwrap() }
    }

    fn stanzas_for(seed: u8) -> Vec<Stanza> {
        let mut recipients = Recipients::default();
        let text = identity(seed).recipient();
        let bytes = age_core::primitives::bech32_decode(&text, |_| (), |_| Ok(()), |_, bytes| Ok(bytes.collect::<Vec<u8>>()));
        recipients.add_recipient(0, TAG, &bytes.unwrap()).ok().unwrap();
        let wrapped = recipients.wrap_file_keys(vec![FileKey::new(Box::new([7; 16]))], Silent).unwrap();
        wrapped.ok().unwrap().remove(0)
    }

    fn messages(result: Option<Result<FileKey, Vec<identity::Error>>>) -> Vec<String> {
        let text = |e| match e {
            identity::Error::Identity { index, message } => format!("identity {index}: {message}"),
            identity::Error::Stanza { stanza_index, message, .. } => format!("stanza {stanza_index}: {message}"),
            identity::Error::Internal { message } => message,
        };
        result.unwrap().err().unwrap().into_iter().map(text).collect()
    }

    #[test]
    fn no_token_is_asked_about_what_is_not_for_it() {
        let identities = Identities(vec![(0, identity(1))]);
        let other = Stanza { tag: "X25519".into(), args: vec![], body: vec![] };
        for stanzas in [vec![], vec![other], stanzas_for(2)] {
            assert!(identities.unwrap(0, &stanzas, &mut Silent).unwrap().is_none());
        }
    }

    #[test]
    fn what_fails_is_named() {
        let identities = Identities(vec![(0, identity(1)), (4, identity(2))]);
        let missing = messages(identities.unwrap(0, &stanzas_for(2), &mut Silent).unwrap());
        assert!(missing.len() == 1 && missing[0].starts_with("identity 4: /none/such.so: not a PKCS#11 library"), "{missing:?}");
        let mut stanzas: Vec<_> = stanzas_for(3).into_iter().chain(stanzas_for(2)).collect();
        stanzas[0].body.pop();
        assert_eq!(
            messages(identities.unwrap(0, &stanzas, &mut Silent).unwrap()),
            ["stanza 0: p256tag: the body has 31 bytes, not 32"]
        );
    }

    #[test]
    fn other_plugins_keys_are_refused() {
        assert!(Identities::default().add_identity(0, "yubikey", b"").is_err());
        assert!(Identities::default().add_identity(0, PLUGIN_NAME, b"").is_err());
        assert!(Recipients::default().add_recipient(0, PLUGIN_NAME, &[2; 33]).is_err());
        for bytes in [&[][..], &[2; 32], &[0xff; 33], &[4; 65]] {
            assert!(Recipients::default().add_recipient(0, TAG, bytes).is_err());
        }
    }
}
